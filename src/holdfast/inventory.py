"""What a store holds, in 16 bytes: roots that two sides compare without sending lists (docs/design.md, Heartbeat).

A root is the sum, modulo 2^128, of the last 16 bytes of the digests in a set; prefix roots are the same for the digests
that begin with one byte. Sums are updated in constant time as blobs come and go, in any order.

Collisions: a digest is a SHA-256, so its last 16 bytes are as good as those of any other hash of it. Two sets that
differ by accident (a lost file, a missed message) have the same root with probability 2^-128; a prefix root says no
less, because the byte that selects it is not among the bytes that are summed. Inner roots, one for each second byte,
are the last 8 bytes of such a sum: they agree by accident with probability 2^-64. A sum, unlike XOR, does not cancel
when a digest is counted twice by mistake. Whoever may choose blobs can construct two sets with one sum (generalised
birthday, far below 2^64 steps): a root therefore shows honest drift between two sides that both want to agree. It
proves possession to nobody; receipts and audits do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from holdfast.blob import Digest
from holdfast.errors import BadRequest

ROOT_BYTES = 16
PREFIXES = 256
ROOTS_BYTES = ROOT_BYTES * PREFIXES
INNER_BYTES = 8
INNERS_BYTES = INNER_BYTES * PREFIXES

_MODULUS = 1 << (8 * ROOT_BYTES)
_INNER_MODULUS = 1 << (8 * INNER_BYTES)


def _term(digest: Digest) -> int:
    return int.from_bytes(digest[-ROOT_BYTES:], "big")


class Roots:
    """The summary of one set: 256 sums and counts, about 16 KiB whatever the set's size.

    It does not know the set: the owner adds what was not in it and removes what was. Not safe to change from several
    threads at once.
    """

    __slots__ = ("_counts", "_sums", "count")

    def __init__(self, digests: Iterable[Digest] = ()) -> None:
        self.count = 0
        self._sums = [0] * PREFIXES
        self._counts = [0] * PREFIXES
        for digest in digests:
            self.add(digest)

    @classmethod
    def restored(cls, prefixes: bytes, counts: Sequence[int]) -> Roots:
        """From ``prefixes`` and the counts of each prefix; ValueError if they are not 256 of each."""
        if len(prefixes) != ROOTS_BYTES or len(counts) != PREFIXES or min(counts) < 0:
            raise ValueError("these are not the sums of 256 prefixes")
        roots = cls()
        starts = range(0, ROOTS_BYTES, ROOT_BYTES)
        roots._sums = [int.from_bytes(prefixes[start : start + ROOT_BYTES], "big") for start in starts]
        roots._counts = list(counts)
        roots.count = sum(counts)
        return roots

    def add(self, digest: Digest) -> None:
        """``digest`` was not in the set and is now."""
        self._sums[digest[0]] = (self._sums[digest[0]] + _term(digest)) % _MODULUS
        self._counts[digest[0]] += 1
        self.count += 1

    def remove(self, digest: Digest) -> None:
        """``digest`` was in the set and is no longer."""
        assert self._counts[digest[0]] > 0, "removed from an empty prefix"
        self._sums[digest[0]] = (self._sums[digest[0]] - _term(digest)) % _MODULUS
        self._counts[digest[0]] -= 1
        self.count -= 1

    @property
    def root(self) -> bytes:
        """16 bytes; those of an empty set are zeros."""
        return (sum(self._sums) % _MODULUS).to_bytes(ROOT_BYTES, "big")

    def prefix_count(self, prefix: int) -> int:
        return self._counts[prefix]

    def prefixes(self) -> bytes:
        """All prefix roots in order, 4,096 bytes: for the other side's ``differing``."""
        return b"".join(sum_.to_bytes(ROOT_BYTES, "big") for sum_ in self._sums)


def differing(ours: bytes, theirs: bytes) -> list[int]:
    """The prefixes (0 to 255, ascending) whose roots differ, of two ``Roots.prefixes``; BadRequest for any other."""
    return _differing(ours, theirs, ROOT_BYTES)


def inner_roots(digests: Iterable[Digest]) -> bytes:
    """256 roots of ``INNER_BYTES`` bytes, by the second byte, of digests that share their first; each comes once."""
    sums = [0] * PREFIXES
    for digest in digests:
        sums[digest[1]] += int.from_bytes(digest[-INNER_BYTES:], "big")
    return b"".join((sum_ % _INNER_MODULUS).to_bytes(INNER_BYTES, "big") for sum_ in sums)


def differing_inside(ours: bytes, theirs: bytes) -> list[int]:
    """The second bytes whose roots differ, ascending, of two ``inner_roots``; BadRequest for any other."""
    return _differing(ours, theirs, INNER_BYTES)


def _differing(ours: bytes, theirs: bytes, width: int) -> list[int]:
    if len(ours) != width * PREFIXES or len(theirs) != width * PREFIXES:
        raise BadRequest(f"these roots have {width * PREFIXES} bytes")
    if ours == theirs:
        return []
    starts = range(0, width * PREFIXES, width)
    return [start // width for start in starts if ours[start : start + width] != theirs[start : start + width]]
