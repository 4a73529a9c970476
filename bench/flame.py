"""``python -m bench.flame put|get|puts|gets -o FILE.svg``: where the processor goes, as a flame graph.

py-spy (from ``make peers``) samples the client and one node while they work; ``puts`` and ``gets`` are small ones, one
after another. Widths are shares of the samples of all processes looked at; the colour says whose code it is.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from bench.local import Holdfast
from bench.measure import GIB, MIB, random_file, work_directory
from bench.peers.environment import program

_RATE = 250  # samples a second
_WIDTH = 1000
_ROW = 16
_SHARE_MIN = 0.004  # of all samples; narrower frames are left out
_LETTER = 6.1  # width of one
_COLOURS = (
    ("client|sdk|cli", "#7fb7e8"),
    ("codec|auth|blob", "#e8c170"),
    ("wire", "#9fd08a"),
    ("node|stores|files|metadata|coordinator", "#e59a8a"),
    ("pool|clock|worker|telemetry|logs", "#c6b3e0"),
)
_OTHER = "#cfcfcf"
_WAITING = {"_work": "pool.py", "_do_waitpid": "unix_events.py", "select": "selectors.py"}
"""Innermost functions of threads that only wait, by file."""
_FRAME = re.compile(r"(?P<name>.+?) \((?P<file>[^()]*?)(?::\d+)?\)")


@dataclass
class Frame:
    """One function in one place of the stack: samples in it and below it."""

    name: str
    file: str = ""
    samples: int = 0
    below: dict[str, Frame] = field(default_factory=dict)


def grown(root: Frame, raw: str) -> None:
    """Adds py-spy's raw lines, ``outer;...;inner COUNT``, below ``root``."""
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        innermost = _FRAME.fullmatch(stack.rpartition(";")[2])
        if not count.isdigit() or (innermost and innermost["file"].endswith(_WAITING.get(innermost["name"], "\0"))):
            continue
        at = root
        at.samples += int(count)
        for text in _from_loop(stack.split(";")):
            found = _FRAME.fullmatch(text)
            name, file = (found["name"], found["file"]) if found else (text, "")
            at = at.below.setdefault(f"{name} {file}", Frame(name, file))
            at.samples += int(count)


def _from_loop(stack: list[str]) -> list[str]:
    """Without what lies below the event loop's steps and the pools' jobs: it is the same for all."""
    for at, text in enumerate(stack):
        if text.startswith(("_run_once (", "_work (")):
            return stack[at:]
    return stack


def drawn(root: Frame, title: str) -> str:
    """The SVG: the whole at the bottom, what it calls above it. Readable on light and on dark ground."""
    least = root.samples * _SHARE_MIN
    depth = _depth(root, least)
    height = (depth + 2) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="monospace" '
        'font-size="10">',
        "<style>.t{fill:#222}rect{stroke:#fff;stroke-width:.4}",
        "@media (prefers-color-scheme:dark){.t{fill:#ddd}}</style>",
        f'<text class="t" x="2" y="12">{escape(title)}</text>',
    ]

    def draw(frame: Frame, left: float, level: int) -> None:
        width = _WIDTH * frame.samples / root.samples
        top = height - (level + 1) * _ROW
        share = f"{frame.name} {_place(frame.file)} {frame.samples / root.samples:.1%}"
        letters = int((width - 4) / _LETTER)
        label = escape(frame.name[:letters]) if letters >= 3 else ""
        parts.append(
            f'<g><title>{escape(share)}</title><rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_ROW - 1}" '
            f'fill="{_colour(frame.file)}"/><text x="{left + 2:.1f}" y="{top + 11}">{label}</text></g>'
        )
        for child in sorted(frame.below.values(), key=lambda one: -one.samples):
            if child.samples >= least:
                draw(child, left, level + 1)
                left += _WIDTH * child.samples / root.samples

    draw(root, 0.0, 0)
    return "\n".join([*parts, "</svg>", ""])


def _depth(frame: Frame, least: float) -> int:
    return 1 + max((_depth(child, least) for child in frame.below.values() if child.samples >= least), default=0)


def _place(file: str) -> str:
    return file.partition("holdfast/")[2] or Path(file).name


def _colour(file: str) -> str:
    room = re.split(r"[/.]", file.partition("holdfast/")[2])[0] if "holdfast/" in file else ""
    return next((colour for rooms, colour in _COLOURS if room in rooms.split("|")), _OTHER)


@contextlib.contextmanager
def _watched(processes: dict[str, int], directory: Path, root: Frame) -> Iterator[None]:
    """Samples ``processes`` while the context lasts; each gets a frame of its own below ``root``."""
    command = [str(program("py-spy")), "record", "--format", "raw", "--full-filenames", "--nolineno"]
    command += ["--rate", str(_RATE), "--duration", "600"]
    spies = {}
    for name, pid in processes.items():
        output = directory / f"{name}.raw"
        spies[output] = subprocess.Popen(
            [*command, "--output", str(output), "--pid", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    time.sleep(1.0)  # until they have read the processes' memory maps
    try:
        yield
    finally:
        for spy in spies.values():
            spy.send_signal(signal.SIGINT)
        for output, spy in spies.items():
            spy.wait(60)
            part = Frame(output.stem)
            grown(part, output.read_text())
            root.below[part.name] = part
            root.samples += part.samples


def record(kind: str, size: int, singles: int, directory: Path) -> Frame:
    """The samples of one kind of work, on six nodes with five copies."""
    root = Frame("all")
    source = random_file(directory / "source", size)
    bodies = {f"single-{number}": os.urandom(4096) for number in range(singles)}
    with Holdfast(directory / "holdfast", nodes=6, survive=4) as ours:
        works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "put": (lambda: None, lambda: ours.do(ours.vault.put(source, "large"))),
            "get": (
                lambda: ours.do(ours.vault.put(source, "large")),
                lambda: ours.do(ours.vault.get("large", directory / "got")),
            ),
            "puts": (lambda: ours.put_singles({"warm": b"up"}), lambda: ours.put_singles(bodies)),
            "gets": (lambda: ours.put_singles(bodies, 16), lambda: ours.read_singles(list(bodies))),
        }
        before, work = works[kind]
        before()
        node, coordinator = ours.network.nodes[0].pid, ours.network.coordinator.pid
        assert node is not None
        assert coordinator is not None
        with _watched({"client": os.getpid(), "one node of six": node, "coordinator": coordinator}, directory, root):
            work()
    return root


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__)
    parser.add_argument("kind", choices=["put", "get", "puts", "gets"])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", type=int, default=GIB // MIB, help="MiB of the large file [1024]")
    parser.add_argument("--singles", type=int, default=1000, help="small files [1000]")
    options = parser.parse_args()
    if program("py-spy") is None:
        print("no py-spy: `make peers` brings it", file=sys.stderr)
        return 1
    with work_directory() as directory:
        root = record(options.kind, options.size * MIB, options.singles, directory)
    what = {"put": "put of a large file", "get": "get of a large file to a file"}
    title = what.get(options.kind, f"small {options.kind}, one after another")
    options.output.write_text(drawn(root, f"{title}: five copies on six nodes; client, one node and coordinator"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
