"""Memory by process while files of very different sizes stream through: it must not grow with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import IO

from bench.local import Holdfast
from bench.measure import GIB, MIB, Scale
from bench.peak_memory import peak_bytes
from bench.raw_pipeline import environment
from bench.report import Figure, at_most

_SMALL = MIB
_PIECE_BYTES = 4 * MIB
_GROWTH_MAX = 1.15
"""Between 1 GiB and the largest size: buffers are in use by then, so what still grows would grow for ever."""
_KEPT_FREE = 4 * GIB


def run(scale: Scale, directory: Path) -> list[Figure]:
    """One copy on one node, streamed from and to a pipe, so that only the sealed bytes lie on the disk."""
    sizes = sorted({_SMALL, min(GIB, scale.memory_size)})
    if scale.stream_size > sizes[-1]:
        if shutil.disk_usage(directory).free > scale.stream_size + _KEPT_FREE:
            sizes.append(scale.stream_size)
        else:
            print(f"memory: no room for {_words(scale.stream_size)}: left out", file=sys.stderr)
    found: list[dict[str, int]] = []
    for size in sizes:
        below = directory / f"{size}"
        found.append(_peaks(size, below))
        shutil.rmtree(below)
    figures = []
    for who in found[0]:
        for number, size in enumerate(sizes):
            peak, before = found[number][who] / MIB, found[min(1, len(found) - 1)][who] / MIB
            name = f"peak memory, {who}, a stream of {_words(size)}"
            if number < 2:
                figures.append(Figure(name, peak, "MiB"))
            else:
                goal = at_most(round(before * _GROWTH_MAX))
                figures.append(Figure(name, peak, "MiB", before, _words(sizes[1]), goal))
    return figures


def _peaks(size: int, directory: Path) -> dict[str, int]:
    """Bytes that each process had resident at most; a network of its own for each size."""
    directory.mkdir(parents=True)
    report = directory / "peak"
    peaks: dict[str, int] = {}
    with Holdfast(directory / "network", nodes=1, survive=0) as ours:
        environment_ = {**environment(), "HOLDFAST_HOME": str(ours.home)}
        command = [sys.executable, "-m", "bench.peak_memory", str(report)]
        put = subprocess.Popen([*command, "put", "-", "--as", "stream", "-q"], stdin=subprocess.PIPE, env=environment_)
        assert put.stdin is not None
        sent = _send(put.stdin, size)
        if put.wait():
            raise RuntimeError("the put failed")
        peaks["client's put"] = int(report.read_text())
        get = subprocess.Popen([*command, "get", "stream", "-o", "-", "-q"], stdout=subprocess.PIPE, env=environment_)
        assert get.stdout is not None
        came = _receive(get.stdout)
        if get.wait() or came != sent:
            raise ValueError("the stream came back as other bytes")
        peaks["client's get"] = int(report.read_text())
        node, coordinator = ours.network.nodes[0].pid, ours.network.coordinator.pid
        assert node is not None
        assert coordinator is not None
        peaks["node"], peaks["coordinator"] = peak_bytes(node), peak_bytes(coordinator)
    return peaks


def _send(pipe: IO[bytes], size: int) -> bytes:
    """``size`` bytes of which no two chunks are the same; their digest."""
    piece = bytearray(os.urandom(_PIECE_BYTES))
    state = sha256()
    with pipe:
        for start in range(0, size, _PIECE_BYTES):
            piece[:8] = start.to_bytes(8)
            part = memoryview(piece)[: min(_PIECE_BYTES, size - start)]
            state.update(part)
            pipe.write(part)
    return state.digest()


def _receive(pipe: IO[bytes]) -> bytes:
    state = sha256()
    with pipe:
        while part := pipe.read(_PIECE_BYTES):
            state.update(part)
    return state.digest()


def _words(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"
