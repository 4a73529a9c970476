"""Finds where what a node holds differs from what is believed of it, with few questions and few bytes.

The 256 prefix roots are compared first. Where many blobs lie under a prefix, one more question brings the inner roots
of all prefixes that differ. Then only what lies under differing prefixes is listed (docs/design.md, 6, Heartbeat). It
asks and compares; what follows from it is the caller's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import NamedTuple, TypeAlias

from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.errors import Unavailable
from holdfast.inventory import INNERS_BYTES, PREFIXES, differing, differing_inside, inner_roots
from holdfast.wire import messages as m

LISTED_MAX = 16
"""Blobs under a prefix that are listed at once: inner roots would be more bytes."""

Ask: TypeAlias = Callable[[m.InventoryQuery], Awaitable[m.InventoryPage]]


class Believed:
    """Digests, each once, by their first bytes."""

    def __init__(self, digests: Iterable[Digest]) -> None:
        self._by_first: list[list[Digest]] = [[] for _ in range(PREFIXES)]
        self.count = 0
        for digest in digests:
            self._by_first[digest[0]].append(digest)
            self.count += 1
        for some in self._by_first:
            some.sort()

    def under(self, prefix: bytes) -> list[Digest]:
        """Ascending, those that begin with ``prefix`` (one byte or more)."""
        some = self._by_first[prefix[0]]
        if len(prefix) == 1:
            return some
        first = bisect_left(some, prefix)
        last = bisect_left(some, prefix.ljust(DIGEST_BYTES + 1, b"\xff"), first)
        return some[first:last]


class Part(NamedTuple):
    """What the node holds under ``prefixes``, and what is believed to be there."""

    prefixes: list[bytes]
    held: dict[Digest, m.InventoryEntry]
    believed: list[Digest]


class Comparison:
    """One comparison with one node. ``roots``: ``Roots.prefixes`` of ``believed``."""

    def __init__(self, believed: Believed, roots: bytes, ask: Ask) -> None:
        self.sequence = 0
        """The node's last write sequence before anything was compared."""
        self._believed = believed
        self._roots = roots
        self._ask = ask

    async def parts(self) -> AsyncIterator[Part]:
        """Everything under prefixes that differ, in parts of bounded size; what is under none of them is the same."""
        first = await self._ask(m.InventoryQuery(limit=1))
        self.sequence = first.sequence
        prefixes = [bytes([prefix]) for prefix in differing(self._roots, first.prefixes)]
        if max(self._believed.count, first.count) > LISTED_MAX * PREFIXES and prefixes:
            prefixes = await self._narrowed(prefixes)
        for start in range(0, len(prefixes), m.INVENTORY_PREFIXES_MAX):
            some = prefixes[start : start + m.INVENTORY_PREFIXES_MAX]
            held = await self._list(some)
            yield Part(some, held, [digest for prefix in some for digest in self._believed.under(prefix)])

    async def _narrowed(self, prefixes: list[bytes]) -> list[bytes]:
        """The prefixes of two bytes that differ, under those of one byte that do."""
        page = await self._ask(m.InventoryQuery(inner=_text(prefixes), limit=1))
        if len(page.inner) != INNERS_BYTES * len(prefixes):
            raise Unavailable("a node sent other inner roots than it was asked for")
        found: list[bytes] = []
        for number, prefix in enumerate(prefixes):
            theirs = page.inner[number * INNERS_BYTES : (number + 1) * INNERS_BYTES]
            ours = inner_roots(self._believed.under(prefix))
            found += [prefix + bytes([second]) for second in differing_inside(ours, theirs)]
        return found

    async def _list(self, prefixes: list[bytes]) -> dict[Digest, m.InventoryEntry]:
        text, asked = _text(prefixes), frozenset(prefixes)
        held: dict[Digest, m.InventoryEntry] = {}
        past: Digest | None = None
        while True:
            page = await self._ask(m.InventoryQuery(prefix=text, past=past))
            for entry in page.entries:
                if past is not None and entry.digest <= past:
                    raise Unavailable("an inventory does not ascend")
                past = entry.digest
                if not (past[:1] in asked or past[:2] in asked):
                    raise Unavailable("an inventory goes beyond the prefixes that were asked for")
                if entry.here:
                    held[past] = entry
            if len(page.entries) < m.PAGE_MAX:
                return held


def _text(prefixes: Iterable[bytes]) -> str:
    return ".".join(prefix.hex() for prefix in prefixes)
