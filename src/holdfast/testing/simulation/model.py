"""What the vault must hold: the naive twin of a simulation, against which every answer is checked.

A write that was acknowledged is certain. A write that failed may have happened, and may still happen as long as no
later write of its name was acknowledged: until then its outcome is one of several. Whatever is read freshly is one of
these, and is certain from then on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager


class Broken(AssertionError):
    """A promise was broken; the message says which."""


def _brief(content: bytes | None) -> str:
    if content is None:
        return "nothing"
    return f"{len(content)} bytes {hashlib.sha256(content).hexdigest()[:8]}"


class Name:
    """One name. ``None`` as content: there is no such file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.certain: bytes | None = None
        self.maybe: list[bytes | None] = []
        self.past: list[bytes | None] = [None]
        """All contents that it ever had or may have had."""
        self.versions: dict[int, bytes] = {}
        """What is known of its acknowledged versions."""
        self.version = 0
        """The highest that was acknowledged and told."""
        self.present: int | None = None
        """The version that ``certain`` is, where its acknowledgement told it."""
        self.changes = 0
        """Rises when a write begins and when it ends."""
        self.busy = asyncio.Lock()

    @contextmanager
    def writing(self, content: bytes | None) -> Iterator[None]:
        """A write is under way; call ``wrote`` inside when it was acknowledged."""
        self.changes += 1
        if content not in self.maybe:
            self.maybe.append(content)
        if content not in self.past:
            self.past.append(content)
        try:
            yield
        finally:
            self.changes += 1

    def wrote(self, content: bytes | None, version: int | None = None) -> None:
        """It was acknowledged."""
        self.certain = content
        self.maybe.clear()
        self.present = version
        if version is not None:
            if version <= self.version:
                raise Broken(f"{self.path}: version {version} was acknowledged after version {self.version}")
            self.version = version
            if content is not None:
                self.versions[version] = content

    def possible(self) -> list[bytes | None]:
        return [self.certain, *self.maybe]

    def read(self, content: bytes | None, *, fresh: bool) -> None:
        """What a reader was given. Unless ``fresh``, a device may say what it remembers."""
        if content in self.possible():
            if fresh:
                self.certain = content
            return
        if fresh or content not in self.past:
            expected = " or ".join(map(_brief, self.possible()))
            raise Broken(f"{self.path} reads as {_brief(content)}, not as {expected}")

    def read_part(self, part: bytes, start: int, stop: int, *, fresh: bool) -> None:
        """The same for a range."""
        allowed = self.possible() if fresh else self.past
        if not any(one is not None and one[start:stop] == part for one in allowed):
            raise Broken(f"{self.path}, bytes {start} to {stop}: {_brief(part)} are in no state that it can have")


class Model:
    """All names, and what is listed."""

    def __init__(self) -> None:
        self.names: dict[str, Name] = {}
        self.acknowledged = 0

    def name(self, path: str) -> Name:
        found = self.names.get(path)
        if found is None:
            found = self.names[path] = Name(path)
        return found

    def below(self, directory: str) -> list[Name]:
        return [one for one in self.names.values() if one.path.startswith(directory + "/")]

    @asynccontextmanager
    async def alone(self, names: Sequence[Name]):  # type: ignore[no-untyped-def]
        """Nobody else writes these meanwhile. Locks are taken in one order, so that nobody waits in a circle."""
        ordered = sorted(names, key=lambda one: one.path)
        taken: list[Name] = []
        try:
            for one in ordered:
                await one.busy.acquire()
                taken.append(one)
            yield
        finally:
            for one in taken:
                one.busy.release()

    def certain(self) -> list[Name]:
        """Names that hold something for sure."""
        return [one for one in self.names.values() if one.certain is not None and None not in one.maybe]

    def before_listing(self, directory: str) -> dict[str, int]:
        """Hand this to ``listed`` afterwards."""
        return {one.path: one.changes for one in self._in(directory)}

    def listed(self, directory: str, before: dict[str, int], entries: dict[str, int]) -> None:
        """``entries``: names in the directory, and below it, with their sizes, as a fresh listing gave them."""
        strange = sorted(entries.keys() - self.names.keys())
        if strange:
            raise Broken(f"{strange[0]} is listed in {directory!r}, but nobody ever put it")
        for one in self._in(directory):
            if before.get(one.path) != one.changes or one.busy.locked():
                continue  # it was written meanwhile
            possible: Collection[bytes | None] = one.possible()
            size = entries.get(one.path)
            if size is None and None not in possible:
                raise Broken(f"{one.path} is not listed in {directory!r}")
            if size is not None and all(content is None or len(content) != size for content in possible):
                raise Broken(f"{one.path} is listed with {size} bytes, not {' or '.join(map(_brief, possible))}")

    def _in(self, directory: str) -> list[Name]:
        return [one for one in self.names.values() if not directory or one.path.startswith(directory + "/")]
