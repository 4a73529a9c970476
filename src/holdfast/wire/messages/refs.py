"""Names as they are asked for, and the packs behind them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from holdfast.blob import Digest
from holdfast.wire.messages.form import HAS_DIGESTS_MAX, PAGE_MAX, REFS_ASKED_MAX, Answer, Request
from holdfast.wire.messages.nodes import NodeAddress


class PackPlaces(Answer, frozen=True, kw_only=True):
    """Who holds a pack: numbers of the ``nodes`` beside it, likeliest first."""

    digest: Digest
    size: int
    nodes: list[int]


class RefQuery(Request, frozen=True, kw_only=True):
    """``parent``: all entries of a directory by its tag; without it, all of the vault. ``after``: a name tag.

    ``trash``: deleted names of which a version is kept, instead of those that are there.
    """

    trash: bool = False
    parent: str | None = None
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class RefVersion(Answer, frozen=True, kw_only=True):
    """One version in a name's history; ``until``: seconds left before it goes, None for the present one."""

    record: bytes
    committed: float
    until: float | None = None


class RefPage(Answer, frozen=True, kw_only=True):
    """Records ascending by name tag, tombstones left out; places of the packs that hold their recipes.

    Of the trash: tombstones, and for each in ``kept`` the newest version of the name that is kept, with its end;
    ``committed`` there is when the name was deleted. ``after`` is the name tag (hex) to go on from, None at the end.
    """

    records: list[bytes]
    kept: list[RefVersion] = []
    packs: list[PackPlaces] = []
    nodes: list[NodeAddress] = []
    after: str | None = None
    unread: bool = False


class RefAnswer(Answer, frozen=True, kw_only=True):
    """One record (also a tombstone), its keep list and the places of all packs in it.

    An empty record: the name was deleted so long ago that only ``version`` and ``etag`` of its tombstone are left.
    """

    version: int = 0
    etag: Digest | None = None
    record: bytes
    keep: bytes
    packs: list[PackPlaces] = []
    nodes: list[NodeAddress] = []
    unread: bool = False


class RefsQuestion(Request, frozen=True, kw_only=True):
    """Names that are asked for together, by their tags."""

    tags: Annotated[list[Digest], Meta(min_length=1, max_length=REFS_ASKED_MAX)]


class FoundRef(Answer, frozen=True, kw_only=True):
    """What ``RefAnswer`` says of one name, without places. Neither record nor version: there never was such a name.

    ``large``: it needs so many packs that it is asked for alone.
    """

    version: int = 0
    etag: Digest | None = None
    record: bytes = b""
    keep: bytes = b""
    large: bool = False


class RefsAnswer(Answer, frozen=True, kw_only=True):
    """One for each tag, in the order asked; the places of all packs in their keep lists."""

    refs: list[FoundRef]
    packs: list[PackPlaces] = []
    nodes: list[NodeAddress] = []
    unread: bool = False


class RefHistory(Answer, frozen=True, kw_only=True):
    versions: list[RefVersion]


class VaultPacksQuery(Request, frozen=True, kw_only=True):
    """``unread``: only those that were adopted and that no device has read."""

    after: str | None = None
    unread: bool = False
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_MAX


class VaultPacks(Answer, frozen=True, kw_only=True):
    """The vault's packs ascending by digest, with places: for rebuilding a chunk index."""

    packs: list[PackPlaces]
    nodes: list[NodeAddress]
    after: str | None = None


class PacksRead(Request, frozen=True, kw_only=True):
    """Adopted packs that a device has read; what refs it found in them is committed."""

    digests: Annotated[list[Digest], Meta(min_length=1, max_length=HAS_DIGESTS_MAX)]
