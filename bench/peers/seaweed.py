"""SeaweedFS on this machine: master, volume servers, filer and its S3 gateway; each blob on three servers, synced."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from bench.exchange_cluster import Process, Processes, port
from bench.peers.environment import program
from bench.peers.plain import get_each, get_file, put_each, put_file

_BUCKET = "/bench"
_READY_S = 60.0
_REPLICATION = "002"  # two more copies, on other servers of the same rack: three


class Seaweed(Processes):
    """``fsync`` is set for all that the filer writes; without it the servers acknowledge what is only in memory."""

    def __init__(self, directory: Path, *, nodes: int) -> None:
        super().__init__()
        self._directory = directory
        self._nodes = nodes
        self._s3 = 0

    def put(self, source: Path, name: str) -> None:
        put_file(self._s3, f"{_BUCKET}/{name}", source)

    def get(self, name: str, target: Path) -> None:
        get_file(self._s3, f"{_BUCKET}/{name}", target)

    def put_singles(self, bodies: dict[str, bytes], at_once: int) -> None:
        put_each(self._s3, [(f"{_BUCKET}/{name}", body) for name, body in bodies.items()], at_once)

    def get_singles(self, names: list[str], at_once: int) -> None:
        get_each(self._s3, [f"{_BUCKET}/{name}" for name in names], at_once)

    def _start(self) -> None:
        master, master_grpc, filer, filer_grpc, self._s3, s3_grpc = (port() for _ in range(6))
        where = f"127.0.0.1:{master}.{master_grpc}"
        stored = self._directory / "master"
        stored.mkdir(parents=True)
        here = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")
        self._run(
            "master", master, *here, f"-port={master}", f"-port.grpc={master_grpc}", f"-mdir={stored}",
            f"-defaultReplication={_REPLICATION}", "-volumeSizeLimitMB=1024",
        ).wait("/cluster/status")  # fmt: skip
        for number in range(self._nodes):
            data = self._directory / f"volume-{number}"
            data.mkdir()
            own = port()
            self._run(
                "volume", own, *here, f"-port={own}", f"-port.grpc={port()}", f"-dir={data}", "-max=100",
                f"-master={where}", "-minFreeSpace=1",
            ).wait("/status")  # fmt: skip
        store = self._directory / "filer"
        store.mkdir()
        self._run(
            "filer", filer, *here, f"-port={filer}", f"-port.grpc={filer_grpc}", f"-master={where}",
            f"-defaultReplicaPlacement={_REPLICATION}", f"-defaultStoreDir={store}",
        ).wait()  # fmt: skip
        orders = f"fs.configure -locationPrefix=/buckets/ -replication={_REPLICATION} -fsync -apply\n"
        self._shell(where, f"127.0.0.1:{filer}.{filer_grpc}", orders)
        self._run(
            "s3", self._s3, "-ip.bind=127.0.0.1", f"-port={self._s3}", f"-port.grpc={s3_grpc}",
            "-port.iceberg=0", "-port.lance=0", f"-filer=127.0.0.1:{filer}.{filer_grpc}",
        ).wait()  # fmt: skip
        self._until_writable()

    def _shell(self, master: str, filer: str, orders: str) -> None:
        command = [str(program("weed")), "shell", f"-master={master}", f"-filer={filer}"]
        until = time.monotonic() + _READY_S
        while True:
            done = subprocess.run(command, input=f"{orders}exit\n", capture_output=True, text=True, timeout=60)
            if '"fsync": true' in " ".join(done.stdout.split()):
                return
            if time.monotonic() > until:
                raise RuntimeError(f"SeaweedFS took no configuration: {done.stdout}{done.stderr}")
            time.sleep(0.5)

    def _until_writable(self) -> None:
        """Its first writes fail until all volumes have grown."""
        until = time.monotonic() + _READY_S
        while True:
            try:
                put_each(self._s3, [(_BUCKET, b"")], 1)
                put_each(self._s3, [(f"{_BUCKET}/ready-{number}", b"yes") for number in range(64)], 16)
            except (OSError, RuntimeError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
            else:
                return

    def _run(self, verb: str, number: int, *arguments: str) -> Process:
        command = [str(program("weed")), f"-logdir={self._directory}", verb, *arguments]
        return self.enter_context(Process(command, number))
