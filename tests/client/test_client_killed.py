"""A put in its own process, killed with SIGKILL in the middle: the next one sends what is missing, not all again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from tests.client.fleet import SMALL, Fleet

from holdfast import assemble

SIZE = 160 * SMALL.pack_bytes
PUT = """
import asyncio, sys
from pathlib import Path
import holdfast

async def main():
    async with await holdfast.Vault.open(sys.argv[1]) as vault:
        await vault.put(Path(sys.argv[2]), "large")

asyncio.run(main())
"""
SLOW = '[client]\nchunk_size = "64KiB"\npack_size = "256KiB"\nbwlimit = "16MiB"\n'  # all copies: about 5 s for the file


async def test_a_put_that_was_killed_goes_on_where_it_was(small_fleet: Fleet, tmp_path: Path) -> None:
    home = (await small_fleet.home()).path
    (home / "config.toml").write_text(SLOW)
    source = tmp_path / "large"
    source.write_bytes(random.Random(5).randbytes(SIZE))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", PUT, str(home), str(source), env=environment)
    try:
        async with asyncio.timeout(60):
            while sum(len(small_fleet.blobs(number)) for number in range(4)) < 160:  # half, in two copies
                assert child.returncode is None, "it was done before it could be killed"
                await asyncio.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    assert child.returncode == -signal.SIGKILL

    (home / "config.toml").write_text(SLOW.replace('bwlimit = "16MiB"\n', ""))
    async with await assemble.open_vault(home, kind=assemble.OpenVault) as vault:
        assert [entry async for entry in vault.list()] == []  # nothing half is to be seen
        await vault.put(source, "large")
        sent = sum(uploader.new_bytes for uploader in vault._uploaders.values())
        assert sent < 0.7 * SIZE
        assert await vault.read("large", fresh=True) == source.read_bytes()
        assert [version.version for version in await vault.log("large")] == [1]
