"""A change of a name on its way: from what a put wants to say to the record that is committed.

A draft is prepared against the version it replaces. When somebody else was first it is rebased: a new version, a new
nonce, a new ref chunk in a new pack (docs/formats.md, Ref).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.client.names.index_file import ChunkPlace
from holdfast.codec import refs
from holdfast.codec.keys import GENERATION_FIRST, VaultKeys
from holdfast.codec.pipeline import PendingPack, Placed
from holdfast.codec.recipe import Recipe, RecipeEntry
from holdfast.codec.refs import Attributes, RecipePlace, Ref, RefClear, RefKind, RefSealed
from holdfast.errors import HoldfastError

RUN_GAP_BYTES = 64 << 10
"""Chunks of a file that lie closer together in a pack count as one run: one read brings them."""

_KNOWN = struct.Struct(">QIIII32s")
_MARK = struct.Struct(">cBHqq")
_CONTENT_BYTES = 32

Rule: TypeAlias = Literal["replace", "no-clobber", "if-match"]


@dataclass(slots=True, eq=False)
class PackState:
    """What the uploader knows of one pack; it travels as the pack's owner."""

    placed: list[Placed[PackState]] = field(default_factory=list)
    sent: bool = False
    registered: bool = False
    error: HoldfastError | None = None


Pending: TypeAlias = PendingPack[PackState]
Chunk: TypeAlias = Placed[PackState] | ChunkPlace
"""A chunk of a file: new in this upload, or known from before."""


class Present(NamedTuple):
    """A name as the coordinator has it."""

    version: int
    etag: Digest
    kind: RefKind

    @classmethod
    def of(cls, ref: Ref) -> Present:
        return cls(ref.clear.version, ref.etag, ref.clear.kind)


class KnownRecipe(NamedTuple):
    """A recipe that lies in the network already: a ref may point at it."""

    size: int
    pack: Digest
    offset: int
    length: int
    id: bytes
    run_start: int
    packs: tuple[Digest, ...]

    def encode(self) -> bytes:
        """For the index, which keeps the pack beside it."""
        head = _KNOWN.pack(self.size, self.offset, self.length, self.run_start, len(self.packs), self.id)
        return self.pack + head + b"".join(self.packs)

    @classmethod
    def decode(cls, data: bytes) -> KnownRecipe | None:
        """None for bytes of another form: the index is a cache."""
        if len(data) < DIGEST_BYTES + _KNOWN.size:
            return None
        size, offset, length, run_start, count, id_ = _KNOWN.unpack_from(data, DIGEST_BYTES)
        at = DIGEST_BYTES + _KNOWN.size
        if len(data) != at + count * DIGEST_BYTES:
            return None
        packs = tuple([Digest(data[start : start + DIGEST_BYTES]) for start in range(at, len(data), DIGEST_BYTES)])
        return cls(size, Digest(data[:DIGEST_BYTES]), offset, length, id_, run_start, packs)


@dataclass(slots=True, eq=False)
class NewRecipe:
    """A recipe that this upload has put into a pack. ``needs``: the packs of this upload that it names."""

    size: int
    placed: Placed[PackState]
    run_start: int
    packs: tuple[Digest, ...]
    needs: frozenset[Pending]

    def known(self) -> KnownRecipe:
        """Once its pack is sealed."""
        at = self.placed
        return KnownRecipe(self.size, at.pending.digest, at.offset, at.length, at.id, self.run_start, self.packs)


@dataclass(slots=True, eq=False)
class Draft:
    """One name's change. ``mark``: what it was made from, for finding it unchanged next time.

    ``seen_*``: version and etag of what it replaces, 0 and None for nothing.
    """

    path: str
    kind: RefKind
    attributes: Attributes
    survive: int
    recipe: KnownRecipe | NewRecipe | None = None
    content: bytes = b""
    mark: bytes = b""
    rule: Rule = "replace"
    ancestor: bool = False
    seen_version: int = 0
    seen_etag: Digest | None = None
    carrier: Pending | None = None
    nonce: bytes = b""
    clear: RefClear | None = None
    sealed: RefSealed | None = None
    record: bytes = b""
    keep: bytes = b""
    etag: Digest | None = None
    queued: int = 0
    """Its sequence in the outbox, if it went there."""

    def prepare(self, keys: VaultKeys, author: Id, nonce: bytes, carrier: Pending) -> bytes:
        """The plaintext of the ref chunk that goes into ``carrier``; a recipe elsewhere must be sealed by now."""
        tag, parent = refs.tags(keys, self.path)
        self.clear = RefClear(
            keys.vault,
            GENERATION_FIRST,
            tag,
            parent,
            self.kind,
            self.survive,
            self.seen_version + 1,
            self.seen_etag,
            author,
        )
        place, run_start = None, 0
        if isinstance(self.recipe, KnownRecipe):
            known = self.recipe
            place, run_start = RecipePlace(known.pack, known.offset, known.length, known.id), known.run_start
        elif self.recipe is not None:
            at = self.recipe.placed
            pack = None if at.pending is carrier else at.pending.digest
            place, run_start = RecipePlace(pack, at.offset, at.length, at.id), self.recipe.run_start
        self.sealed = RefSealed(self.path, self.attributes, place, run_start)
        self.nonce = nonce
        self.carrier = carrier
        self.record = b""
        return refs.encode_ref_chunk(nonce, self.clear, self.sealed)

    def needs(self) -> frozenset[Pending]:
        """Packs of this upload that must be stored before the record may be committed."""
        assert self.carrier is not None
        own = frozenset((self.carrier,))
        return own | self.recipe.needs if isinstance(self.recipe, NewRecipe) else own

    def finish(self, keys: VaultKeys) -> None:
        """Makes record, keep list and etag; the carrier is sealed."""
        assert self.carrier is not None
        assert self.clear is not None
        assert self.sealed is not None
        pack = self.carrier.digest
        self.keep = refs.keep_for(pack, self.sealed, () if self.recipe is None else self.recipe.packs)
        sealed = self.sealed.in_pack(pack)
        self.record = refs.encode_record(keys, self.nonce, self.clear, sealed, Digest.of(self.keep))
        self.etag = refs.etag(self.record)


