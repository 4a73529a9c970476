"""Mutants: patches of ``src/holdfast`` that each break one promise or defence, and the test that must notice.

A patch is a unified diff under two lines that say which promise of docs/design.md, or which row of SECURITY.md, it
breaks, and which test fails then:

    Promise: ...
    Test: tests/ROOM/test_FILE.py::test_NAME

A hunk is found by its lines and not by its numbers, so that it keeps applying while the file around it grows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent
ROOT = DIRECTORY.parents[1]

_HEADER = re.compile(r"Promise: (\S.*)\nTest: (\S+)\n\n?")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class BadPatch(Exception):
    """A patch that cannot be read, or that does not fit the tree any more; says which and why."""


@dataclass(frozen=True)
class Hunk:
    """Whole lines that are there before and after."""

    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One patch. ``test`` is a pytest node id; ``files``: path below the root -> its hunks."""

    name: str
    promise: str
    test: str
    files: Mapping[str, Sequence[Hunk]]

    def apply(self, root: Path) -> None:
        """Changes the files below ``root``; BadPatch, and nothing is changed, if a hunk does not fit exactly once."""
        changed: dict[Path, str] = {}
        for path, hunks in self.files.items():
            file = root / path
            if not file.is_file():
                raise BadPatch(f"{self.name}: there is no {path}")
            text = "\n" + file.read_text(encoding="utf-8")
            for hunk in hunks:
                at = text.find("\n" + hunk.old)
                if at < 0 or text.find("\n" + hunk.old, at + 1) >= 0:
                    many = "no place" if at < 0 else "several places"
                    raise BadPatch(f"{self.name}: a hunk fits {many} of {path}, it must be one:\n{hunk.old}")
                text = text[: at + 1] + hunk.new + text[at + 1 + len(hunk.old) :]
            changed[file] = text[1:]
        for file, text in changed.items():
            file.write_text(text, encoding="utf-8")


def parse(name: str, text: str) -> Mutant:
    """The mutant in a patch file; BadPatch for any other form."""
    header = _HEADER.match(text)
    if header is None or not _NAME.fullmatch(name):
        raise BadPatch(f"{name}: a patch has a lower-case name and begins with the lines Promise: and Test:")
    files: dict[str, list[Hunk]] = {}
    hunks: list[Hunk] = []
    old: list[str] = []
    new: list[str] = []

    def end() -> None:
        if old or new:
            if old == new:
                raise BadPatch(f"{name}: a hunk changes nothing")
            hunks.append(Hunk("".join(old), "".join(new)))
        old.clear()
        new.clear()

    for line in text[header.end() :].splitlines(keepends=True):
        if line.startswith("--- a/src/holdfast/"):
            end()
            hunks = files.setdefault(line.removeprefix("--- a/").strip(), [])
        elif line.startswith("+++ b/"):
            if line.removeprefix("+++ b/").strip() not in files:
                raise BadPatch(f"{name}: a mutant changes files and neither makes nor moves them")
        elif line.startswith("@@ ") and files:
            end()
        elif line[:1] in (" ", "-", "+") and files:
            if line[0] != "+":
                old.append(line[1:])
            if line[0] != "-":
                new.append(line[1:])
        else:
            raise BadPatch(f"{name}: a line is no part of a unified diff of src/holdfast: {line!r}")
    end()
    if not files or not all(files.values()):
        raise BadPatch(f"{name}: changes nothing")
    return Mutant(name, header[1].strip(), header[2], files)


def load_all(directory: Path = DIRECTORY) -> list[Mutant]:
    """All mutants, by name."""
    return [parse(path.stem, path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.patch"))]


def table(mutants: Sequence[Mutant]) -> str:
    """The list in docs/track-record.md."""
    rows = [f"| {mutant.name} | {mutant.promise} | `{mutant.test.removeprefix('tests/')}` |" for mutant in mutants]
    return "\n".join(["| mutant | what it breaks | the test that fails |", "|---|---|---|", *rows]) + "\n"
