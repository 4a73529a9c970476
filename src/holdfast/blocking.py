"""``holdfast.blocking.Vault``: the vault for programs without an event loop; it has one in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from holdfast import sdk
from holdfast.blob import Buffer, Digest
from holdfast.client.vault import (
    Entry,
    MoveSummary,
    Progress,
    PutSummary,
    RestoreSummary,
    TrashEntry,
    VerifySummary,
    Version,
)
from holdfast.outbox.delivery import Summary
from holdfast.pool import ThreadPool

T = TypeVar("T")

_END: Any = object()


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

    def put(
        self,
        source: Path | Buffer | Iterable[Buffer],
        name: str,
        *,
        survive: int | None = None,
        allow_degraded: bool = False,
        no_clobber: bool = False,
        if_match: Digest | None = None,
        meta: Mapping[str, str] | None = None,
        dedup: bool = True,
        reread: bool = False,
        chunk_bytes: int | None = None,
        mode: int = 0o644,
        mtime_ns: int | None = None,
        offline: bool | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Entry:
        """As ``holdfast.Vault.put``; an iterable of buffers is read in a thread. ``progress`` is called in another."""
        given = source if isinstance(source, Path | bytes | bytearray | memoryview) else self._pulled(source)
        return self._do(
            self._vault.put(
                given, name, survive=survive, allow_degraded=allow_degraded, no_clobber=no_clobber, if_match=if_match,
                meta=meta, dedup=dedup, reread=reread, chunk_bytes=chunk_bytes, mode=mode, mtime_ns=mtime_ns,
                offline=offline, progress=progress,
            )
        )  # fmt: skip

    def put_tree(self, sources: Sequence[Path], name: str | None = None, **options: Any) -> PutSummary:
        """As ``holdfast.Vault.put_tree``, with its keywords."""
        return self._do(self._vault.put_tree(sources, name, **options))

    def get(
        self,
        name: str,
        target: Path,
        *,
        version: int | None = None,
        force: bool = False,
        fresh: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Entry:
        """As ``holdfast.Vault.get``."""
        return self._do(self._vault.get(name, target, version=version, force=force, fresh=fresh, progress=progress))

    def stream(
        self, name: str, start: int = 0, stop: int | None = None, *, version: int | None = None, fresh: bool = False
    ) -> Iterator[Buffer]:
        """The bytes in order; close the iterator if you do not read it to its end."""
        return self._pushed(self._vault.stream(name, start, stop, version=version, fresh=fresh))

    def read(
        self, name: str, start: int = 0, stop: int | None = None, *, version: int | None = None, fresh: bool = False
    ) -> bytes:
        """As ``holdfast.Vault.read``."""
        return self._do(self._vault.read(name, start, stop, version=version, fresh=fresh))

    def list(self, directory: str = "", *, recursive: bool = False, fresh: bool = False) -> Iterator[Entry]:
        """The entries; as ``holdfast.Vault.list``."""
        return self._pushed(self._vault.list(directory, recursive=recursive, fresh=fresh))

    def stat(self, name: str, *, version: int | None = None, fresh: bool = False) -> Entry:
        """As ``holdfast.Vault.stat``."""
        return self._do(self._vault.stat(name, version=version, fresh=fresh))

    def delete(
        self, name: str, *, recursive: bool = False, if_match: Digest | None = None, offline: bool | None = None
    ) -> int:
        """As ``holdfast.Vault.delete``."""
        return self._do(self._vault.delete(name, recursive=recursive, if_match=if_match, offline=offline))

    def flush(self) -> Summary:
        """As ``holdfast.Vault.flush``."""
        return self._do(self._vault.flush())

    def move(self, old: str, new: str, **options: Any) -> MoveSummary:
        """As ``holdfast.Vault.move``, with its keywords."""
        return self._do(self._vault.move(old, new, **options))

    def restore(self, name: str, **options: Any) -> RestoreSummary:
        """As ``holdfast.Vault.restore``, with its keywords."""
        return self._do(self._vault.restore(name, **options))

    def trash(self, directory: str = "", *, recursive: bool = False) -> Iterator[TrashEntry]:
        """The deleted names; as ``holdfast.Vault.trash``."""
        return self._pushed(self._vault.trash(directory, recursive=recursive))

    def log(self, name: str) -> Sequence[Version]:
        """As ``holdfast.Vault.log``."""
        return self._do(self._vault.log(name))

    def verify(self, names: Sequence[str] = (), **options: Any) -> VerifySummary:
        """As ``holdfast.Vault.verify``, with its keywords; ``found`` and ``progress`` are called in another thread."""
        return self._do(self._vault.verify(names, **options))

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
