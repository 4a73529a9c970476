"""Making a queued change anew over another state than it was written for: a new record in a small pack of its own.

The same change over the same state gives the same bytes, whoever makes them and however often: so an answer that was
lost after the commit is recognised, and nothing is done twice. That is why the nonces are not random here: they are
derived from everything that the records will say, so that no two different records share one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from holdfast.auth.documents import canonical
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.client.offline.ref_entry import Change, NameState
from holdfast.codec import refs
from holdfast.codec.keys import GENERATION_FIRST, VaultKeys, expand
from holdfast.codec.pack import PackBuilder
from holdfast.codec.ref_fields import encode_clear, sealed_value
from holdfast.codec.refs import Ref, RefClear, RefSealed
from holdfast.codec.sealer import Kind, chunk_id

_LABEL = b"holdfast/1/ref-nonce"
PACK_BYTES = 256 << 10


class Prepared(NamedTuple):
    """A change as it will be committed. ``ref``: its record, opened."""

    change: Change
    ref: Ref
    record: bytes
    keep: bytes


class SmallPack(NamedTuple):
    """A pack that holds ref chunks only."""

    digest: Digest
    data: bytes


def prepare(
    keys: VaultKeys, device: Identity, changes: Sequence[Change], over: Mapping[str, NameState]
) -> tuple[list[Prepared], SmallPack | None]:
    """``changes`` as they stand, but those made anew for which ``over`` gives another state than they were made for.

    Blocks for some milliseconds. Corrupt if a record does not open.
    """
    found: list[Prepared | None] = []
    again: list[tuple[int, Change, RefClear, RefSealed]] = []
    for number, change in enumerate(changes):
        written = refs.open_record(keys, change.record, None)
        ref = change.open(keys)
        state = over.get(change.path)
        moved = written.sealed.path != change.path
        if not moved and (state is None or (ref.clear.version, ref.clear.previous) == (state.version + 1, state.etag)):
            found.append(Prepared(change, ref, change.record, change.keep))
            continue
        clear = msgspec.structs.replace(ref.clear, generation=GENERATION_FIRST, author=device.id)
        if state is not None:
            clear = msgspec.structs.replace(clear, version=state.version + 1, previous=state.etag)
        again.append((number, change, clear, ref.sealed))
        found.append(None)
    pack = None
    if again:
        pack, made = _packed(keys, device, again)
        for (number, *_), one in zip(again, made, strict=True):
            found[number] = one
    return [one for one in found if one is not None], pack


def _packed(
    keys: VaultKeys, device: Identity, again: Sequence[tuple[int, Change, RefClear, RefSealed]]
) -> tuple[SmallPack, list[Prepared]]:
    generation = keys.generation(GENERATION_FIRST)
    said = hashlib.sha256(canonical([[encode_clear(clear), sealed_value(sealed)] for *_, clear, sealed in again]))
    builder = PackBuilder(generation, keys.vault, pack_bytes=PACK_BYTES, chunk_bytes_max=refs.REF_CHUNK_BYTES_MAX)
    nonces = []
    for number, (*_, clear, sealed) in enumerate(again):
        nonce = expand(generation.meta, _LABEL + said.digest() + number.to_bytes(4))[: refs.NONCE_BYTES]
        nonces.append(nonce)
        chunk = refs.encode_ref_chunk(nonce, clear, sealed)
        builder.add(Kind.REF, chunk_id(generation, chunk), chunk)
    digest, data = builder.finish(device, pad=True)
    made = []
    for nonce, (_, change, clear, sealed) in zip(nonces, again, strict=True):
        keep = refs.keep_for(digest, sealed, change.packs)
        record = refs.encode_record(keys, nonce, clear, sealed, Digest.of(keep))
        made.append(Prepared(change, Ref(clear, Digest.of(keep), sealed, refs.etag(record)), record, keep))
    return SmallPack(digest, bytes(data)), made
