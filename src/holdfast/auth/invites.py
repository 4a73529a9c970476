"""Invites: one line that lets a newcomer join; its secret never crosses the wire (docs/formats.md, Grants).

The newcomer proves the secret by an HMAC over its own key, the coordinator's and the role; the coordinator proves it
in return. An operator who asks for an invite over the network gets the secret sealed to a one-time X25519 key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Literal, TypeAlias

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.auth.documents import Count, canonical, plain, typed, uncanonical
from holdfast.auth.identity import Id
from holdfast.clock import Randomness
from holdfast.errors import BadRequest, Denied

Role: TypeAlias = Literal["node", "user", "operator"]

PREFIX = "hf1-"
INVITE_ID_BYTES = 8
SECRET_BYTES = 16
URLS_MAX = 8
LINE_DIGITS_MAX = 4096


class Invite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an invite line holds. ``expires``: seconds since 1970; ``uses``: how many newcomers in all."""

    id: bytes
    coordinator: Id
    urls: tuple[str, ...]
    role: Role
    secret: bytes
    uses: Count
    expires: Count

    def __repr__(self) -> str:
        return f"Invite({self.role}, {self.id.hex()}, secret not shown)"


def to_line(invite: Invite) -> str:
    """``hf1-`` and lower-case base32 of canonical CBOR with a checksum of four bytes."""
    fields = msgspec.to_builtins(invite, builtin_types=(bytes,), enc_hook=plain)
    data = canonical(fields)
    data += hashlib.sha256(data).digest()[:4]
    return PREFIX + base64.b32encode(data).decode("ascii").rstrip("=").lower()


def from_line(line: str) -> Invite:
    """The invite in a line that a person may have copied; BadRequest says what is wrong with it."""
    text = line.strip()
    if not text.startswith(PREFIX):
        raise BadRequest(f"an invite begins with {PREFIX}; copy the whole line")
    digits = text[len(PREFIX) :]
    if len(digits) > LINE_DIGITS_MAX:
        raise BadRequest("this invite is too long; copy one line only")
    try:
        data = base64.b32decode(digits.upper() + "=" * (-len(digits) % 8))
    except ValueError as error:
        raise BadRequest("this invite was not copied whole") from error
    if len(data) < 5 or hashlib.sha256(data[:-4]).digest()[:4] != data[-4:]:
        raise BadRequest("this invite was not copied whole")
    try:
        invite = msgspec.convert(uncanonical(data[:-4], "invite"), Invite, dec_hook=typed)
    except msgspec.ValidationError as error:
        raise BadRequest(f"invite: {error}") from error
    if len(invite.id) != INVITE_ID_BYTES or len(invite.secret) != SECRET_BYTES or not 0 < len(invite.urls) <= URLS_MAX:
        raise BadRequest("invite: a field has the wrong length")
    if to_line(invite) != text:  # base32's last digit has bits to spare: only one line stands for an invite
        raise BadRequest("this invite was not copied whole")
    return invite


def proof(secret: bytes, word: Literal["join", "accept"], newcomer: Id, coordinator: Id, role: Role) -> bytes:
    """HMAC-SHA256(secret, word | newcomer | coordinator | role)."""
    message = b"".join([word.encode(), b"\0", newcomer, coordinator, role.encode()])
    return hmac.digest(secret, message, "sha256")


def check_proof(
    given: bytes, secret: bytes, word: Literal["join", "accept"], newcomer: Id, coordinator: Id, role: Role
) -> None:
    """Denied unless ``given`` is the proof; compared in constant time."""
    if not hmac.compare_digest(given, proof(secret, word, newcomer, coordinator, role)):
        raise Denied("this invite does not belong to this network, or was changed")


def _sealing_key(shared: bytes, ours: bytes, theirs: bytes) -> AESGCM:
    return AESGCM(hmac.digest(shared, b"holdfast/1/invite-secret\0" + ours + theirs, "sha256"))


class SecretRequest:
    """The operator's side: a one-time key to which the coordinator seals an invite's secret."""

    def __init__(self, randomness: Randomness) -> None:
        self._key = X25519PrivateKey.from_private_bytes(randomness.bytes(32))
        self.public = self._key.public_key().public_bytes_raw()

    def open(self, sealed: bytes) -> bytes:
        """The secret; Denied if it was sealed to somebody else."""
        theirs, box = sealed[:32], sealed[32:]
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(theirs))
            return _sealing_key(shared, theirs, self.public).decrypt(b"\0" * 12, box, None)
        except (InvalidTag, ValueError) as error:
            raise Denied("the invite's secret was not sealed for us") from error


def seal_secret(secret: bytes, public: bytes, randomness: Randomness) -> bytes:
    """The coordinator's side: a fresh X25519 public key and the secret sealed under the shared key."""
    key = X25519PrivateKey.from_private_bytes(randomness.bytes(32))
    ours = key.public_key().public_bytes_raw()
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise BadRequest("sealing key: not an X25519 public key") from error
    return ours + _sealing_key(shared, ours, public).encrypt(b"\0" * 12, secret, None)
