"""A node of very many blobs is started after a clean stop and after SIGKILL: until it serves, until it has compared.

The blobs are hard links to a few small files, and their rows come by SQL: a start hashes none of them, and nobody waits
for a million syncs. One blob has no row, so that the log says when store and ledger have been compared.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import apsw

from bench.measure import Rounds, Scale
from bench.report import Figure, at_most
from holdfast.auth.identity import Id
from holdfast.codec.pack_layout import encode_header

_SERVES_S_MAX = 2.0
_COMPLETE_S_MAX = 60.0
_LINKS_MAX = 60_000  # of one file, on ext4
_BLOB_BYTES = 100
_VAULT = Id(bytes(range(32)))
_PER_TRANSACTION = 50_000


def run(scale: Scale, directory: Path) -> list[Figure]:
    """Three starts after each end."""
    data = directory / "node"
    subprocess.run([*_holdfast, "node", "init", "--data", str(data), "--alone"], check=True, capture_output=True)
    node = _Node(data, directory / "log")
    node.start()
    node.end(signal.SIGTERM)  # so that its ledger is there
    fill(data, scale.blobs)
    clean, unclean, complete, busy = Rounds(), Rounds(), Rounds(), Rounds()
    node.start()  # the first start finds what was made behind its back, and counts all of it
    for _ in range(scale.repeat):
        node.wait_compared()
        node.end(signal.SIGTERM)
        clean.add(node.start())
        node.end(signal.SIGKILL)
        _unlisted(data)
        unclean.add(node.start())
        took, processor = node.wait_compared()
        complete.add(took)
        busy.add(processor)
    node.end(signal.SIGKILL)
    what = f"{scale.blobs:,} blobs"
    return [
        Figure(f"serves after a clean stop, {what}", clean.median, "s", goal=at_most(_SERVES_S_MAX), rounds=_of(clean)),
        Figure(f"serves after SIGKILL, {what}", unclean.median, "s", goal=at_most(_SERVES_S_MAX), rounds=_of(unclean)),
        Figure(
            f"inventory complete after SIGKILL, {what}",
            complete.median,
            "s",
            goal=at_most(_COMPLETE_S_MAX),
            rounds=_of(complete),
        ),
        Figure("processor time of that", busy.median, "s", rounds=_of(busy)),
    ]


_holdfast = (sys.executable, "-m", "holdfast")


def _of(rounds: Rounds) -> tuple[float, ...]:
    return tuple(rounds.values)


class _Node:
    """The process."""

    def __init__(self, data: Path, log: Path) -> None:
        self._data = data
        self._log = log
        self._process: subprocess.Popen[bytes]
        self._began = 0.0

    def start(self) -> float:
        """Seconds until it says that it serves."""
        self._log.unlink(missing_ok=True)
        command = [*_holdfast, "node", "run", "--json", "-v", "--data", str(self._data), "--listen", "127.0.0.1:0"]
        self._began = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()), self._log.read_text()
        return time.perf_counter() - self._began

    def wait_compared(self) -> tuple[float, float]:
        """Seconds since the start until store and ledger were compared, and of the processor."""
        while b"ledger_reconciled" not in self._log.read_bytes():
            if self._process.poll() is not None:
                raise RuntimeError(self._log.read_text()[-2000:])
            time.sleep(0.1)
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return time.perf_counter() - self._began, ticks / os.sysconf("SC_CLK_TCK")

    def end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def fill(data: Path, count: int) -> None:
    """``count`` blobs with their rows into a node that is stopped, as after a crash."""
    chance = random.Random(count)
    digests = [chance.randbytes(32) for _ in range(count)]
    content = encode_header(1, _VAULT).ljust(_BLOB_BYTES, b"x")
    source = data / "source"
    for number, digest in enumerate(digests):
        if number % _LINKS_MAX == 0:
            source.unlink(missing_ok=True)
            source.write_bytes(content)
        text = digest.hex()
        os.link(source, data / "objects" / text[:2] / text)
    source.unlink()
    ledger = apsw.Connection(str(data / "ledger.db"))
    ledger.execute("PRAGMA synchronous = OFF")
    for first in range(0, count, _PER_TRANSACTION):
        part = enumerate(digests[first : first + _PER_TRANSACTION], first + 1)
        with ledger:
            ledger.executemany(
                "INSERT INTO blobs VALUES (?, ?, ?, 'vault', ?, 1, NULL, NULL)",
                ((digest, number, _BLOB_BYTES, bytes(_VAULT)) for number, digest in part),
            )
    ledger.execute("UPDATE facts SET value = 0 WHERE name = 'clean'; DELETE FROM totals")
    ledger.close()
    (data / "clean.json").unlink(missing_ok=True)
    _unlisted(data)


def _unlisted(data: Path) -> None:
    """One blob more, without a row."""
    text = os.urandom(32).hex()
    (data / "objects" / text[:2] / text).write_bytes(encode_header(1, _VAULT).ljust(_BLOB_BYTES, b"x"))
