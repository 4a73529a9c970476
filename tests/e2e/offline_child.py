"""A device that writes without asking the network, or delivers what waits; made to be killed.

python -m tests.e2e.offline_child HOME put PREFIX | flush: each accepted write is a line on stdout.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from holdfast.sdk import Vault

NAMES = ("a", "b", "dir/c", "dir/d")


async def main(home: str, work: str, prefix: str = "") -> None:
    async with await Vault.open(Path(home)) as vault:
        if work == "flush":
            await vault.flush()
            return
        for number in range(10_000):
            name = NAMES[number % len(NAMES)]
            content = f"{prefix}-{number} ".encode() * (1 + number % 7 * 3000)
            await vault.put(content, name, offline=True)
            print(name, f"{prefix}-{number}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
