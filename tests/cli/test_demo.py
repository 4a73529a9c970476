"""``holdfast demo`` with a small file of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(120)
def test_the_whole_story(tmp_path: Path) -> None:
    source = tmp_path / "my own file"
    source.write_bytes(bytes(range(256)) * 1000)
    room = tmp_path / "room"
    room.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "--json", "demo", "--file", str(source)],
        capture_output=True, env={"TMPDIR": str(room), "PATH": "/usr/bin:/bin"}, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    names = [event["event"] for event in events]
    assert names == [
        *("started", "files", "put", "places", "searched", "killed", "places", "get", "killed", "places", "get"),
        "summary",
    ]
    assert events[-1] == {"event": "summary", "equal": True, "killed": 4, "nodes": 7}
    assert all(len(holders) == 5 for holders in events[3]["packs"].values())
    assert list(room.iterdir()) == []
