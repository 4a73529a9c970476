"""The exchange between nodes beside nginx, a direct copy and the origin alone: real processes, turn and turn about.

Needs nginx. Ten nodes with limited links are a test on virtual time (``test_receivers_serve_each_other``).
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.exchange_cluster import Nginx, Node, Process, digest, has_nginx, port
from bench.exchange_load import copy, rate, read, request
from bench.measure import MIB, Scale, alternate, random_file
from bench.report import Figure, at_least, at_most, ratio_at_least
from holdfast.auth import signing
from holdfast.auth.identity import Id, Identity
from holdfast.clock import SystemRandomness

LARGE = 64 * MIB
SMALL = 4096
RACE_BYTES = 256 << 10
REQUESTS = 8000
CONNECTIONS = 16
CLIENTS = 50
MISSES = 200
_MIB_S = "MiB/s"


def run(scale: Scale, directory: Path) -> list[Figure]:
    """All figures of this page; none without nginx."""
    if not has_nginx():
        print("exchange: no nginx, so nothing to compare with: left out", file=sys.stderr)
        return []
    return [
        *_hits(scale, directory / "hits"),
        *_misses(scale, directory / "misses"),
        *_race(scale, directory / "race"),
        *_together(scale, directory / "together"),
    ]


def _blobs(directory: Path, sizes: list[int]) -> list[Path]:
    """Random files, each called by its digest."""
    directory.mkdir(parents=True)
    made = []
    for number, size in enumerate(sizes):
        path = random_file(directory / f"new-{number}", size)
        made.append(path.rename(directory / digest(path)))
    return made


def _hits(scale: Scale, directory: Path) -> list[Figure]:
    blobs = _blobs(directory / "blobs", [LARGE, *[SMALL] * 500])
    large, small = blobs[0], blobs[1:]
    with ExitStack() as stack:
        node = stack.enter_context(Node(directory / "node"))
        node.put(blobs, "blobs")
        nginx = stack.enter_context(Nginx(directory / "blobs", directory / "nginx"))
        ours: dict[str, list[float]] = {name: [] for name in ("large", "open", "open core", "signed", "signed core")}
        theirs: dict[str, list[float]] = {"large": [], "small": []}
        me, id_ = Identity.generate(SystemRandomness()), node.id

        def with_node(_: int) -> None:
            ours["large"].append(_rate_of(lambda: read(node.port, f"/v1/blobs/{large.name}")))
            paths = [f"/v1/blobs/{small[number % len(small)].name}" for number in range(REQUESTS)]
            for kind, wanted in (
                ("open", [request(node.port, path) for path in paths]),
                ("signed", [_signed(me, id_, node.port, path) for path in paths]),
            ):
                before = node.processor_s
                ours[kind].append(rate(node.port, wanted, CONNECTIONS))
                ours[kind + " core"].append(REQUESTS / (node.processor_s - before))

        def with_nginx(_: int) -> None:
            theirs["large"].append(_rate_of(lambda: read(nginx.port, f"/{large.name}")))
            plain = [request(nginx.port, f"/{small[number % len(small)].name}") for number in range(REQUESTS)]
            theirs["small"].append(rate(nginx.port, plain, CONNECTIONS))

        with_node(0)  # what runs first is slower, whatever it is
        with_nginx(0)
        for rounds in (*ours.values(), *theirs.values()):
            rounds.clear()
        alternate(scale.repeat, with_node, with_nginx)
    limit = statistics.median(theirs["small"])
    return [
        Figure("exchange, local hit of 64 MiB", statistics.median(ours["large"]), _MIB_S,
               statistics.median(theirs["large"]), "nginx", ratio_at_least(0.8), tuple(ours["large"]),
               tuple(theirs["large"])),
        Figure("exchange, open reads of 4 KiB", statistics.median(ours["open"]), "1/s", limit, "nginx",
               at_least(8000), tuple(ours["open"]), tuple(theirs["small"])),
        Figure("exchange, signed reads of 4 KiB", statistics.median(ours["signed"]), "1/s", limit, "nginx",
               at_least(3000), tuple(ours["signed"]), tuple(theirs["small"])),
        Figure("exchange, open reads of 4 KiB in a second of the node's processor",
               statistics.median(ours["open core"]), "1/s", rounds=tuple(ours["open core"])),
        Figure("exchange, signed reads of 4 KiB in a second of the node's processor",
               statistics.median(ours["signed core"]), "1/s", rounds=tuple(ours["signed core"])),
    ]  # fmt: skip


def _rate_of(reading: Callable[[], tuple[float, float, int]]) -> float:
    """MiB/s, the median of five readings."""
    return statistics.median(size / MIB / seconds for _, seconds, size in (reading() for _ in range(5)))


def _signed(me: Identity, node: Id, port: int, path: str) -> bytes:
    headers = {"host": f"127.0.0.1:{port}", "holdfast-to": str(node)}
    headers |= signing.sign_request(me, "GET", f"http://127.0.0.1:{port}{path}", headers, time.time())
    del headers["host"]
    return request(port, path, headers)


def _misses(scale: Scale, directory: Path) -> list[Figure]:
    large = _blobs(directory / "large", [LARGE] * (3 * scale.repeat))
    small = _blobs(directory / "small", [RACE_BYTES] * MISSES)
    target = directory / "copy"
    with ExitStack() as stack:
        source = stack.enter_context(Node(directory / "source"))
        source.put(large, "large")
        source.put(small, "small")
        node = stack.enter_context(Node(directory / "node", peers=[source.url]))
        node.until_healthy(1)
        direct: list[float] = []
        missed: list[float] = []
        first: list[float] = []
        for number, path in enumerate(large):
            where = f"/v1/blobs/{path.name}"
            turns = [(source, direct), (node, missed)]
            for one, rounds in turns if number % 2 else turns[::-1]:
                rounds.append(copy(one.port, where, path.name, target))
            os.sync()  # what the node keeps behind the reader's back is not the next one's
        for path in small:
            first.append(read(node.port, f"/v1/blobs/{path.name}")[0] * 1000)
    return [
        Figure("exchange, 64 MiB through a peer to a file", LARGE / MIB / statistics.median(missed), _MIB_S,
               LARGE / MIB / statistics.median(direct), "direct copy", ratio_at_least(0.6),
               tuple(LARGE / MIB / seconds for seconds in missed), tuple(LARGE / MIB / seconds for seconds in direct)),
        Figure("exchange, first byte of 256 KiB through a peer, p99", _p99(first), "ms", None, "", at_most(10)),
        Figure("exchange, first byte of 256 KiB through a peer, median", statistics.median(first), "ms"),
    ]  # fmt: skip


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99) - 1]


def _race(scale: Scale, directory: Path) -> list[Figure]:
    """A miss that only the origin has, while of three peers one dies, one is slow and one lies."""
    blobs = _blobs(directory / "blobs", [RACE_BYTES] * 60)
    with ExitStack() as stack:
        cdn = stack.enter_context(Nginx(directory / "blobs", directory / "nginx"))
        dead = stack.enter_context(Node(directory / "dead"))
        rogues = [stack.enter_context(_rogue(kind)) for kind in ("slow", "liar")]
        origin = cdn.url + "/{digest}"
        node = stack.enter_context(Node(directory / "node", peers=[one.url for one in [dead, *rogues]], origin=origin))
        alone = stack.enter_context(Node(directory / "alone", origin=origin))
        node.until_healthy(3)
        for path in blobs[:10]:  # so that neither meets its code for the first time
            read(alone.port, f"/v1/blobs/{path.name}")
            read(node.port, f"/v1/blobs/{path.name}")
        dead.kill()
        without, beside = [], []
        for path in blobs[10:]:
            without.append(read(alone.port, f"/v1/blobs/{path.name}")[1] * 1000)
            beside.append(read(node.port, f"/v1/blobs/{path.name}")[1] * 1000)
    base = statistics.median(without)
    return [
        Figure("exchange, a miss beside bad peers, more than the origin alone, median",
               statistics.median(beside) - base, "ms", base, "origin alone", at_most(max(20.0, 0.05 * base))),
        Figure("exchange, a miss beside bad peers, more than the origin alone, p90",
               sorted(beside)[int(len(beside) * 0.9)] - sorted(without)[int(len(without) * 0.9)], "ms"),
    ]  # fmt: skip


def _rogue(kind: str) -> Process:
    number = port()
    made = Process([sys.executable, "-m", "bench.exchange_rogue", kind, str(number), str(RACE_BYTES)], number)
    made.wait("/v1/health")
    return made


def _together(scale: Scale, directory: Path) -> list[Figure]:
    """Fifty clients want one blob that only the origin has."""
    warm, wanted = _blobs(directory / "blobs", [LARGE, LARGE])
    with ExitStack() as stack:
        cdn = stack.enter_context(Nginx(directory / "blobs", directory / "nginx", counting=True))
        node = stack.enter_context(Node(directory / "node", origin=cdn.url + "/{digest}"))
        read(node.port, f"/v1/blobs/{warm.name}")
        before = node.resident
        sizes: list[int] = []
        threads = [
            threading.Thread(target=lambda: sizes.append(_drain(node.port, wanted.name))) for _ in range(CLIENTS)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = time.perf_counter() - began
        if sizes != [LARGE] * CLIENTS:
            raise ValueError("some clients got less")
        grown, asked = node.resident - before, cdn.requests(f"/{wanted.name}")
    return [
        Figure("exchange, origin requests for 50 clients of one 64 MiB blob", asked, "", None, "", at_most(1)),
        Figure("exchange, memory that they cost the node beside one", grown / MIB, "MiB", None, "", at_most(64)),
        Figure("exchange, 50 clients of one 64 MiB blob, together", CLIENTS * LARGE / MIB / spent, _MIB_S),
    ]  # fmt: skip


def _drain(port: int, name: str) -> int:
    """As ``read``, with a buffer of its own, so that threads may."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", f"/v1/blobs/{name}")
        answer, size = connection.getresponse(), 0
        buffer = bytearray(1 << 20)
        while count := answer.readinto(buffer):
            size += count
        return size
    finally:
        connection.close()
