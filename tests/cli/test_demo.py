"""``holdfast demo`` with a small file of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_whole_story(tmp_path: Path) -> None:
    source = tmp_path / "my own file"
    source.write_bytes(bytes(range(256)) * 1000)
    room = tmp_path / "room"
    room.mkdir()
    environment = {"TMPDIR": str(room), "PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "--json", "demo", "--file", str(source)],
        capture_output=True, env=environment, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["event"] for event in events]
    assert names == [
        *("started", "files", "put", "places", "searched", "killed", "places", "get"),
        *("healing", "healed", "places", "killed", "places", "get", "summary"),
    ]
    assert events[-1] == {"event": "summary", "equal": True, "killed": 4, "nodes": 7}
    packs = events[3]["packs"]
    assert packs, "every table shows what lies on the disks"
    assert all(len(holders) == 5 for holders in packs.values())
    assert events[4]["packs"] == len(packs), "it is looked through all of them for a readable word"
    dead = set(events[5]["nodes"])
    assert events[8]["copies"] == sum(len(dead & set(holders)) for holders in packs.values())
    assert all(len(set(events[10]["packs"][digest]) - dead) == 5 for digest in packs), "two more die only then"
    assert not dead & set(events[11]["nodes"])
    assert list(room.iterdir()) == []
