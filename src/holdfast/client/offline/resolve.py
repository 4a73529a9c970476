"""A person's word about what waits in the outbox: which side of a conflict stays, and a copy of both to look at."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from holdfast.auth.identity import Id
from holdfast.blob import Buffer
from holdfast.client.device.local import PartFile
from holdfast.client.names.names import Found
from holdfast.client.offline.names_here import NamesHere
from holdfast.client.offline.ref_entry import KIND, decode, elsewhere
from holdfast.client.reading.content import ContentReader
from holdfast.codec.keys import VaultKeys
from holdfast.codec.paths import PART_BYTES_MAX
from holdfast.codec.refs import RefKind
from holdfast.errors import BadRequest, Corrupt, NotFound
from holdfast.files import Files
from holdfast.outbox import http_entry
from holdfast.outbox.entry import Entry, NewEntry, State
from holdfast.outbox.outbox import Keep, Outbox
from holdfast.pool import Pool

NAMES_TRIED_MAX = 1000


class Resolver:
    """For one vault and its outbox."""

    def __init__(
        self,
        keys: VaultKeys,
        outbox: Outbox,
        names: NamesHere,
        content: ContentReader,
        files: Files,
        pool: Pool,
    ) -> None:
        self._keys = keys
        self._outbox = outbox
        self._names = names
        self._content = content
        self._files = files
        self._pool = pool

    async def resolve(self, sequence: int, keep: Keep, host: str) -> dict[str, str]:
        """Ends a conflict; see ``Outbox.resolve``. Returns old -> new name of what is kept beside theirs.

        NotFound; BadRequest if it is no conflict, or cannot be resolved so.
        """
        entry = await self._outbox.queue.find(sequence)
        if entry.state is not State.CONFLICT:
            raise BadRequest(f"entry {sequence} is no conflict, it is {entry.state.label}")
        if keep == "mine":
            self._check_mine(entry)
        if keep != "both":
            await self._outbox.resolve(sequence, keep)
            return {}
        if entry.kind != KIND:
            return await resolve_http(self._outbox, sequence, keep, host)
        label = f"conflict {_day(entry)} {host}"
        marked = {path: await self._free_name(path, label) for path in _disputed(entry)}
        await self._outbox.resolve(sequence, "both", elsewhere(entry, self._keys, marked))
        return marked

    async def save(self, sequence: int, directory: Path) -> list[Path]:
        """Writes both sides of an entry below ``directory``: ``mine-NAME`` and ``theirs-NAME``; what has no bytes is
        left out. Exists, NotFound, Corrupt."""
        entry = await self._outbox.queue.find(sequence)
        await self._pool.run(self._files.make_directory, directory)
        saved = []
        for name, source in self._mine(entry):
            saved.append(await self._save(source, directory / f"mine-{name}"))
        if entry.theirs is not None and entry.theirs.open is not None:
            base = entry.theirs.facts.get("name") or entry.keys[0]
            saved.append(await self._save(entry.theirs.open(), directory / f"theirs-{_base(base)}"))
        return saved

    def _mine(self, entry: Entry) -> list[tuple[str, AsyncIterator[Buffer]]]:
        if entry.kind != KIND:
            return [] if entry.open is None else [(_base(entry.keys[0]), entry.open())]
        if not entry.payload:
            raise Corrupt(f"entry {entry.sequence} is damaged: {entry.reason}")
        found = []
        for change in decode(entry.payload).named():
            ref = change.open(self._keys)
            if ref.clear.kind is RefKind.FILE:
                stream = self._content.stream(Found(ref, change.record, change.keep, {}), 0, None)
                found.append((_base(change.path), stream))
        return found

    async def _save(self, source: AsyncIterator[Buffer], target: Path) -> Path:
        part = await self._pool.run(PartFile, self._files, target, 0)
        at = 0
        try:
            async for piece in source:
                await self._pool.run(part.write, piece, at)
                at += len(piece)
            now = await self._pool.run(lambda: target.parent.stat().st_mtime_ns)
            await self._pool.run(lambda: part.finish(at, 0o600, now, replace=False))
        except BaseException:
            await self._pool.run(part.remove)
            raise
        return target

    def _check_mine(self, entry: Entry) -> None:
        theirs = None if entry.theirs is None else entry.theirs.facts.get("kind")
        if entry.kind != KIND or theirs != "directory":
            return
        raise BadRequest(
            f"{entry.keys[0]} is a directory by now, with names below it; keep both, or theirs, or remove it first "
            "(holdfast rm -r) and retry"
        )

    async def _free_name(self, path: str, label: str) -> str:
        for number in range(1, NAMES_TRIED_MAX):
            found = conflict_name(path, label if number == 1 else f"{label} {number}")
            try:
                await self._names.find(found)
            except NotFound:
                return found
        raise BadRequest(f"{path} has too many copies from conflicts; remove some of them")


def conflict_name(path: str, label: str) -> str:
    """``path (label)``, its last part cut where it would be too long."""
    above, slash, base = path.rpartition("/")
    room = PART_BYTES_MAX - len(f" ({label})".encode())
    base = base.encode()[:room].decode("utf-8", "ignore")
    return f"{above}{slash}{base} ({label})"


def sides(entry: Entry) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """What is known of (mine, theirs) without the vault's keys; theirs None unless it is a conflict."""
    mine: list[dict[str, Any]] = []
    if entry.kind == KIND and entry.payload:
        for change in decode(entry.payload).named():
            kind = "deletion" if change.kind == RefKind.TOMBSTONE else RefKind(change.kind).name.lower()
            mine.append({"name": change.path, "kind": kind, "size": change.size, "mtime_ns": change.mtime_ns})
    elif entry.payload:
        mine.append({"name": entry.keys[0], "kind": entry.payload.get("method", ""), "size": entry.size})
    if entry.theirs is None:
        return mine, None
    theirs = {name: value for name, value in entry.theirs.facts.items() if name != "base" and value is not None}
    theirs |= {"absent": entry.theirs.absent, "kept_bytes": entry.theirs.size}
    return mine, theirs


