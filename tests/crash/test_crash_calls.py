"""At every system call of puts, deletes and a purge the process is killed, or the call fails: an error, or it is so.

Store, trash and ledger (SQLite included), by strace. ``HOLDFAST_CRASH_ROUNDS`` above 100 tries every call; below,
one in fifteen, others with another HOLDFAST_CRASH_SEED.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.crash.keeper_child import VAULT, WELL, blob, opened

from holdfast.blob import Digest, pieces
from holdfast.clock import SystemRandomness
from holdfast.files import OsFiles
from holdfast.pool import InlinePool
from holdfast.stores.disk.store import DiskStore
from holdfast.stores.protocol import get_bytes

CALLS = ("write", "pwrite64", "fdatasync", "fsync", "linkat", "link", "rename", "unlink", "ftruncate")
SYNCS = ("fdatasync", "fsync")
EVERY = 1 if int(os.environ.get("HOLDFAST_CRASH_ROUNDS", "25")) > 100 else 15
SEED = int(os.environ.get("HOLDFAST_CRASH_SEED", "1"))
TREE = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.rig,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("strace") is None, reason="no strace: install the package of that name"),
]


def strace(root: Path, *options: str) -> list[str]:
    """What the process said until it ended."""
    environment = os.environ | {"PYTHONPATH": f"{TREE / 'src'}:{TREE}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["strace", "-f", "-qq", "-o", str(root.parent / "strace.log"), *options]
    child = [sys.executable, "-m", "tests.crash.keeper_child", str(root)]
    done = subprocess.run([*command, *child], cwd=TREE, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stdout.splitlines()


def fresh(root: Path, template: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    return root


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a ledger that have lived once, so that only what is tried makes calls."""
    root = tmp_path_factory.mktemp("template") / "node"

    async def make() -> None:
        await DiskStore.init(root, files=OsFiles(), pool=InlinePool(), randomness=SystemRandomness())
        keeper = await opened(root)
        await keeper.ledger.close()
        await keeper.store.close()

    asyncio.run(make())
    return root


def points(template: Path, tmp_path: Path, calls: tuple[str, ...] = CALLS) -> list[tuple[str, int]]:
    """Every call that a whole life makes, by name and number; all syncs, as they are few."""
    said = strace(fresh(tmp_path / "node", template), "-e", f"trace={','.join(calls)}")
    if not said and "ptrace" in (tmp_path / "strace.log").read_text():
        pytest.skip("strace may not trace here")
    assert said[-1:] == ["end well"], said
    log = (tmp_path / "strace.log").read_text()
    counts = Counter(re.findall(r"^\d+ +(\w+)\(", log, re.MULTILINE))
    found = [(name, number) for name in calls for number in range(1, counts[name] + 1)]
    return found if calls == SYNCS else found[SEED % EVERY :: EVERY]


async def check(root: Path, said: list[str], where: str) -> None:
    """On the disk as the process left it, everything it said is so."""
    keeper = await opened(root)
    store = keeper.store
    assert isinstance(store, DiskStore)
    try:
        trash = {entry.digest for entry in store.trash()}
        for number in range(3):
            data = blob(number)
            digest = Digest.of(data)
            entry = await keeper.find(digest)
            if entry is not None:
                assert await get_bytes(store, digest) == data, f"{where}: wrong bytes of {number}"
            if f"delete {number}" in said:
                assert entry is None, f"{where}: the delete of {number} was undone"
            elif f"put {number}" in said:
                left = entry is not None or (_delete_begun(said, number) and digest in trash)
                assert left, f"{where}: the put of {number} is lost"
        for digest in await keeper.ledger.span(None, None):
            assert (await store.stat([digest]))[0] is not None, f"{where}: the ledger claims what is not there"
    finally:
        await keeper.ledger.close()
        await store.close()


def _delete_begun(said: list[str], number: int) -> bool:
    """It failed, or the process died in it."""
    order = ["put 0", "put 1", "delete 0", "purge 0", "put 2", "delete 1"]
    return f"delete {number}" in order[: len(said) + 1]


STORE = ("incoming", "objects", "trash", "quarantine")


def _of(path: str, root: Path) -> str:
    """Whose this file or directory is. SQLite syncs the directory of its log and does not look at the answer: a log
    whose name is lost costs rows that the store brings back."""
    parts = Path(path).relative_to(root).parts
    if parts and parts[0] in STORE:
        return "store"
    return "ledger" if parts and parts[0].startswith("ledger.db") else "start"


def test_nothing_is_synced_or_acknowledged_after_a_failed_sync(template: Path, tmp_path: Path) -> None:
    """The kernel may call the lost pages clean, so that the next sync of them "succeeds" (fsyncgate)."""
    failed_in: Counter[str] = Counter()
    for name, number in points(template, tmp_path, SYNCS):
        root = fresh(tmp_path / "node", template)
        said = strace(root, "-y", "-e", f"trace={','.join(SYNCS)}", "-e", f"inject={name}:error=EIO:when={number}")
        where = f"EIO at {name} {number}"
        log = (tmp_path / "strace.log").read_text().splitlines()
        synced = [(match[1], "EIO" in line) for line in log if (match := re.search(r"sync\(\d+<([^>]+)>\)", line))]
        failed = next(place for place, (_, broke) in enumerate(synced) if broke)
        owner = _of(synced[failed][0], root)
        failed_in[owner] += 1
        again = [path for path, _ in synced[failed + 1 :] if _of(path, root) == owner]
        assert owner == "start" or again == [], f"{where}, of {synced[failed][0]}: synced again"
        after = said[next((place for place, line in enumerate(said) if line.startswith("poisoned")), len(said)) :]
        if after:
            done = [line for line in after if not line.startswith(("poisoned", "error", "end"))]
            fine = [f"delete {number}" for number in range(3) if f"put {number}" not in said]  # it was never there
            fine += ["purge 0"] if owner == "ledger" else []  # the store is well, and the trash its own
            assert [line for line in done if line not in fine] == [], f"{where}: {said}"
            assert said[-1] == "end poisoned", f"{where}: {said}"
        else:
            assert said in (["refused"], WELL), f"{where}: {said}"  # it failed at the start, or after the last answer
        asyncio.run(check(root, said, where))
        asyncio.run(_writes_again(root))
    assert failed_in["store"] > 0, failed_in
    assert failed_in["ledger"] > 0, failed_in


async def _writes_again(root: Path) -> None:
    """After a start, which looks at everything anew."""
    keeper = await opened(root)
    data = blob(2)
    try:
        await keeper.put(Digest.of(data), len(data), VAULT, pieces(data))
        assert await get_bytes(keeper.store, Digest.of(data)) == data
    finally:
        await keeper.ledger.close()
        await keeper.store.close()


def test_killed_at_every_call(template: Path, tmp_path: Path) -> None:
    for name, number in points(template, tmp_path):
        root = fresh(tmp_path / "node", template)
        said = strace(root, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}")
        assert "killed by SIGKILL" in (tmp_path / "strace.log").read_text(), f"{name} {number} killed nobody"
        asyncio.run(check(root, said, f"killed at {name} {number}"))


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_an_error_at_every_call(template: Path, tmp_path: Path, error: str) -> None:
    for name, number in points(template, tmp_path):
        root = fresh(tmp_path / "node", template)
        said = strace(root, "-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={number}")
        where = f"{error} at {name} {number}"
        failed = [line for line in said if line.startswith(("error", "poisoned"))]
        if name in SYNCS and error == "EIO" and failed:
            assert said[-1] == "end poisoned", f"{where}: writes on after a failed sync: {said}"
        asyncio.run(check(root, said, where))
