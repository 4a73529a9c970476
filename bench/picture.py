"""``python -m bench.picture RESULT.json... -o FILE.svg``: the figures of the README as bars, readable on any ground.

A bar is the share of what plain sockets and threads reach in the same run, or of what another system does; 100 % is
as fast. Of several results the latest one that holds a figure counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

ROWS = {
    "of the raw pipeline: plain sockets and threads that do only what is necessary": (
        ("put, one large file", "put a large file, 5 copies"),
        ("get, one large file as a stream", "get it as a stream"),
        ("get, one large file to a file", "get it to a file"),
        ("put, a directory of small files", "put 10,000 small files"),
        ("get, a directory of small files", "get 10,000 small files"),
        ("put, small ones, 16 at once", "put small ones, 16 at once"),
        ("put, small ones one after another", "put small ones, one by one"),
        ("repair of a lost node, nobody reading", "repair of a lost node"),
    ),
    "of other systems on the same machine": (
        ("put, one large file, full copies", "put large, Tahoe-LAFS, 5 copies"),
        ("get, one large file to a file, full copies", "get large, Tahoe-LAFS, 5 copies"),
        ("put, one large file, 1 copy, in memory", "put large, restic, 1 copy"),
        ("put, one large file, 3 copies", "put large, SeaweedFS, 3 copies"),
        ("get, one large file to a file, 3 copies", "get large, SeaweedFS, 3 copies"),
        ("put, small ones, 16 at once, 3 copies", "put small, SeaweedFS, 16 at once"),
        ("put, small ones one after another, 3 copies", "put small, SeaweedFS, one by one"),
        ("get, small ones one after another, 3 copies", "get small, SeaweedFS, one by one"),
        ("exchange, local hit of 64 MiB", "plain blob of 64 MiB, nginx"),
    ),
}
_SHARE_MAX = 2.0  # longer bars are cut off, with their number beside them
_LEFT, _WIDTH, _ROW = 250, 400, 20
_STYLE = (
    "text{font:12px sans-serif;fill:#24292f}.h{font-weight:bold}.n{fill:#57606a}.b{fill:#3b82c4}.l{fill:#d08b3c}"
    ".g{stroke:#8c959f;stroke-dasharray:3 3}"
    "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9da7b1}.b{fill:#58a6e8}.l{fill:#e3a857}}"
)


def latest(documents: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Figures by name, of the latest document that has each."""
    found: dict[str, Mapping[str, Any]] = {}
    for document in sorted(documents, key=lambda one: str(one["taken"])):
        found.update({figure["name"]: figure for figure in document["figures"]})
    return found


def drawn(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The SVG; rows without a figure are left out, ValueError if none is there."""
    parts: list[str] = []
    top = 4
    for title, rows in ROWS.items():
        there = [(figures[name], label) for name, label in rows if figures.get(name, {}).get("ratio")]
        if not there:
            continue
        parts.append(f'<text class="h" x="4" y="{top + 14}">{escape(title)}</text>')
        top += _ROW + 4
        for figure, label in there:
            parts.append(_row(figure, label, top))
            top += _ROW
        top += 8
    if not parts:
        raise ValueError("these results hold none of the figures of the picture")
    whole = _LEFT + _WIDTH / _SHARE_MAX
    line = f'<line class="g" x1="{whole:.0f}" y1="4" x2="{whole:.0f}" y2="{top}"/>'
    legend = f'<text class="n" x="{whole - 18:.0f}" y="{top + 12}">100 %</text>'
    height = top + 18
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 190} {height}" role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", line, *parts, legend, "</svg>", ""])


def _row(figure: Mapping[str, Any], label: str, top: int) -> str:
    share = float(figure["ratio"])
    width = max(_WIDTH * min(share, _SHARE_MAX) / _SHARE_MAX, 1)
    kind = "b" if share >= 1 else "l"
    said = f"{share:.0%}" if share < 10 else f"{share:.0f} times"
    value = f"{said}  ({float(figure['value']):,.0f} {figure['unit']})"
    return (
        f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>'
        f'<rect class="{kind}" x="{_LEFT}" y="{top + 3}" width="{width:.0f}" height="{_ROW - 6}" rx="2"/>'
        f'<text class="n" x="{_LEFT + width + 6:.0f}" y="{top + 14}">{escape(value)}</text>'
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.picture", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.write_text(drawn(latest(json.loads(path.read_text()) for path in options.results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
