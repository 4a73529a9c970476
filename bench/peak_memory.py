"""``python -m bench.peak_memory REPORT ARGUMENT...``: the command line with ARGUMENTs, then its peak memory in REPORT.

A process of its own, so that the figure is the client's alone.
"""

from __future__ import annotations

import sys
from pathlib import Path


def peak_bytes(process: str | int = "self") -> int:
    """The largest resident memory that a process ever had (VmHWM)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise ValueError(f"process {process} has no memory of its own")


def main(report: Path, arguments: list[str]) -> int:
    """The command line's exit code."""
    from holdfast.cli.main import run

    code = run(arguments)
    report.write_text(str(peak_bytes()))
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
