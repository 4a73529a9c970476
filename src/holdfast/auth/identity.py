"""Who somebody is: an Ed25519 key. Every id (vault, device, node, coordinator) is the public key itself.

In text an id is 52 lower-case base32 digits without padding; people see the first ten (docs/formats.md, Keys).
"""

from __future__ import annotations

import base64
import functools

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from holdfast.clock import Randomness
from holdfast.errors import BadRequest

ID_BYTES = 32
ID_TEXT_DIGITS = 52
SEED_BYTES = 32
SIGNATURE_BYTES = 64


class Id(bytes):
    """A public key of 32 bytes; ``str()`` gives its 52 digits, ``short`` the first ten."""

    __slots__ = ()

    def __new__(cls, value: bytes | memoryview) -> Id:
        if len(value) != ID_BYTES:
            raise BadRequest(f"an id has {ID_BYTES} bytes, not {len(value)}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Id:
        """From exactly the 52 digits that ``str()`` gives; everything else is a BadRequest."""
        found = _parsed(text) if isinstance(text, str) and len(text) == ID_TEXT_DIGITS else None
        if found is None:
            raise BadRequest(f"not an id (52 lower-case base32 digits): {str(text)[:80]!r}")
        return cls(found)

    @property
    def short(self) -> str:
        """Ten digits, for people."""
        return str(self)[:10]

    def __str__(self) -> str:
        return _text(bytes(self))

    def __repr__(self) -> str:
        return f"Id({self.short}…)"


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> bytes | None:
    """Cached: the library decodes base32 in Python, and answers name the same few nodes again and again."""
    try:
        value = base64.b32decode(text.upper() + "====") if text.isascii() and text == text.lower() else b""
    except ValueError:
        return None
    return value if len(value) == ID_BYTES and _text(value) == text else None


@functools.lru_cache(maxsize=4096)
def _text(value: bytes) -> str:
    return base64.b32encode(value).decode("ascii").rstrip("=").lower()


class Identity:
    """A private key. Signs; shows only its id. Safe to use from several threads."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise BadRequest(f"an identity is made from {SEED_BYTES} bytes")
        self._seed = seed
        public, self._key = crypto_sign_seed_keypair(seed)
        self.id = Id(public)

    @classmethod
    def generate(cls, randomness: Randomness) -> Identity:
        return cls(randomness.bytes(SEED_BYTES))

    def seed(self) -> bytes:
        """The 32 secret bytes, for the file that keeps them and for deriving keys."""
        return self._seed

    def sign(self, data: bytes) -> bytes:
        """64 bytes; the same for the same data."""
        return crypto_sign(data, self._key)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"Identity({self.id.short}…, secret not shown)"


def verify(id_: Id, signature: bytes, data: bytes) -> bool:
    """Did ``id_`` sign ``data``? False for anything else, also for a key that is none."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + data, bytes(id_))
    except BadSignatureError:
        return False
    return True
