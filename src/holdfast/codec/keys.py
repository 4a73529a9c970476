"""Keys: everything that one vault seals, names and signs with, derived from 32 secret bytes (docs/formats.md, Keys).

Pure: nothing is read or kept here. Whoever holds the root can derive all of it; nobody else can derive any.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from holdfast.auth.identity import Identity
from holdfast.errors import BadRequest

ROOT_BYTES = 32
KEY_BYTES = 32
GENERATION_FIRST = 1
GENERATION_MAX = (1 << 32) - 1

_CACHED_MAX = 64  # generations; a forged record may name any, so the cache must not grow with what is asked


def expand(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA256-Expand (RFC 5869, 2.3) for exactly one block of 32 bytes; ``key`` is 32 uniformly random bytes.

    One call of ``hmac.digest``, because each chunk needs it: the general HKDF object costs several times as much.
    """
    return hmac.digest(key, info + b"\x01", "sha256")


@dataclass(frozen=True, slots=True, repr=False)
class GenerationKeys:
    """The keys of one generation, 32 bytes each: ``chunk`` seals chunks, ``id`` names them, ``meta`` seals refs."""

    generation: int
    chunk: bytes
    id: bytes
    meta: bytes

    def __repr__(self) -> str:
        return f"GenerationKeys(generation={self.generation}, secrets not shown)"


class VaultKeys:
    """All keys of one vault. Immutable but for its cache; may be shared between threads."""

    def __init__(self, root: bytes) -> None:
        if len(root) != ROOT_BYTES:
            raise BadRequest(f"a vault's root has {ROOT_BYTES} bytes, not {len(root)}")
        self._root = bytes(root)
        self._cache: dict[int, GenerationKeys] = {}
        self.name = self._derive("name", 0)
        self.identity = Identity(self._derive("identity", 0))
        self.vault = self.identity.id

    def generation(self, n: int) -> GenerationKeys:
        """The keys of generation ``n`` (0 to 2^32 - 1; vaults begin with ``GENERATION_FIRST``)."""
        found = self._cache.get(n)
        if found is None:
            if not 0 <= n <= GENERATION_MAX:
                raise BadRequest(f"a generation is a number from 0 to {GENERATION_MAX}, not {n}")
            found = GenerationKeys(n, self._derive("chunk", n), self._derive("id", n), self._derive("meta", n))
            if len(self._cache) >= _CACHED_MAX:
                self._cache.clear()
            self._cache[n] = found
        return found

    def _derive(self, purpose: str, generation: int) -> bytes:
        return expand(self._root, f"holdfast/1/{purpose}/{generation}".encode("ascii"))

    def __repr__(self) -> str:
        return f"VaultKeys({self.vault.short}…, secrets not shown)"
