"""Signed documents: canonical CBOR, one envelope for all kinds (docs/formats.md, Signed documents).

``envelope = [body, signature]`` and ``body = ["holdfast/KIND", VERSION, {fields}]``, both canonical (RFC 8949, 4.2.1);
the signature is Ed25519 over the body's bytes, so a document of one kind is never taken for another.
"""

from __future__ import annotations

import base64
import functools
import io
from typing import Annotated, Any, TypeAlias, TypeVar

import cbor2
import msgspec

from holdfast.auth.identity import Id, Identity, verify
from holdfast.blob import Digest
from holdfast.errors import BadRequest, Denied

DOCUMENT_BYTES_MAX = 16 << 10

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""A number in a document or message: no larger than what databases and formats hold."""

T = TypeVar("T", bound="Document")


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed document's fields. Subclasses set ``KIND``; unknown, missing and mistyped fields are refused."""

    KIND = "document"
    VERSION = 1


def plain(value: Any) -> Any:
    """Digests and ids as the bytes they are: for encoders."""
    if isinstance(value, Digest | Id):
        return bytes(value)
    raise TypeError(f"cannot encode {type(value).__name__}")


def typed(kind: type[Any], value: Any) -> Any:
    """Bytes as the digest or id that a field asks for: for decoders."""
    if kind in (Digest, Id) and isinstance(value, bytes):
        try:
            return kind(value)
        except BadRequest as error:
            raise ValueError(error.detail) from error
    raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")


def canonical(value: Any) -> bytes:
    """The one CBOR encoding of ``value``: map keys sorted, shortest integers, definite lengths."""
    return cbor2.dumps(value, canonical=True)


def uncanonical(data: bytes, what: str) -> Any:
    """The value of canonical CBOR; BadRequest for any other bytes, also for trailing ones."""
    stream = io.BytesIO(data)
    try:
        value = cbor2.load(stream)
        exact = stream.tell() == len(data) and canonical(value) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise BadRequest(f"{what}: not CBOR") from error
    if not exact:
        raise BadRequest(f"{what}: not canonical CBOR")
    return value


def sign(document: Document, identity: Identity) -> bytes:
    """The document's envelope, signed by ``identity``."""
    fields = msgspec.to_builtins(document, builtin_types=(bytes,), enc_hook=plain)
    body = canonical([f"holdfast/{document.KIND}", document.VERSION, fields])
    return canonical([body, identity.sign(body)])


def read(kind: type[T], envelope: bytes) -> tuple[T, bytes, bytes]:
    """(document, body, signature) of an envelope whose signature is still to be checked; BadRequest if malformed."""
    if len(envelope) > DOCUMENT_BYTES_MAX:
        raise BadRequest(f"{kind.KIND}: longer than {DOCUMENT_BYTES_MAX} bytes")
    parts = uncanonical(envelope, kind.KIND)
    if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, bytes) for part in parts)):
        raise BadRequest(f"{kind.KIND}: not a signed document")
    body, signature = parts
    content = uncanonical(body, kind.KIND)
    head = [f"holdfast/{kind.KIND}", kind.VERSION]
    if not (isinstance(content, list) and len(content) == 3 and content[:2] == head and type(content[1]) is int):
        raise BadRequest(f"not a {kind.KIND} of version {kind.VERSION}")
    try:
        return msgspec.convert(content[2], kind, dec_hook=typed), body, signature
    except msgspec.ValidationError as error:
        raise BadRequest(f"{kind.KIND}: {error}") from error


def open_signed(kind: type[T], envelope: bytes, issuer: Id) -> T:
    """The document if ``issuer`` signed it; Denied if not, BadRequest if malformed."""
    document, body, signature = read(kind, envelope)
    if not verify(issuer, signature, body):
        raise Denied(f"this {kind.KIND} was not signed by {issuer.short}")
    return document


def to_text(envelope: bytes) -> str:
    """For headers: base64url without padding."""
    return base64.urlsafe_b64encode(envelope).decode("ascii").rstrip("=")


@functools.lru_cache(maxsize=1024)
def from_text(text: str) -> bytes:
    """The envelope that ``to_text`` wrote; BadRequest for anything else."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise BadRequest("not base64url") from error
    if to_text(data) != text:
        raise BadRequest("not base64url without padding")
    return data
