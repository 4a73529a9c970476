"""Where a disk store keeps what, and how it knows that the right disk is mounted (docs/formats.md, Files on disk).

Nothing here decides when a file is durable; that is ``disk_commit``. Every function blocks and belongs in a pool.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from holdfast.blob import Digest
from holdfast.clock import Randomness
from holdfast.errors import BadConfig
from holdfast.files import Files, read_file, write_file

LAYOUT_VERSION = 1
STORE_ID_BYTES = 16
_LAYOUT_BYTES_MAX = 4096

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STORE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class _Layout(msgspec.Struct, forbid_unknown_fields=True):
    """The content of ``layout.json``."""

    version: int
    store_id: str


@dataclass(frozen=True)
class Layout:
    """The paths of one store."""

    root: Path

    @property
    def layout(self) -> Path:
        return self.root / "layout.json"

    @property
    def clean(self) -> Path:
        return self.root / "clean.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def ballast(self) -> Path:
        return self.root / "ballast"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    # What is asked for each blob is text: making paths led the profile of a small put.

    @cached_property
    def _text(self) -> str:
        return str(self.root)

    def directory(self, digest: Digest) -> str:
        """The one of the 256 directories that holds ``digest``."""
        return f"{self._text}/objects/{digest[:1].hex()}"

    def directories(self) -> list[Path]:
        """All 256, ascending."""
        return [self.objects / f"{number:02x}" for number in range(256)]

    def blob(self, digest: Digest) -> str:
        text = digest.hex()
        return f"{self._text}/objects/{text[:2]}/{text}"

    def temporary(self, number: int) -> str:
        """A file on the same file system that is no blob yet."""
        return f"{self._text}/incoming/{number}"


def create(files: Files, root: Path, randomness: Randomness) -> str:
    """Makes an empty store under ``root`` and returns its id; BadConfig if one is there already.

    ``layout.json`` is written last, so a call that was cut short leaves no store and may be made again.
    """
    paths = Layout(root)
    try:
        if files.size(paths.layout) is not None:
            raise BadConfig(f"{root} holds a store already; name an empty directory, or use the store that is there")
        for directory in (paths.objects, paths.incoming, paths.trash, paths.quarantine):
            files.make_directory(directory)
        make_directories(files, paths)
        store_id = randomness.bytes(STORE_ID_BYTES).hex()
        content = msgspec.json.encode(_Layout(LAYOUT_VERSION, store_id))
        write_file(files, paths.layout, content + b"\n", replace=False)
    except OSError as error:
        raise BadConfig(f"no store can be made in {root}: {error.strerror or error}") from error
    return store_id


def load(files: Files, root: Path, expected_id: str | None) -> str:
    """The id of the store under ``root``; BadConfig if there is none, or another than ``expected_id``."""
    try:
        data = read_file(files, Layout(root).layout, _LAYOUT_BYTES_MAX)
    except OSError as error:
        raise BadConfig(f"the store in {root} cannot be read: {error.strerror or error}") from error
    if data is None:
        raise BadConfig(f"there is no store in {root} (no layout.json). Is the disk mounted?")
    try:
        found = msgspec.json.decode(data, type=_Layout)
    except msgspec.MsgspecError as error:
        raise BadConfig(f"{root}/layout.json is damaged ({error}). Is it the right disk?") from error
    if found.version != LAYOUT_VERSION:
        raise BadConfig(f"the store in {root} has layout version {found.version}, this holdfast reads {LAYOUT_VERSION}")
    if _STORE_ID.fullmatch(found.store_id) is None:
        raise BadConfig(f"{root}/layout.json is damaged (the store id is not 32 hex digits). Is it the right disk?")
    if expected_id is not None and found.store_id != expected_id:
        raise BadConfig(
            f"{root} holds store {found.store_id}, but {expected_id} was there last time. Is the right disk mounted?"
        )
    return found.store_id


def make_directories(files: Files, paths: Layout) -> None:
    """Makes those of the 256 directories that are missing, durably: a put never has to make one."""
    made = [files.make_directory(directory, durable=False) for directory in paths.directories()]
    if any(made):
        files.sync_directory(paths.objects)


def names(files: Files, directory: Path, after: str = "") -> list[str]:
    """The names of blobs in one of the 256 directories, ascending, above ``after``; foreign ones are left out."""
    first = directory.name
    return [
        name
        for name in files.list(directory)
        if name > after and name.startswith(first) and _DIGEST.fullmatch(name) is not None
    ]
