"""Copies a store's blobs to another: streamed, checked on arrival, and cheap to repeat.

What the target holds already is not read, so a copy that was interrupted goes on where it stopped, and a second run
copies only what came since. A blob that cannot be copied is reported and the others go on. Nothing is ever deleted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from holdfast.blob import Buffer, Digest
from holdfast.errors import Corrupt, DigestMismatch, HoldfastError, NoSpace, NotFound, TooLarge
from holdfast.stores.protocol import Info, Store
from holdfast.stores.side_by_side import side_by_side

PAGE = 500
AT_ONCE = 4
FAILURES_MAX = 1000
"""More are counted, but not named."""


class Failure(NamedTuple):
    """A blob that was not copied, and why."""

    digest: Digest
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What a copy has done so far."""

    seen: int = 0  # blobs listed
    seen_bytes: int = 0
    skipped: int = 0  # were there already
    copied: int = 0
    copied_bytes: int = 0
    failed: int = 0
    failures: tuple[Failure, ...] = ()


class Page(NamedTuple):
    """What to do about one page of the source's list."""

    send: list[Info]
    there: list[Info]
    cannot: list[tuple[Info, str]]  # and why


def plan_page(wanted: Sequence[Info], found: Sequence[Info | None], blob_bytes_max: int | None) -> Page:
    """``found`` is the target's answer to ``wanted``, in its order."""
    page = Page([], [], [])
    for info, there in zip(wanted, found, strict=True):
        if there == info:
            page.there.append(info)
        elif there is not None:
            page.cannot.append((info, f"the source lists {info.size} bytes, the target holds {there.size}"))
        elif blob_bytes_max is not None and info.size > blob_bytes_max:
            page.cannot.append((info, f"{info.size} bytes are more than the target takes ({blob_bytes_max})"))
        else:
            page.send.append(info)
    return page


async def copy(
    source: Store,
    target: Store,
    *,
    after: Digest | None = None,
    at_once: int = AT_ONCE,
    show: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Copies every blob above ``after``; the end's progress, with what failed.

    Raises only what ends a copy: a list that fails, a target that is full (NoSpace) or does not answer for a page.
    ``show`` is told after each blob and on the way through large ones.
    """
    progress = Progress()

    def tell(**changes: int) -> None:
        nonlocal progress
        progress = replace(progress, **{name: getattr(progress, name) + more for name, more in changes.items()})
        show(progress)

    def fail(info: Info, reason: str) -> None:
        nonlocal progress
        if len(progress.failures) < FAILURES_MAX:
            progress = replace(progress, failures=(*progress.failures, Failure(info.digest, reason)))
        tell(failed=1)

    async def send(info: Info) -> None:
        sent = 0

        def passed(count: int) -> None:
            nonlocal sent
            sent += count
            tell(copied_bytes=count)

        try:
            await send_one(source, target, info, passed)
        except NoSpace:
            raise
        except HoldfastError as error:
            tell(copied_bytes=-sent)
            fail(info, error.detail)
        else:
            tell(copied=1)

    while True:
        wanted = await source.list(after, PAGE)
        page = plan_page(wanted, await target.stat([info.digest for info in wanted]), target.traits.blob_bytes_max)
        tell(seen=len(wanted), seen_bytes=sum(info.size for info in wanted), skipped=len(page.there))
        for info, reason in page.cannot:
            fail(info, reason)
        await side_by_side(at_once, page.send, send)
        if len(wanted) < PAGE:
            return progress
        after = wanted[-1].digest


async def send_one(source: Store, target: Store, info: Info, passed: Callable[[int], None]) -> None:
    """One blob. Corrupt if the source's bytes are not what their digest says: the target kept nothing of them."""

    async def counted() -> AsyncIterator[Buffer]:
        async with source.get(info.digest) as body:
            if body.size != info.size:
                raise Corrupt(f"{info.digest} has {body.size} bytes in the source, which lists {info.size}")
            async for piece in body:
                passed(len(piece))
                yield piece

    try:
        await target.put(info.digest, info.size, counted())
    except DigestMismatch as error:
        raise Corrupt(f"the source's copy is damaged: {error.detail}") from error
    except NotFound as error:
        raise NotFound("it was deleted from the source meanwhile") from error
    except TooLarge as error:
        raise TooLarge(f"the target does not take it: {error.detail}") from error
