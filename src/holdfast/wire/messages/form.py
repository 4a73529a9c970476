"""The form of all messages: requests and answers, JSON and back, and the limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.errors import BadRequest

JSON_BYTES_MAX = 1 << 20
PAGE_MAX = 1000
PLAN_ITEMS_MAX = 256
INVENTORY_PREFIXES_MAX = 512
COMMIT_REFS_MAX = 1000
REFS_ASKED_MAX = 64
HAS_DIGESTS_MAX = 4096

NodeState: TypeAlias = Literal["up", "suspect", "down", "out", "draining", "maintenance", "read-only", "unreachable"]
_SEEN = r"^[^\x00-\x1f\x7f-\x9f]+(?![\s\S])"  # no control character; Python's $ would let a line break pass
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=128, pattern=_SEEN)]
Url: TypeAlias = Annotated[str, Meta(min_length=8, max_length=512, pattern=_SEEN)]
Copies: TypeAlias = Annotated[int, Meta(ge=1, le=256)]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something asked; a field we do not know may mean something, so it is refused."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something answered; fields of a newer version are ignored."""


class Empty(Answer, frozen=True):
    """Nothing to say."""


def _encode(value: Any) -> Any:
    if isinstance(value, Digest | Id):
        return str(value)
    raise TypeError(f"cannot encode {type(value).__name__}")


def _decode(kind: type[Any], value: Any) -> Any:
    if kind in (Digest, Id) and isinstance(value, str):
        try:
            return kind.parse(value)
        except BadRequest as error:
            raise ValueError(error.detail) from error
    raise TypeError(f"expected {kind.__name__}")


T = TypeVar("T")

_encoder = msgspec.json.Encoder(enc_hook=_encode)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(message: Any) -> bytes:
    """JSON, UTF-8."""
    return _encoder.encode(message)


def decode(data: bytes, kind: type[T]) -> T:
    """``data`` as ``kind``; BadRequest names the field that is wrong."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=_decode)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"malformed {kind.__name__}: {error}") from error


def convert(fields: dict[str, str], kind: type[T]) -> T:
    """Query or path fields, all text, as ``kind``; BadRequest names the field that is wrong."""
    try:
        return msgspec.convert(fields, kind, strict=False, dec_hook=_decode)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise BadRequest(f"{error}") from error


class Health(Answer, frozen=True, kw_only=True):
    """``status`` is ``ok`` or, in words, what is wrong."""

    status: str
    role: str
    id: Id
    name: str
    time: float
    version: str


class Problem(Answer, frozen=True, kw_only=True):
    """RFC 9457; ``extra`` holds the members of the type in question."""

    type: str
    title: str
    status: int
    detail: str
    extra: dict[str, Any] = {}
