"""kill -9 of real processes while they enqueue and while they deliver, to a server that loses answers on its own.

``HOLDFAST_CRASH_ROUNDS`` says how many interruptions (50 by default): nothing acknowledged is lost, no effect happens
twice, none out of order, no conflict is called where there is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from pathlib import Path

import pytest
from aiohttp import web
from tests.outbox import crash_child
from tests.outbox.upstream import Upstream, lost, reset

from holdfast.outbox import Outbox

ROUNDS = int(os.environ.get("HOLDFAST_CRASH_ROUNDS", "50"))
ROOT = Path(__file__).parents[2]


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.outbox.crash_child", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


async def killed(child: asyncio.subprocess.Process) -> list[str]:
    """What it had said before; nothing may have gone wrong by itself."""
    with contextlib.suppress(ProcessLookupError):  # then its words say why
        child.kill()
    out, err = await child.communicate()
    assert err == b"", err.decode()
    return [line for line in out.decode().splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.timeout(120 + 4 * ROUNDS)
async def test_kill_9_during_enqueue_and_delivery(tmp_path: Path) -> None:
    chance = random.Random(20261121)
    directory = tmp_path / "outbox"
    acknowledged: dict[int, list[int]] = {key: [] for key in range(crash_child.KEYS)}
    first = 0
    async with Upstream(ignores_conditions=False) as up:

        async def unreliable(request: web.Request, body: bytes) -> web.StreamResponse | None:
            turn = chance.random()
            if request.method == "PUT" and turn < 0.06:
                return await lost(up)(request, body)
            if turn > 0.97:
                return await reset(request, body)
            return None

        up.everywhere = unreliable
        writer = await start("enqueue", str(directory), up.url, "0")
        assert writer.stdout is not None
        await writer.stdout.readline()
        deliverer = await start("deliver", str(directory))
        for _ in range(ROUNDS // 2):
            # at any moment of the work, so the moment is drawn in real time: nothing is asserted about it
            await asyncio.sleep(chance.uniform(0.25, 0.7))
            if chance.random() < 0.5:
                for line in await killed(writer):
                    key, number = map(int, line.split())
                    acknowledged[key].append(number)
                first += 1_000_000
                writer = await start("enqueue", str(directory), up.url, str(first))
            killing, deliverer = deliverer, await start("deliver", str(directory))
            await killed(killing)
            if chance.random() < 0.5:
                await killed(deliverer)
                deliverer = await start("deliver", str(directory))
        for line in await killed(writer):
            key, number = map(int, line.split())
            acknowledged[key].append(number)
        await killed(deliverer)
        up.everywhere = None

        async with await Outbox.open(directory) as outbox:
            empty = asyncio.Event()

            def look(done: object) -> None:
                empty.set()

            watching = asyncio.ensure_future(outbox.watch(look))
            while await outbox.waiting():
                await empty.wait()
                empty.clear()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            assert [(entry.state, entry.reason) async for entry in outbox.entries()] == []
        assert not list((directory / "bodies").iterdir())

        total = 0
        for key, numbers in acknowledged.items():
            effects = [int(effect.body.partition(b":")[0]) for effect in up.effects if effect.path == f"/{key}"]
            assert effects == sorted(set(effects)), "each once, in order"
            assert set(numbers) <= set(effects), "nothing acknowledged is lost"
            assert all(
                effect.body == crash_child.body(int(effect.body.partition(b":")[0]))
                for effect in up.effects
                if effect.path == f"/{key}"
            )
            total += len(numbers)
        assert total > ROUNDS
