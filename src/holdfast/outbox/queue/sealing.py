"""The queue key and what is sealed with it (docs/formats.md, Outbox at rest). Pure; blocks a few microseconds.

The queue key is random and never changes, so that nothing has to be sealed anew when the device's key does: only the
one record that wraps it.
"""

from __future__ import annotations

import hmac
from typing import Any

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.clock import Randomness
from holdfast.errors import BadConfig, Corrupt, Denied

KEY_BYTES = 32
SALT_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
ENTRY_ID_BYTES = 16

_INFO = b"holdfast/1/outbox"


def wrap(queue_key: bytes, seed: bytes, randomness: Randomness) -> tuple[bytes, bytes]:
    """(salt, wrapped) for the one record that holds the queue key."""
    salt, nonce = randomness.bytes(SALT_BYTES), randomness.bytes(NONCE_BYTES)
    return salt, nonce + _wrapping(seed, salt).encrypt(nonce, queue_key, _INFO)


def unwrap(salt: bytes, wrapped: bytes, seed: bytes, where: str) -> bytes:
    """The queue key. Denied if ``seed`` is another one than it was wrapped with, or the record was changed."""
    try:
        return _wrapping(seed, salt).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _INFO)
    except (InvalidTag, ValueError) as error:
        raise Denied(
            f"the outbox in {where} was sealed with another key than this one; nothing in it was changed or deleted"
        ) from error


def _wrapping(seed: bytes, salt: bytes) -> AESGCM:
    if len(seed) != KEY_BYTES:
        raise BadConfig(f"the key of an outbox has {KEY_BYTES} bytes, not {len(seed)}")
    return AESGCM(HKDF(hashes.SHA256(), KEY_BYTES, salt, _INFO).derive(seed))


class Seals:
    """Seals and opens with one queue key. Safe to use from several threads."""

    def __init__(self, queue_key: bytes, randomness: Randomness) -> None:
        self._expand = hmac.new(queue_key, _INFO, "sha256")  # begun once: an enqueue copies each three times
        self._randomness = randomness
        self._tags = hmac.new(self._derived(b"/tag"), digestmod="sha256")
        self._target = ("", b"")  # the newest target and its tag: mostly the next one's, too

    def target_tag(self, target: str) -> bytes:
        """``tag`` of a target."""
        known, found = self._target
        if known != target:
            found = self.tag("target", target)
            self._target = (target, found)
        return found

    def tag(self, what: str, text: str) -> bytes:
        """16 bytes of HMAC: equal for equal texts, and nothing else is told. ``what``: key or target."""
        state = self._tags.copy()
        state.update(what.encode() + b"\0" + text.encode("utf-8", "surrogatepass"))
        return state.digest()[:TAG_BYTES]

    def seal(self, entry: bytes, role: str, document: Any, clear: bytes, *, canonical: bool = True) -> bytes:
        """nonce | ciphertext of the CBOR; ``clear`` are the columns it stands for.

        ``canonical`` False: maps stay in their order, at half the price, for what nobody compares byte by byte.
        """
        nonce = self._randomness.bytes(NONCE_BYTES)
        return nonce + self.cipher(entry, role).encrypt(nonce, cbor2.dumps(document, canonical=canonical), clear)

    def open(self, entry: bytes, role: str, sealed: bytes, clear: bytes) -> Any:
        """Corrupt unless it is what ``seal`` made for the same entry, role and columns."""
        try:
            plain = self.cipher(entry, role).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], clear)
            return cbor2.loads(plain)
        except (InvalidTag, ValueError, cbor2.CBORDecodeError) as error:
            raise Corrupt("an entry of the outbox fails its check") from error

    def cipher(self, entry: bytes, role: str) -> AESGCM:
        """The cipher of one role of one entry: record, progress, body or theirs."""
        return AESGCM(self._derived(b"/" + role.encode() + b"/" + entry))

    def _derived(self, purpose: bytes) -> bytes:
        state = self._expand.copy()  # HKDF-Expand to the length of one hash is one HMAC (RFC 5869, 2.3)
        state.update(purpose + b"\x01")
        return state.digest()