def _disputed(entry: Entry) -> list[str]:
    base = {} if entry.theirs is None else entry.theirs.facts.get("base")
    found = [change.path for change in decode(entry.payload).named()]
    return [path for path in found if isinstance(base, dict) and path in base] or found


async def resolve_http(outbox: Outbox, sequence: int, keep: Keep, host: str) -> dict[str, str]:
    """As ``Resolver.resolve``, for an entry that is no change of names: no vault is needed."""
    entry = await outbox.queue.find(sequence)
    if entry.kind == KIND:
        raise BadRequest(f"entry {sequence} is a change of names; only its vault can resolve it")
    if keep != "both":
        await outbox.resolve(sequence, keep)
        return {}
    new = http_elsewhere(entry, f" (conflict {_day(entry)} {host})")
    await outbox.resolve(sequence, "both", new)
    return {entry.keys[0]: new.keys[0]}


def _day(entry: Entry) -> str:
    return datetime.datetime.fromtimestamp(entry.created).strftime("%Y-%m-%d")


def http_elsewhere(entry: Entry, suffix: str) -> NewEntry:
    """The same PUT to a URL whose path has the suffix."""
    if entry.payload["method"] != "PUT":
        raise BadRequest("a deletion cannot be kept beside what is there; keep mine or theirs")
    if "node" in entry.payload:  # a manifest holds its own name
        raise BadRequest(
            "a manifest cannot get another name here: keep mine or theirs, or push it anew under another name"
        )
    headers = dict(entry.payload["headers"])
    node = entry.payload.get("node")
    made = http_entry.put(
        entry.keys[0] + quote(suffix),
        content_type=headers.pop("content-type", "application/octet-stream"),
        if_absent=True,
        headers=headers,
        token_file=Path(entry.payload["token_file"]) if "token_file" in entry.payload else None,
        node=None if node is None else Id.parse(node),
    )
    return NewEntry(made.kind, entry.purpose, made.keys, made.target, made.payload, made.needs)


def _base(name: str) -> str:
    """A name for a file on this machine."""
    if "://" in name:
        name = unquote(urlsplit(name).path)
    base = name.rstrip("/").rpartition("/")[2].replace("\0", "")
    return base if base not in ("", ".", "..") else "content"
