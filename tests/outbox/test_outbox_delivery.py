"""Delivery to a real web server that answers, resets, hangs, lies: the outcomes as written (docs/design.md, Outbox)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.outbox.rigs import SteppedClock, body_of
from tests.outbox.upstream import Upstream, half, hang, lost, portal, reset, status

from holdfast.errors import BadRequest
from holdfast.outbox import Entry, NewEntry, Outbox, OutboxSettings, State, http
from holdfast.outbox.outcomes import Deferred, Delivered, Outcome
from holdfast.wire import foreign


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as made:
        yield made


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    async with await Outbox.open(tmp_path / "outbox") as made:
        yield made


async def only(outbox: Outbox) -> Entry:
    (found,) = [entry async for entry in outbox.entries()]
    return found


async def test_a_put_and_a_delete_arrive_and_leave_nothing_behind(outbox: Outbox, up: Upstream, tmp_path: Path) -> None:
    up.files["/old"] = b"x"
    big = b"big" * 700_000
    await outbox.enqueue(http.put(up.url + "/new", content_type="text/plain", if_absent=True), b"hello")
    await outbox.enqueue(http.put(up.url + "/big", headers={"X-Colour": "blue"}), big)
    await outbox.enqueue(http.put(up.url + "/empty"), b"")
    await outbox.enqueue(http.delete(up.url + "/old", if_match=up.etag("/old")))
    await outbox.enqueue(http.delete(up.url + "/never-there"))
    summary = await outbox.flush()
    assert (summary.delivered, summary.waiting) == (5, 0)
    assert up.files == {"/new": b"hello", "/big": big, "/empty": b""}
    sent = {(method, path): headers for method, path, headers in up.requests}
    assert sent["PUT", "/new"]["content-type"] == "text/plain"
    assert sent["PUT", "/new"]["if-none-match"] == "*"
    assert sent["PUT", "/big"]["x-colour"] == "blue"
    assert not list((tmp_path / "outbox" / "bodies").iterdir())


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (400, State.REJECTED), (402, State.REJECTED), (404, State.REJECTED), (405, State.REJECTED),
        (410, State.REJECTED), (411, State.REJECTED), (413, State.REJECTED), (415, State.REJECTED),
        (418, State.REJECTED), (422, State.REJECTED), (431, State.REJECTED), (451, State.REJECTED),
        (401, State.DEFERRED), (403, State.DEFERRED), (407, State.DEFERRED), (408, State.DEFERRED),
        (423, State.DEFERRED), (424, State.DEFERRED), (425, State.DEFERRED), (429, State.DEFERRED),
        (300, State.DEFERRED), (301, State.DEFERRED), (302, State.DEFERRED), (303, State.DEFERRED),
        (304, State.DEFERRED), (307, State.DEFERRED), (308, State.DEFERRED), (500, State.DEFERRED),
        (501, State.DEFERRED), (502, State.DEFERRED), (503, State.DEFERRED), (504, State.DEFERRED),
        (507, State.DEFERRED), (511, State.DEFERRED),
    ],
)  # fmt: skip
async def test_each_code_ends_as_the_table_says(outbox: Outbox, up: Upstream, code: int, state: State) -> None:
    up.rule("/a", status(code, Location="/elsewhere"))
    await outbox.enqueue(http.put(up.url + "/a"), b"hello")
    await outbox.flush()
    found = await only(outbox)
    assert found.state is state
    assert str(code) in found.reason
    assert up.files == {}, "no redirect is followed"
    await outbox.retry(found.sequence)
    assert (await outbox.flush()).delivered == 1
    assert up.files == {"/a": b"hello"}


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (404, None), (410, None), (400, State.REJECTED), (405, State.REJECTED), (401, State.DEFERRED),
        (403, State.DEFERRED), (423, State.DEFERRED), (429, State.DEFERRED), (302, State.DEFERRED),
        (503, State.DEFERRED),
    ],
)  # fmt: skip
async def test_each_code_to_a_delete_ends_as_the_table_says(
    outbox: Outbox, up: Upstream, code: int, state: State | None
) -> None:
    up.files["/a"] = b"there"
    up.rule("/a", status(code, Location="/elsewhere"))
    await outbox.enqueue(http.delete(up.url + "/a"))
    await outbox.flush()
    assert [entry.state async for entry in outbox.entries()] == ([] if state is None else [state])
    assert up.files == {"/a": b"there"}


@pytest.mark.parametrize("code", [200, 201, 202, 204, 205, 207])
@pytest.mark.parametrize("make", [http.put, http.delete])
async def test_a_success_that_the_target_does_not_show_is_deferred(
    outbox: Outbox, up: Upstream, code: int, make: Callable[[str], NewEntry]
) -> None:
    up.files["/a"] = b"there"
    up.rule("/a", status(code))
    await outbox.enqueue(make(up.url + "/a"), b"hello" if make is http.put else None)
    await outbox.flush()
    found = await only(outbox)
    assert found.state is State.DEFERRED
    assert "answered as done" in found.reason
    assert up.files == {"/a": b"there"}


@pytest.mark.parametrize("trouble", [reset, half])
async def test_broken_connections_are_deferred(outbox: Outbox, up: Upstream, trouble: object) -> None:
    up.rule("/a", trouble)  # type: ignore[arg-type]
    await outbox.enqueue(http.put(up.url + "/a"), b"hello")
    await outbox.flush()
    found = await only(outbox)
    assert (found.state, found.tries) == (State.DEFERRED, 1)
    assert await body_of(found) == b"hello"


async def test_a_server_that_hangs_is_deferred(outbox: Outbox, up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "STALL_S", 0.2)
    up.rule("/a", hang)
    await outbox.enqueue(http.put(up.url + "/a"), b"hello")
    summary = await outbox.flush()
    assert summary.deferred == 1
    assert "no answer in time" in summary.reasons[0]


async def test_nobody_there_is_deferred_and_delivered_when_there_is(outbox: Outbox, up: Upstream) -> None:
    await up.stop()
    for number in range(20):
        await outbox.enqueue(http.put(f"{up.url}/{number}"), b"hello")
    summary = await outbox.flush()
    assert summary.delivered == 0
    assert summary.waiting == 20
    assert summary.deferred <= 16, "one round of those under way, not one try for each"
    await up.start()
    await outbox.retry(1)
    for _ in range(100):
        if not (await outbox.flush()).waiting:
            break
        await asyncio.sleep(0.05)
    assert len(up.files) == 20


@pytest.mark.parametrize("precondition", ["absent", "etag", "none"])
async def test_an_answer_that_was_lost_makes_neither_a_conflict_nor_a_second_effect(
    outbox: Outbox, up: Upstream, precondition: str
) -> None:
    if precondition == "etag":
        up.files["/a"] = b"before"
    wish = {"absent": {"if_absent": True}, "etag": {"if_match": up.etag("/a") if up.files else ""}, "none": {}}[
        precondition
    ]
    up.rule("/a", lost(up))
    await outbox.enqueue(http.put(up.url + "/a", **wish), b"hello")  # type: ignore[arg-type]
    await outbox.enqueue(http.put(up.url + "/a", **wish), b"again")  # type: ignore[arg-type]
    assert (await outbox.flush()).deferred == 1
    await outbox.retry(1)
    summary = await outbox.flush()
    assert (summary.delivered, summary.conflicts) == (2, 0)
    assert [effect.body for effect in up.effects] == [b"hello", b"again"]
    assert up.files["/a"] == b"again"


@pytest.mark.parametrize("obeys", [True, False])
async def test_what_somebody_else_changed_is_never_overwritten(outbox: Outbox, up: Upstream, obeys: bool) -> None:
    up.ignores_conditions = not obeys
    up.files["/a"] = b"before"
    await outbox.enqueue(http.put(up.url + "/a", if_match=up.etag("/a")), b"mine")
    await outbox.enqueue(http.put(up.url + "/a"), b"mine, later")
    up.files["/a"] = b"theirs"
    summary = await outbox.flush()
    assert (summary.delivered, summary.conflicts, summary.waiting) == (0, 1, 1)
    assert up.effects == []
    (found,) = [entry async for entry in outbox.entries(states=[State.CONFLICT])]
    assert found.theirs is not None
    assert found.theirs.open is not None
    assert b"".join([bytes(piece) async for piece in found.theirs.open()]) == b"theirs"
    assert await body_of(found) == b"mine"
    assert found.payload["base"] != found.theirs.facts["base"]


async def test_a_412_is_read_before_it_is_called_a_conflict(outbox: Outbox, up: Upstream) -> None:
    """Between the look and the write somebody puts the very same bytes: that is no conflict, and others are one."""
    for path, theirs in (("/same", b"mine"), ("/other", b"theirs")):

        async def first(request: object, body: bytes, path: str = path, theirs: bytes = theirs) -> None:
            up.files[path] = theirs

        up.rule(path, first)
        await outbox.enqueue(http.put(up.url + path, if_absent=True), b"mine")
    summary = await outbox.flush()
    assert (summary.delivered, summary.conflicts) == (1, 1)
    assert up.files == {"/same": b"mine", "/other": b"theirs"}
    assert up.effects == []
    assert (await only(outbox)).keys == (up.url + "/other",)


async def test_a_409_where_nothing_changed_is_a_refusal_and_no_conflict(outbox: Outbox, up: Upstream) -> None:
    """WebDAV answers so when the directory does not exist (RFC 4918, section 9.7.1)."""
    up.rule("/no/a", status(409))
    up.rule("/no/b", status(409))
    await outbox.enqueue(http.put(up.url + "/no/a", if_absent=True), b"mine")
    await outbox.enqueue(http.put(up.url + "/no/b"), b"mine")
    summary = await outbox.flush()
    assert (summary.rejected, summary.conflicts) == (2, 0)
    assert "directory" in summary.reasons[0]


async def test_a_deletion_by_somebody_else_is_a_conflict_for_a_put_only(outbox: Outbox, up: Upstream) -> None:
    await outbox.enqueue(http.put(up.url + "/a", if_match='"seen"'), b"mine")
    await outbox.enqueue(http.delete(up.url + "/b", if_match='"seen"'))
    summary = await outbox.flush()
    assert (summary.delivered, summary.conflicts) == (1, 1)
    found = await only(outbox)
    assert found.theirs is not None
    assert found.theirs.absent


@pytest.mark.parametrize("keep", ["mine", "theirs", "both"])
async def test_a_person_resolves(outbox: Outbox, up: Upstream, keep: str) -> None:
    up.files["/a"] = b"theirs"
    await outbox.enqueue(http.put(up.url + "/a", if_absent=True), b"mine")
    await outbox.flush()
    if keep == "mine":
        await outbox.resolve(1, "mine")
    elif keep == "theirs":
        await outbox.resolve(1, "theirs")
    else:
        with pytest.raises(BadRequest, match="another name"):
            await outbox.resolve(1, "both")
        await outbox.resolve(1, "both", http.put(up.url + "/a%20(mine)", if_absent=True))
    summary = await outbox.flush()
    assert summary.waiting == summary.conflicts == 0
    expected = {"mine": {"/a": b"mine"}, "theirs": {"/a": b"theirs"}}
    assert up.files == expected.get(keep, {"/a": b"theirs", "/a (mine)": b"mine"})
    assert [entry async for entry in outbox.entries()] == []


async def test_mine_over_a_state_that_changed_again_is_a_conflict_again(outbox: Outbox, up: Upstream) -> None:
    up.files["/a"] = b"theirs"
    await outbox.enqueue(http.put(up.url + "/a", if_absent=True), b"mine")
    await outbox.flush()
    up.files["/a"] = b"theirs, newer"
    await outbox.resolve(1, "mine")
    assert (await outbox.flush()).conflicts == 1
    assert up.files["/a"] == b"theirs, newer"


async def test_a_captive_portal_delivers_nothing_and_calls_no_conflicts(outbox: Outbox, up: Upstream) -> None:
    up.files = {"/b": b"before", "/d": b"doomed", "/big": b"small"}
    await outbox.enqueue(http.put(up.url + "/a", if_absent=True), b"a")
    await outbox.enqueue(http.put(up.url + "/b", if_match=up.etag("/b")), b"b")
    await outbox.enqueue(http.put(up.url + "/c"), b"c")
    await outbox.enqueue(http.put(up.url + "/big"), b"b" * 1_200_000)
    await outbox.enqueue(http.delete(up.url + "/d"))
    up.everywhere = portal
    for _ in range(5):
        for sequence in range(1, 6):
            await outbox.retry(sequence)
        summary = await outbox.flush()
        assert (summary.delivered, summary.conflicts, summary.rejected) == (0, 0, 0)
    assert await outbox.waiting() == 5
    up.everywhere = None
    for sequence in range(1, 6):
        await outbox.retry(sequence)
    assert (await outbox.flush()).delivered == 5
    assert up.files == {"/a": b"a", "/b": b"b", "/c": b"c", "/big": b"b" * 1_200_000}


async def test_a_server_that_keeps_something_else_than_it_got_is_not_believed(outbox: Outbox, up: Upstream) -> None:
    async def forgets(request: object, body: bytes) -> object:
        return await status(204)(request, body)  # type: ignore[arg-type]

    up.rule("/a", forgets)  # type: ignore[arg-type]
    await outbox.enqueue(http.put(up.url + "/a"), b"hello")
    summary = await outbox.flush()
    assert (summary.delivered, summary.deferred) == (0, 1)
    assert "does not show" in summary.reasons[0]


async def test_edits_of_one_name_go_out_in_order_each_on_the_one_before(outbox: Outbox, up: Upstream) -> None:
    for number in range(30):
        await outbox.enqueue(http.put(f"{up.url}/{number % 3}", if_absent=True), str(number).encode())
    await outbox.enqueue(http.delete(up.url + "/0"))
    await outbox.enqueue(http.put(up.url + "/0", if_absent=True), b"new life")
    summary = await outbox.flush()
    assert (summary.delivered, summary.conflicts) == (32, 0)
    for key in range(3):
        sent = [int(effect.body) for effect in up.effects if effect.path == f"/{key}" and effect.body.isdigit()]
        assert sent == list(range(key, 30, 3))
    assert up.files == {"/0": b"new life", "/1": b"28", "/2": b"29"}


async def test_a_chain_without_any_validators_compares_the_bytes(outbox: Outbox, up: Upstream) -> None:
    up.validators = False
    up.ignores_conditions = True
    for body in (b"one", b"two"):
        await outbox.enqueue(http.put(up.url + "/a", if_absent=True), body)
    assert (await outbox.flush()).delivered == 2
    up.rule("/a", status(503))
    for body in (b"three", b"four"):
        await outbox.enqueue(http.put(up.url + "/a"), body)
    await outbox.flush()
    await outbox.retry(3)

    async def between(request: object, body: bytes) -> None:
        await asyncio.sleep(0)

    up.rule("/a", between)
    await outbox.flush()
    assert up.files["/a"] == b"four"


async def test_a_poisoned_entry_stops_only_its_own_key(outbox: Outbox, up: Upstream) -> None:
    for number in range(60):
        if number in (20, 30, 40):
            up.rule(f"/{number}", *[status(500) if number != 30 else reset] * 10)
        await outbox.enqueue(http.put(f"{up.url}/{number}"), b"hello")
    delivered = 0
    for _ in range(200):
        delivered += (await outbox.flush()).delivered
        if delivered == 57:
            break
        await asyncio.sleep(0.05)
    assert delivered == 57
    assert {entry.sequence - 1 async for entry in outbox.entries()} == {20, 30, 40}


async def test_moderate_entries_are_abandoned_after_three_tries_that_reached_the_target(
    outbox: Outbox, up: Upstream
) -> None:
    up.rule("/a", *[status(423)] * 5)
    await outbox.enqueue(http.put(up.url + "/a", purpose="hint"), b"hello")
    await up.stop()
    await outbox.flush()
    assert (await only(outbox)).reached == 0
    await up.start()
    for number in range(3):
        await outbox.retry(1)
        summary = await outbox.flush()
        assert (summary.abandoned == 1) == (number == 2)
    assert (await only(outbox)).state is State.ABANDONED
    await outbox.flush()
    assert len(up.rules["/a"]) == 2


async def test_retry_after_is_honoured_for_the_whole_target(outbox: Outbox, up: Upstream) -> None:
    up.rule("/a", status(429, Retry_After="100"))
    await outbox.enqueue(http.put(up.url + "/a"), b"hello")
    assert (await outbox.flush()).deferred == 1
    await outbox.enqueue(http.put(up.url + "/b"), b"hello")
    await outbox.retry(1)
    before = len(up.requests)
    assert (await outbox.flush()).waiting == 2
    assert len(up.requests) == before


async def test_a_write_against_a_state_that_was_ours_follows_our_own(outbox: Outbox, up: Upstream) -> None:
    """The writer has not seen what became of its first write, which was delivered before the second was queued."""
    up.files["/a"] = b"before"
    seen = up.etag("/a")
    for body in (b"one", b"two", b"three"):
        await outbox.enqueue(http.put(up.url + "/a", if_match=seen), body)
        assert (await outbox.flush()).delivered == 1
    up.files["/a"] = b"theirs"
    await outbox.enqueue(http.put(up.url + "/a", if_match=seen), b"four")
    assert (await outbox.flush()).conflicts == 1
    assert up.files["/a"] == b"theirs"


async def test_a_stepped_clock_during_delivery_loses_and_reorders_nothing(tmp_path: Path, up: Upstream) -> None:
    clock = SteppedClock()
    async with await Outbox.open(tmp_path / "outbox", clock=clock) as outbox:
        for number in range(60):
            if number in (0, 21, 42):
                up.rule(f"/{number % 4}", status(423), reset)
            await outbox.enqueue(http.put(f"{up.url}/{number % 4}", if_absent=True), str(number).encode())
        watching = asyncio.ensure_future(outbox.watch())
        async with asyncio.timeout(60):
            for turn in itertools.count():
                clock.step_s = (0.0, 30 * 86400.0, -30 * 86400.0)[turn % 3]
                if not await outbox.waiting():
                    break
                await asyncio.sleep(0.02)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert await outbox.waiting() == 0
        assert [entry async for entry in outbox.entries()] == []
    for key in range(4):
        assert [int(effect.body) for effect in up.effects if effect.path == f"/{key}"] == list(range(key, 60, 4))


async def test_several_deliver_the_same_queue(tmp_path: Path, up: Upstream) -> None:
    boxes = [await Outbox.open(tmp_path / "outbox", settings=OutboxSettings(parallel=4)) for _ in range(3)]
    for number in range(90):
        await boxes[number % 3].enqueue(http.put(f"{up.url}/{number % 9}", if_absent=True), str(number).encode())
    while await boxes[0].waiting():
        summaries = await asyncio.gather(*(box.flush() for box in boxes))
        assert sum(summary.conflicts for summary in summaries) == 0
    for box in boxes:
        await box.close()
    assert len(up.effects) == 90, "nothing was sent twice"
    for key in range(9):
        assert [int(effect.body) for effect in up.effects if effect.path == f"/{key}"] == list(range(key, 90, 9))


async def test_the_watch_begins_at_once_with_each_new_entry(outbox: Outbox, up: Upstream) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.ensure_future(outbox.watch(lambda done: seen.put_nowait(done.entry.keys[0])))
    for number in range(3):
        await outbox.enqueue(http.put(f"{up.url}/{number}"), b"hello")
        assert await asyncio.wait_for(seen.get(), 5) == f"{up.url}/{number}"
    await outbox.close()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_token_comes_from_its_file_at_each_try(outbox: Outbox, up: Upstream, tmp_path: Path) -> None:
    token = tmp_path / "token"
    await outbox.enqueue(http.put(up.url + "/a", token_file=token), b"hello")
    assert "token file" in (await outbox.flush()).reasons[0]
    token.write_text("  s3cret\n")
    await outbox.retry(1)
    assert (await outbox.flush()).delivered == 1
    assert all(headers["authorization"] == "Bearer s3cret" for _, _, headers in up.requests)


async def test_other_kinds_are_left_to_those_who_can_deliver_them(tmp_path: Path, up: Upstream) -> None:
    from holdfast.outbox import NewEntry

    seen: list[Entry] = []

    async def ref(entry: Entry) -> Outcome:
        seen.append(entry)
        if entry.tries == 0:
            raise RuntimeError("a bug")
        return Deferred("not yet") if entry.tries == 1 else Delivered()

    async with await Outbox.open(tmp_path / "outbox") as plain:
        await plain.enqueue(NewEntry("ref", "update", ("a", "b"), "coordinator", {"group": [1, 2]}))
        assert (await plain.flush()).waiting == 1
    async with await Outbox.open(tmp_path / "outbox", deliver={"ref": ref}) as outbox:
        for _ in range(3):
            await outbox.retry(1)
            summary = await outbox.flush()
        assert summary.delivered == 1
    assert [entry.reason for entry in seen] == ["", "the delivery failed: RuntimeError", "not yet"]


async def test_a_damaged_body_is_put_aside_while_it_is_sent(outbox: Outbox, up: Upstream, tmp_path: Path) -> None:
    await outbox.enqueue(http.put(up.url + "/a"), b"x" * 3_000_000)
    await outbox.enqueue(http.put(up.url + "/b"), b"fine")
    (body,) = (tmp_path / "outbox" / "bodies").iterdir()
    data = bytearray(body.read_bytes())
    data[-100] ^= 1
    body.write_bytes(data)
    summary = await outbox.flush()
    assert (summary.damaged, summary.delivered) == (1, 1)
    assert up.files == {"/b": b"fine"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: http.put("ftp://host/a"),
        lambda: http.put("http://user:word@host/a"),
        lambda: http.put("http://host/a#part"),
        lambda: http.put("http://host/a b"),
        lambda: http.put("http://host/a", headers={"Authorization": "Bearer x"}),
        lambda: http.put("http://host/a", headers={"x": "a\r\nb"}),
        lambda: http.put("http://host/a", if_match="unquoted"),
        lambda: http.put("http://host/a", if_match='"a"', if_absent=True),
        lambda: http.put("http://host/a", if_unmodified_since="yesterday"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is_queued(make: object) -> None:
    with pytest.raises(BadRequest):
        make()  # type: ignore[operator]


async def test_a_put_without_body_is_refused(outbox: Outbox) -> None:
    with pytest.raises(BadRequest, match="has a body"):
        await outbox.enqueue(http.put("http://host/a"))