@dataclass(slots=True, eq=False)
class Group:
    """Drafts that stand or fall together. ``settled`` is called once: with None, or with why it failed.

    ``after``: a group that must stand before this one is committed, such as that of the directory above; if it fails,
    this one fails for the same reason.
    """

    drafts: list[Draft]
    settled: Callable[[Group, HoldfastError | None], None]
    needs: frozenset[Pending] = frozenset()
    rebased: int = 0
    after: Group | None = None
    stands: bool = False
    error: HoldfastError | None = None
    awaited: bool = False
    """Another group comes after it."""

    def settle(self, error: HoldfastError | None) -> None:
        """It stands, or it has failed; called once, by who commits."""
        self.stands, self.error, self.after = error is None, error, None
        self.settled(self, error)


def tombstone(path: str, version: int, etag: Digest, survive: int, now: float, *, exact: bool) -> Draft:
    """The deletion of a name; ``exact``: only of this version. ``now``: seconds since 1970."""
    return Draft(
        path,
        RefKind.TOMBSTONE,
        Attributes(0, int(now * 1e9), 0),
        survive,
        rule="if-match" if exact else "replace",
        seen_version=version,
        seen_etag=etag,
    )


def mark_of(kind: RefKind, attributes: Attributes, content: bytes, survive: int | None) -> bytes:
    """Equal marks: a put would say nothing new. At most 100 bytes."""
    head = _MARK.pack(
        b"FDLT"[kind - 1 : kind],
        255 if survive is None else survive,
        attributes.mode,
        attributes.mtime_ns,
        attributes.size,
    )
    if attributes.meta or attributes.target is not None:
        said = repr((attributes.target, sorted(attributes.meta.items()))).encode()
        return head + content + Digest.of(said)
    return head + content


def content_of(mark: bytes) -> bytes:
    """The content id in the mark of a file; empty if it has none."""
    content = mark[_MARK.size : _MARK.size + _CONTENT_BYTES]
    return content if mark[:1] == b"F" and len(content) == _CONTENT_BYTES else b""


def build_recipe(
    size: int,
    chunk_bytes: int,
    content_id: bytes,
    ids: Sequence[bytes],
    chunks: Sequence[Chunk],
    salt: bytes | None,
    carrier: Pending | None,
) -> Recipe:
    """The recipe of a file as it is written into ``carrier``; all other packs of ``chunks`` are sealed."""
    numbers: dict[Digest, int] = {}
    entries = []
    for id_, chunk in zip(ids, chunks, strict=True):
        if isinstance(chunk, ChunkPlace):
            number = numbers.setdefault(chunk.pack, len(numbers) + 1)
            entries.append(RecipeEntry(id_, number, chunk.offset, chunk.length, chunk.mark))
        elif chunk.pending is carrier:
            entries.append(chunk.entry(0))
        else:
            entries.append(chunk.entry(numbers.setdefault(chunk.pending.digest, len(numbers) + 1)))
    return Recipe(
        size=size,
        chunk_bytes=chunk_bytes,
        generation=GENERATION_FIRST,
        packs=tuple(numbers),
        entries=entries,
        content_id=content_id,
        salt=salt,
    )


def run_start_of(chunks: Sequence[Chunk], recipe: Placed[PackState]) -> int:
    """The first byte of the file's last run in the recipe's pack: its chunks that lie close before the recipe."""
    start = recipe.offset
    for chunk in reversed(chunks):
        if isinstance(chunk, ChunkPlace) or chunk.pending is not recipe.pending:
            break
        if not 0 <= start - (chunk.offset + chunk.length) <= RUN_GAP_BYTES:
            break
        start = chunk.offset
    return start
