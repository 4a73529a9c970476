"""Names asked for at once share questions, and none is answered by a question that began before it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.client.fleet import Fleet
from tests.client.test_client_rebuild import second_device

from holdfast.errors import NotFound
from holdfast.wire import messages as m
from holdfast.wire import routes


class Held:
    """The coordinator's answers to questions for names are counted, and held up while ``open`` is not set."""

    def __init__(self, fleet: Fleet) -> None:
        self.alone = 0
        self.together: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        service: Any = fleet.coordinator.app.service  # type: ignore[union-attr]
        ref = service._table.find("GET", "/v1/refs/0/0")[0].handler
        find = service._table.find("POST", "/v1/refs/0")[0].handler

        async def one(call: Any, message: None) -> Any:
            self.alone += 1
            answer = await ref(call, message)
            await self.open.wait()
            return answer

        async def many(call: Any, message: m.RefsQuestion) -> Any:
            self.together.append(len(message.tags))
            answer = await find(call, message)
            await self.open.wait()
            return answer

        service.add(routes.REF, one)
        service.add(routes.REFS_FIND, many)


async def test_reads_at_once_share_questions(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    for number in range(6):
        await vault.put(b"%d" % number, f"file {number}")
    await vault.delete("file 5")
    held = Held(small_fleet)
    names = [f"file {number}" for number in range(7)]
    found = await asyncio.gather(*(vault.read(name) for name in names), return_exceptions=True)
    assert found[:5] == [b"%d" % number for number in range(5)]
    assert all(isinstance(error, NotFound) for error in found[5:])
    assert (held.alone, held.together) == (1, [6])
    assert await vault.read("file 3") == b"3"
    assert (held.alone, held.together) == (2, [6])


async def test_a_read_is_not_answered_by_a_question_that_began_before_it(small_fleet: Fleet) -> None:
    """What was acknowledged before a read began is seen by it, whatever questions are still under way."""
    writer = await small_fleet.vault()
    reader = await second_device(small_fleet, writer)
    await writer.put(b"old", "file")
    held = Held(small_fleet)
    held.open.clear()
    early = [asyncio.create_task(reader.read(name)) for name in ("nothing", "file")]
    while held.alone < 2:  # noqa: ASYNC110 - both questions have read the old state by now, and wait
        await asyncio.sleep(0.01)
    await writer.put(b"new", "file")
    late = asyncio.create_task(reader.read("file"))
    await asyncio.sleep(0)
    held.open.set()
    assert await late == b"new"
    await asyncio.gather(*early, return_exceptions=True)


async def test_a_question_that_is_stuck_holds_up_no_other_for_long(small_fleet: Fleet) -> None:
    vault = await small_fleet.vault()
    for name in ("one", "two"):
        await vault.put(name.encode(), name)
    held = Held(small_fleet)
    held.open.clear()
    stuck = asyncio.create_task(vault.read("one"))
    while not held.alone:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    other = asyncio.create_task(vault.read("two"))
    while held.alone < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    held.open.set()
    assert (await stuck, await other) == (b"one", b"two")
