"""What a ref holds: its clear and its sealed fields, their bounds, and their one encoding (docs/formats.md, Ref).

Fields that are out of bounds or do not go together are a BadRequest here; whoever reads sealed bytes makes it Corrupt.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from holdfast.auth.identity import Id
from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.codec import paths
from holdfast.codec.keys import GENERATION_MAX
from holdfast.codec.pack_layout import HEADER_BYTES, PACK_BYTES_MAX
from holdfast.codec.sealer import CHUNK_BYTES_MAX, CHUNK_ID_BYTES, SEAL_OVERHEAD, SUITE
from holdfast.errors import BadRequest, TooLarge

CLEAR_BYTES = 188
TAG_BYTES = 32
META_BYTES_MAX = 8 << 10
TARGET_BYTES_MAX = 4095

VERSION = 1
_MAGIC = b"HFREFR\r\n"
_CLEAR = struct.Struct(">8sHBBI32s32s32sBBHQ32s32s")
_PREVIOUS = 1
_NO_PREVIOUS = bytes(DIGEST_BYTES)
_U63 = (1 << 63) - 1

assert _CLEAR.size == CLEAR_BYTES


class RefKind(enum.IntEnum):
    """What a name stands for. A tombstone says that it was deleted; its versions go on counting."""

    FILE = 1
    DIRECTORY = 2
    LINK = 3
    TOMBSTONE = 4


class RefClear(msgspec.Struct, frozen=True):
    """What the coordinator sees of a ref. ``previous``: the etag of the version before, None if there was none."""

    vault: Id
    generation: int
    name_tag: bytes
    parent_tag: bytes
    kind: RefKind
    survive: int
    version: int
    previous: Digest | None
    author: Id


class Attributes(msgspec.Struct, frozen=True):
    """Of a file, directory or link. ``size`` in bytes; ``mtime_ns`` since 1970; ``mode``: permission bits; ``target``:
    where a link points; ``meta``: the user's own; ``extra``: those a newer version wrote, kept as they are."""

    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    target: str | None = None
    meta: Mapping[str, str] = {}
    extra: Mapping[str, Any] = {}


class RecipePlace(NamedTuple):
    """Where a recipe chunk lies; ``pack`` None: in the pack that carries the ref chunk. ``offset`` and ``length`` are
    those of the sealed bytes."""

    pack: Digest | None
    offset: int
    length: int
    id: bytes


class RefSealed(msgspec.Struct, frozen=True):
    """What only the vault's owner sees. ``recipe`` only for files; ``run_start``: the first byte of the file's last run
    in the recipe's pack, so that [run_start, recipe.offset + recipe.length) brings a small file in one read."""

    path: str
    attributes: Attributes
    recipe: RecipePlace | None = None
    run_start: int = 0

    def in_pack(self, pack: Digest) -> RefSealed:
        """The same, with ``pack`` named where it was "this pack": as records hold it."""
        if self.recipe is None or self.recipe.pack is not None:
            return self
        return msgspec.structs.replace(self, recipe=self.recipe._replace(pack=pack))


def encode_clear(clear: RefClear) -> bytes:
    """The 188 bytes of the clear fields, less the keep list digest."""
    return _CLEAR.pack(
        _MAGIC,
        VERSION,
        SUITE,
        clear.kind,
        clear.generation,
        clear.vault,
        clear.name_tag,
        clear.parent_tag,
        clear.survive,
        0 if clear.previous is None else _PREVIOUS,
        0,
        clear.version,
        _NO_PREVIOUS if clear.previous is None else clear.previous,
        clear.author,
    )


def decode_clear(data: bytes) -> RefClear:
    """What ``encode_clear`` was given, every field checked."""
    if len(data) != CLEAR_BYTES:
        raise BadRequest("the clear fields of a ref have another length")
    fields = _CLEAR.unpack(data)
    magic, version_, suite, kind, generation, vault, name, parent, survive, flags, zero, version, previous, author = (
        fields
    )
    if (magic, version_, suite) != (_MAGIC, VERSION, SUITE):
        raise BadRequest("no ref record, or one of another version")
    if kind not in _KINDS or flags & ~_PREVIOUS or zero or (not flags and previous != _NO_PREVIOUS):
        raise BadRequest("a ref record has a field that this version does not know")
    if not 1 <= version <= _U63 or (flags and version == 1):
        raise BadRequest("a ref record has an impossible version")
    return RefClear(
        Id(vault),
        generation,
        name,
        parent,
        _KINDS[kind],
        survive,
        version,
        Digest(previous) if flags else None,
        Id(author),
    )


_KINDS = {int(kind): kind for kind in RefKind}


def sealed_value(sealed: RefSealed) -> list[Any]:
    """The sealed fields as a CBOR value."""
    found = sealed.attributes
    attributes: dict[str, Any] = {"size": found.size, "mode": found.mode, "mtime": found.mtime_ns}
    if found.target is not None:
        attributes["target"] = found.target
    if found.meta:
        attributes["meta"] = dict(found.meta)
    if found.extra:
        attributes |= found.extra
    recipe = None
    if sealed.recipe is not None:
        pack, offset, length, id_ = sealed.recipe
        recipe = [None if pack is None else bytes(pack), offset, length, id_]
    return [sealed.path, attributes, recipe, sealed.run_start]


