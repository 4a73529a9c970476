"""Names that are asked for at once are read together, and each asker hears of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.coordinator.hall import Hall, digest_of, tag_of

from holdfast.coordinator.ref_questions import NAMES_MAX, RefQuestions
from holdfast.metadata.together import Question


async def test_names_that_are_asked_for_at_once_are_read_together(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: hall.owner.write(name, [digest_of(name)]) for name in ("one", "two")}
    packs = [hall.pack(name) for name in written]
    assert await hall.owner.states(list(written.values()), packs=packs) == [["committed", "committed"]]
    database = hall.coordinator.state.database
    real, visits = database.ask, 0

    async def ask(questions: Sequence[Question]) -> list[list[Any]]:
        nonlocal visits
        visits += 1
        return await real(questions)

    monkeypatch.setattr(database, "ask", ask)
    questions = RefQuestions(database)
    names = [(1, tag_of("one")), (2, tag_of("one")), (1, tag_of("nothing")), (1, tag_of("two")), (1, tag_of("one"))]
    one, of_another, nothing, two, again = await asyncio.gather(*(questions.find(*name) for name in names))
    assert visits == 1
    assert of_another is None
    assert nothing is None
    assert one is not None
    assert two is not None
    assert again == one
    assert (one.row.record, two.row.record) == (written["one"].record, written["two"].record)
    for found, name in ((one, "one"), (two, "two")):
        assert found.packs is not None
        assert {place.digest for place in found.packs} == {digest_of(name)}
        assert len({place.node for place in found.packs}) == 5

    await asyncio.gather(*(questions.find(1, tag_of(str(number))) for number in range(NAMES_MAX + 1)))
    assert visits == 3, "commits wait for each visit, so it has a bound"
