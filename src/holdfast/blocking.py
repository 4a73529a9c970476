"""``holdfast.blocking.Vault``: the vault for programs without an event loop; it has one in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from holdfast import sdk
from holdfast.blob import Buffer
from holdfast.pool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")

_END: Any = object()


def _waits(method: Callable[Concatenate[sdk.Vault, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Vault, P], T]:
    """The same method, returning when it is done. What it calls back it calls in another thread."""

    @functools.wraps(method)
    def call(self: Vault, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(method(self._vault, *args, **kwargs))

    return call


def _iterates(
    method: Callable[Concatenate[sdk.Vault, P], AsyncIterator[T]],
) -> Callable[Concatenate[Vault, P], Iterator[T]]:
    """The same items in order; close the iterator if you do not read it to its end."""

    @functools.wraps(method)
    def call(self: Vault, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._pushed(method(self._vault, *args, **kwargs))

    return call


def _takes_iterables(
    method: Callable[Concatenate[sdk.Vault, Path | Buffer | AsyncIterable[Buffer], P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Vault, Path | Buffer | Iterable[Buffer], P], T]:
    """As ``_waits``; a plain iterable of buffers is read in a thread."""

    @functools.wraps(method)
    def call(self: Vault, source: Path | Buffer | Iterable[Buffer], /, *args: P.args, **kwargs: P.kwargs) -> T:
        given = source if isinstance(source, Path | bytes | bytearray | memoryview) else self._pulled(source)
        return self._do(method(self._vault, given, *args, **kwargs))

    return call


class Vault:
    """As ``holdfast.Vault``, each method returning when it is done. Any thread may call; calls run at once.

    Use ``with Vault.open() as vault``, or close it. Must not be used from inside an event loop.
    """

    def __init__(self, vault: sdk.Vault, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        """For ``open`` only."""
        self._vault = vault
        self._loop = loop
        self._thread = thread
        self._pool = ThreadPool(4, "blocking")

    @classmethod
    def open(
        cls, home: str | Path | None = None, *, passphrase: str | None = None, coordinator: str | None = None
    ) -> Self:
        """See ``holdfast.Vault.open``."""
        loop = asyncio.new_event_loop()
        # the one thread that is no pool's: an event loop lives in it as long as the vault
        thread = threading.Thread(target=loop.run_forever, name="holdfast-vault", daemon=True)
        thread.start()
        try:
            vault = _wait(loop, sdk.Vault.open(home, passphrase=passphrase, coordinator=coordinator))
        except BaseException:
            _end(loop, thread)
            raise
        return cls(vault, loop, thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is under way. May be called twice."""
        if self._loop.is_closed():
            return
        try:
            self._do(self._vault.close())
        finally:
            self._pool.close()
            _end(self._loop, self._thread)

    put = _takes_iterables(sdk.Vault.put)
    put_tree = _waits(sdk.Vault.put_tree)
    get = _waits(sdk.Vault.get)
    stream = _iterates(sdk.Vault.stream)
    read = _waits(sdk.Vault.read)
    list = _iterates(sdk.Vault.list)
    stat = _waits(sdk.Vault.stat)
    delete = _waits(sdk.Vault.delete)
    move = _waits(sdk.Vault.move)
    restore = _waits(sdk.Vault.restore)
    trash = _iterates(sdk.Vault.trash)
    log = _waits(sdk.Vault.log)
    verify = _waits(sdk.Vault.verify)
    flush = _waits(sdk.Vault.flush)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return _wait(self._loop, work)

    def _pushed(self, items: AsyncIterator[T]) -> Iterator[T]:
        """An async iterator of the loop as a plain one."""

        async def following() -> Any:
            return await anext(items, _END)

        async def close() -> None:
            if hasattr(items, "aclose"):
                await items.aclose()

        try:
            while (item := self._do(following())) is not _END:
                yield item
        finally:
            if not self._loop.is_closed():
                self._do(close())

    async def _pulled(self, items: Iterable[Buffer]) -> AsyncIterator[Buffer]:
        """A plain iterable of the caller's, read beside the loop."""
        source = iter(items)
        while (item := await self._pool.run(next, source, _END)) is not _END:
            yield item


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """The result; an interrupted caller (^C) cancels the work and waits for its end."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            with contextlib.suppress(Exception):
                future.result()
        raise


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    async def settle() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await loop.shutdown_asyncgens()

    _wait(loop, settle())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
