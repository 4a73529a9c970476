"""Differences between what is believed and what is held are found exactly, with few bytes and few questions."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.coordinator.inventory import compare as inventory_compare
from holdfast.coordinator.inventory.compare import Believed, Comparison
from holdfast.inventory import Roots, inner_roots
from holdfast.wire import messages as m

VAULT = Id(b"\xfe" * 32)
MILLION = 1_000_000


class Ear:
    """Answers as a node that holds ``digests`` does, and counts what passes."""

    def __init__(self, digests: Iterable[Digest], roots: Roots | None = None) -> None:
        self.held = sorted(digests)
        self.bytes = 0
        self.questions = 0
        self._roots = roots or Roots(self.held)

    async def ask(self, query: m.InventoryQuery) -> m.InventoryPage:
        fields: dict[str, Any] = {}
        if query.inner is not None:
            firsts = [bytes.fromhex(prefix) for prefix in query.inner.split(".")]
            fields["inner"] = b"".join(inner_roots(self._under(prefix)) for prefix in firsts)
        elif query.prefix is None:
            fields["prefixes"] = self._roots.prefixes()
            fields["entries"] = [self._entry(digest) for digest in self.held[:1]]
        else:
            prefixes = [bytes.fromhex(prefix) for prefix in query.prefix.split(".")]
            found = [d for prefix in prefixes for d in self._under(prefix) if query.past is None or d > query.past]
            fields["entries"] = [self._entry(digest) for digest in found[: query.limit]]
        page = m.InventoryPage(
            **{"entries": [], **fields}, sequence=1 << 44, count=len(self.held), root=self._roots.root
        )
        self.questions += 1
        self.bytes += len(m.encode(page)) + len(m.encode(query))
        read = m.decode(m.encode(page), m.InventoryPage)
        assert msgspec.structs.asdict(read) == msgspec.structs.asdict(page)
        return read

    def _under(self, prefix: bytes) -> list[Digest]:
        first = bisect_left(self.held, prefix)
        return self.held[first : bisect_left(self.held, prefix.ljust(DIGEST_BYTES + 1, b"\xff"), first)]

    def _entry(self, digest: Digest) -> m.InventoryEntry:
        return m.InventoryEntry(sequence=1 << 44, digest=digest, size=16 << 20, vault=VAULT, here=True)


async def differences(
    believed: Iterable[Digest], ear: Ear, roots: bytes | None = None
) -> tuple[set[Digest], set[Digest]]:
    """(believed and not held, held and not believed)."""
    ours = Believed(believed)
    if roots is None:
        roots = Roots(digest for first in range(256) for digest in ours.under(bytes([first]))).prefixes()
    missing, unknown = set[Digest](), set[Digest]()
    async for part in Comparison(ours, roots, ear.ask).parts():
        missing.update(digest for digest in part.believed if digest not in part.held)
        unknown.update(part.held.keys() - set(part.believed))
    return missing, unknown


near = st.sampled_from([b"\x00\x00", b"\x00\x01", b"\x00\xff", b"\x7f\x80", b"\xff\xff"])
digests = st.builds(lambda head, seed: Digest(head + Digest.of(head + seed)[2:]), near, st.binary(max_size=4))


@given(st.sets(digests, max_size=40), st.sets(digests, max_size=40), st.sampled_from([0, 16]))
@settings(deadline=None)
async def test_it_finds_exactly_what_differs(believed: set[Digest], held: set[Digest], listed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory_compare, "LISTED_MAX", listed)
        assert await differences(believed, Ear(held)) == (believed - held, held - believed)


async def test_a_hundred_differences_in_a_million_cost_five_questions_and_a_megabyte() -> None:
    chance = random.Random(11)
    believed = [Digest(chance.randbytes(DIGEST_BYTES)) for _ in range(MILLION)]
    lost, new = believed[:50], [Digest(chance.randbytes(DIGEST_BYTES)) for _ in range(50)]
    roots = Roots(believed)
    ours = roots.prefixes()
    for digest in lost:
        roots.remove(digest)
    for digest in new:
        roots.add(digest)
    ear = Ear([*believed[50:], *new], roots)
    assert await differences(believed, ear, ours) == (set(lost), set(new))
    assert ear.questions <= 5
    assert ear.bytes <= 1_000_000
    print(f"{ear.questions} questions, {ear.bytes} bytes")


async def test_equal_sides_cost_one_question() -> None:
    held = [Digest.of(str(number).encode()) for number in range(1000)]
    ear = Ear(held)
    assert await differences(held, ear) == (set(), set())
    assert ear.questions == 1