def sealed_from(value: Any) -> RefSealed:
    """What ``sealed_value`` was given; the form is checked here, the bounds by ``check``."""
    if not (isinstance(value, list) and len(value) == 4):
        raise BadRequest("a ref's sealed fields have another form")
    path, found, recipe, run_start = value
    if not (isinstance(path, str) and isinstance(found, dict) and all(isinstance(name, str) for name in found)):
        raise BadRequest("a ref's sealed fields have another type")
    place = None
    if recipe is not None:
        if not (isinstance(recipe, list) and len(recipe) == 4):
            raise BadRequest("a ref's recipe has another form")
        pack, offset, length, id_ = recipe
        if not (isinstance(id_, bytes) and (pack is None or isinstance(pack, bytes))):
            raise BadRequest("a ref's recipe has another type")
        place = RecipePlace(None if pack is None else Digest(pack), offset, length, id_)
    if "meta" in found and not found["meta"]:
        raise BadRequest("a ref's attributes are not in their one form")
    if "target" in found and found["target"] is None:
        raise BadRequest("a ref's attributes are not in their one form")
    try:
        attributes = Attributes(
            found.pop("size"),
            found.pop("mtime"),
            found.pop("mode"),
            found.pop("target", None),
            found.pop("meta", {}),
            found,
        )
    except KeyError as error:
        raise BadRequest(f"a ref lacks the attribute {error}") from error
    return RefSealed(path, attributes, place, run_start)


def check(clear: RefClear, sealed: RefSealed, *, whole: bool) -> None:
    """BadRequest unless the fields are in bounds and go together; ``whole``: the recipe's pack must be named."""
    if not 1 <= clear.version <= _U63 or (clear.previous is not None and clear.version == 1):
        raise BadRequest(f"a ref's versions begin at 1, and the first has no previous one (version {clear.version})")
    if len(clear.name_tag) != TAG_BYTES or len(clear.parent_tag) != TAG_BYTES:
        raise BadRequest(f"a ref's tags have {TAG_BYTES} bytes")
    if not 0 <= clear.generation <= GENERATION_MAX:
        raise BadRequest(f"a generation is a number from 0 to {GENERATION_MAX}, not {clear.generation}")
    if not 0 <= clear.survive <= 255:
        raise BadRequest(f"survive is a number from 0 to 255, not {clear.survive}")
    if paths.normalise(sealed.path) != sealed.path:
        raise BadRequest("a ref's path is not in its one form (NFC)")
    _check_attributes(clear.kind, sealed.attributes)
    recipe = sealed.recipe
    if (recipe is not None) != (clear.kind is RefKind.FILE):
        raise BadRequest("files have a recipe, and nothing else has")
    if recipe is None:
        if sealed.run_start != 0 or type(sealed.run_start) is not int:
            raise BadRequest("a ref without a recipe has no run")
        return
    if whole and recipe.pack is None:
        raise BadRequest("a record names the recipe's pack")
    if not all(type(number) is int for number in (recipe.offset, recipe.length, sealed.run_start)):
        raise BadRequest("a ref's recipe has another type")
    if (
        len(recipe.id) != CHUNK_ID_BYTES
        or not SEAL_OVERHEAD < recipe.length <= CHUNK_BYTES_MAX + SEAL_OVERHEAD
        or not HEADER_BYTES + CHUNK_ID_BYTES <= recipe.offset <= PACK_BYTES_MAX - recipe.length
        or not HEADER_BYTES <= sealed.run_start <= recipe.offset
    ):
        raise BadRequest("a ref places its recipe outside of a pack")


def _check_attributes(kind: RefKind, found: Attributes) -> None:
    numbers = (found.size, found.mtime_ns, found.mode)
    if not all(type(number) is int for number in numbers):
        raise BadRequest("a ref's size, time or mode is no number")
    if not (0 <= found.size <= _U63 and -_U63 <= found.mtime_ns <= _U63 and 0 <= found.mode <= 0o7777):
        raise BadRequest("a ref's size, time or mode is out of bounds")
    if (found.target is not None) != (kind is RefKind.LINK):
        raise BadRequest("links have a target, and nothing else has")
    if found.target is not None:
        _check_target(found.target)
    if not isinstance(found.meta, Mapping):
        raise BadRequest("user metadata are pairs of texts")
    if found.meta:
        if not all(isinstance(text, str) for pair in found.meta.items() for text in pair):
            raise BadRequest("user metadata are pairs of texts")
        try:
            size = sum(len(text.encode("utf-8")) for pair in found.meta.items() for text in pair)
        except UnicodeEncodeError as error:
            raise BadRequest("user metadata must be UTF-8") from error
        if size > META_BYTES_MAX:
            raise TooLarge(f"user metadata take {size} bytes; the limit is {META_BYTES_MAX}")
    if found.extra and not _KNOWN.isdisjoint(found.extra):
        raise BadRequest("an extra attribute has the name of a known one")


_KNOWN = frozenset({"size", "mode", "mtime", "target", "meta"})


def _check_target(target: object) -> None:
    try:
        if isinstance(target, str) and 0 < len(target.encode("utf-8")) <= TARGET_BYTES_MAX and "\0" not in target:
            return
    except UnicodeEncodeError:
        pass
    raise BadRequest(f"a link's target is 1 to {TARGET_BYTES_MAX} bytes of UTF-8")
