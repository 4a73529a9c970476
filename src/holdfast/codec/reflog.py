"""Reflog blobs: what a coordinator knows that nodes cannot see, kept on the nodes (docs/formats.md, Reflog).

    header 112 | body: canonical CBOR | signature 64 over all before

One blob follows the other, from a chain's first one on; whoever has the coordinator's key and the blobs can make its
database again. They may be read in any order: of two versions of a name the higher one counts.
"""

from __future__ import annotations

import struct

import msgspec

from holdfast.auth.documents import canonical, plain, typed, uncanonical
from holdfast.auth.grants import STORE_ID_BYTES
from holdfast.auth.identity import SIGNATURE_BYTES, Id, Identity, verify
from holdfast.blob import DIGEST_BYTES, Buffer, Digest
from holdfast.codec.ref_fields import TAG_BYTES
from holdfast.codec.refs import parse_keep_list, parse_record
from holdfast.errors import BadRequest, Corrupt

HEADER_BYTES = 112
BLOB_BYTES_MAX = 64 << 20

_MAGIC = b"HFREFL\r\n"
_VERSION = 1
_HEADER = struct.Struct(">8sBB6s32sQQQQ32s")
_FIRST = 1
_NONE = bytes(DIGEST_BYTES)
_U63 = (1 << 63) - 1
_WORDS = frozenset({"", "draining", "maintenance", "removed"})

assert _HEADER.size == HEADER_BYTES


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Fields in their order, none left out."""


class NodeFacts(_Row, frozen=True):
    """A registered node. ``word``: an operator's."""

    id: Id
    name: str
    url: str
    store: bytes
    domain: str
    capacity: int
    always_on: bool
    word: str


class VaultFacts(_Row, frozen=True):
    """``quota``: bytes, None for no limit."""

    id: Id
    quota: int | None


class DeviceFacts(_Row, frozen=True):
    """``countersigned``: the envelope; ``revoked``: the revocation serial that told it."""

    countersigned: bytes
    operator: bool
    revoked: int | None


class Facts(_Row, frozen=True):
    """The network itself and its members. Invites are not in it: they hold secrets, and nodes read this."""

    name: str
    urls: tuple[str, ...]
    survive: int
    policy_version: int
    revocations: int
    nodes: tuple[NodeFacts, ...]
    vaults: tuple[VaultFacts, ...]
    devices: tuple[DeviceFacts, ...]


class LoggedRef(_Row, frozen=True):
    """An accepted record. ``committed``: milliseconds since 1970."""

    record: bytes
    committed: int


class EndedName(_Row, frozen=True):
    """A name that was deleted so long ago that only its version and etag are kept."""

    vault: Id
    tag: bytes
    version: int
    etag: Digest


class Reflog(msgspec.Struct, frozen=True, kw_only=True):
    """One blob. ``number`` rises by one from blob to blob of a coordinator, also over chains.

    It holds what changed after the commit ``first``, up to and with the commit ``last``. ``previous`` None begins a
    chain. ``facts`` None: as in the blob before. ``keeps``: every keep list that a record in it names. ``ended`` stands
    in the first blob of a chain.
    """

    coordinator: Id
    epoch: int
    number: int
    first: int
    last: int
    previous: Digest | None
    facts: Facts | None
    keeps: tuple[bytes, ...]
    refs: tuple[LoggedRef, ...]
    ended: tuple[EndedName, ...] = ()


class _Body(_Row, frozen=True):
    facts: Facts | None
    keeps: tuple[bytes, ...]
    refs: tuple[LoggedRef, ...]
    ended: tuple[EndedName, ...]


def encode(reflog: Reflog, identity: Identity) -> bytes:
    """The blob, signed. Blocks about 10 ms per MiB."""
    assert identity.id == reflog.coordinator, "a coordinator signs its own reflog"
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        _FIRST if reflog.previous is None else 0,
        bytes(6),
        reflog.coordinator,
        reflog.epoch,
        reflog.number,
        reflog.first,
        reflog.last,
        reflog.previous or _NONE,
    )
    body = _Body(reflog.facts, reflog.keeps, reflog.refs, reflog.ended)
    signed = header + canonical(msgspec.to_builtins(body, builtin_types=(bytes,), enc_hook=plain))
    return signed + identity.sign(signed)


def reflog_coordinator(first_bytes: Buffer) -> Id:
    """Whose reflog a blob says it is, from its first 112 bytes or more; BadRequest if they are none's.

    For nodes; nothing but the header is looked at.
    """
    data = bytes(first_bytes[:HEADER_BYTES])
    if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
        raise BadRequest("no reflog: it does not begin with a reflog's header")
    return Id(_HEADER.unpack(data)[4])


def decode(data: bytes, coordinator: Id) -> Reflog:
    """A blob that ``coordinator`` signed, every field checked; Corrupt for any other bytes."""
    if not HEADER_BYTES + SIGNATURE_BYTES < len(data) <= BLOB_BYTES_MAX:
        raise Corrupt(f"{len(data)} bytes is no length of a reflog")
    signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
    magic, version, flags, reserved, owner, epoch, number, first, last, previous = _HEADER.unpack(data[:HEADER_BYTES])
    if (magic, version) != (_MAGIC, _VERSION):
        raise Corrupt("no reflog, or one of another version")
    if owner != coordinator:
        raise Corrupt("the reflog of another coordinator")
    if not verify(coordinator, signature, signed):
        raise Corrupt("a reflog that its coordinator did not sign")
    if flags & ~_FIRST or any(reserved) or (flags and previous != _NONE):
        raise Corrupt("a reflog has a field that this version does not know")
    if not (1 <= epoch <= _U63 and 1 <= number <= _U63 and first <= last <= _U63):
        raise Corrupt("a reflog has an impossible position")
    try:
        body = msgspec.convert(uncanonical(signed[HEADER_BYTES:], "a reflog"), _Body, dec_hook=typed)
        _check(body)
    except BadRequest as error:
        raise Corrupt(f"a reflog: {error.detail}") from error
    except msgspec.ValidationError as error:
        raise Corrupt(f"a reflog: {error}") from error
    return Reflog(
        coordinator=coordinator,
        epoch=epoch,
        number=number,
        first=first,
        last=last,
        previous=None if flags else Digest(previous),
        facts=body.facts,
        keeps=body.keeps,
        refs=body.refs,
        ended=body.ended,
    )


def _check(body: _Body) -> None:
    held = {Digest.of(data) for data in body.keeps}
    for data in body.keeps:
        parse_keep_list(data)
    for ref in body.refs:
        if parse_record(ref.record).keep not in held:
            raise BadRequest("a record's keep list is not in it")
        if not 0 <= ref.committed <= _U63:
            raise BadRequest("an impossible time")
    for name in body.ended:
        if len(name.tag) != TAG_BYTES or not 1 <= name.version <= _U63:
            raise BadRequest("a deleted name is out of bounds")
    if body.facts is not None:
        _check_facts(body.facts)


def _check_facts(facts: Facts) -> None:
    numbers = [facts.policy_version, facts.revocations, *(node.capacity for node in facts.nodes)]
    numbers += [vault.quota for vault in facts.vaults if vault.quota is not None]
    numbers += [device.revoked for device in facts.devices if device.revoked is not None]
    if not 0 <= facts.survive <= 255 or not all(0 <= number <= _U63 for number in numbers):
        raise BadRequest("a number is out of bounds")
    for node in facts.nodes:
        if len(node.store) != STORE_ID_BYTES or node.word not in _WORDS:
            raise BadRequest("a node's facts are out of bounds")
