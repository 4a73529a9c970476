"""The HTTP client's own connections against a server that says on the byte what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.wire.answer_head import BadAnswer, Head, body_bytes, encode_head, parse_head
from holdfast.wire.connections import Connections
from holdfast.wire.heads import HEAD_BYTES_MAX
from holdfast.wire.http1 import Ended
from holdfast.wire.network import TcpNetwork

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BIG = bytes(range(256)) * 20_000

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def against(*scripts: Script, per_server: int = 4) -> AsyncIterator[tuple[Connections, str, list[int]]]:
    """A client, the URL of a server whose n-th connection follows the n-th script, and how many were opened."""
    opened: list[int] = []
    left = list(scripts)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(1)
        try:
            await left.pop(0)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    connections = Connections(TcpNetwork(), per_server=per_server, tls=None)
    try:
        yield connections, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", opened
    finally:
        connections.close()
        server.close()


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def says(*answers: bytes) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await head(reader)
            writer.write(answer)
            await writer.drain()
        await reader.read()

    return script


async def get(connections: Connections, url: str, *, again: bool = True, stall_s: float = 5.0) -> bytes:
    answer = await connections.request(url, "GET", "/", {"host": "x"}, again=again, stall_s=stall_s)
    try:
        return await answer.whole(stall_s)
    finally:
        answer.close()


async def test_a_connection_is_kept_while_answers_end_where_they_say() -> None:
    async with against(says(OK, OK, OK)) as (connections, url, opened):
        for _ in range(3):
            assert await get(connections, url) == b"ok"
        assert len(opened) == 1


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"and more than it said",
    ],
)
async def test_a_connection_is_not_kept_after_other_answers(first: bytes) -> None:
    async with against(says(first, OK), says(OK)) as (connections, url, opened):
        assert await get(connections, url) == b"ok"
        assert await get(connections, url) == b"ok"
        assert len(opened) == 2


async def test_an_answer_that_was_not_read_to_its_end_closes_its_connection() -> None:
    async with against(says(OK, OK), says(OK)) as (connections, url, opened):
        answer = await connections.request(url, "GET", "/", {"host": "x"}, again=True, stall_s=5.0)
        answer.close()
        assert await get(connections, url) == b"ok"
        assert len(opened) == 2


async def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing() -> None:
    closed = asyncio.Event()

    async def once_then_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)
        await head(reader)  # the next request arrives, and nobody answers it
        closed.set()

    async with against(once_then_gone, says(OK)) as (connections, url, opened):
        assert await get(connections, url) == b"ok"
        assert await get(connections, url) == b"ok"
        assert closed.is_set()
        assert len(opened) == 2


async def test_what_must_not_be_sent_twice_is_not() -> None:
    async def once_then_gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)
        await head(reader)

    async with against(once_then_gone, says(OK)) as (connections, url, opened):
        assert await get(connections, url) == b"ok"
        with pytest.raises(Ended):
            await get(connections, url, again=False)
        assert len(opened) == 1


async def test_nothing_is_asked_again_once_an_answer_began() -> None:
    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()

    async with against(breaks_off) as (connections, url, opened):
        assert await get(connections, url) == b"ok"
        with pytest.raises(Ended) as caught:
            await get(connections, url)
        assert not caught.value.untouched
        assert len(opened) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>hello</html>\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 no\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nendless",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: identity\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: \xff\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * HEAD_BYTES_MAX,
    ],
)
async def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    async with against(says(answer)) as (connections, url, _):
        with pytest.raises(BadAnswer):
            await get(connections, url)


async def test_silence_ends() -> None:
    async with against(says(b"HTTP/1.1 200 OK\r\nContent-Le"), says(OK[:-1])) as (connections, url, _):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await get(connections, url, stall_s=0.05)


async def test_a_body_is_received_where_it_shall_lie() -> None:
    async with against(says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BIG) + BIG)) as (
        connections,
        url,
        _,
    ):
        answer = await connections.request(url, "GET", "/", {"host": "x"}, again=True, stall_s=5.0)
        memory = bytearray(answer.size)
        view = memoryview(memory)
        await answer.read_exactly(view[:100], 5.0)
        taken = 100 + await answer.read(view[100:200], 5.0)
        with pytest.raises(ValueError, match="more than the body holds"):
            await answer.read_exactly(memoryview(bytearray(len(BIG))), 5.0)
        await answer.read_exactly(view[taken:], 5.0)
        assert memory == BIG
        assert await answer.read(view, 5.0) == 0
        answer.close()


async def _twice(*, early: bytes = b"", ask_first: bool = False) -> tuple[list[bytes], bytes, int]:
    """What two connections received of a large body, and the answer's body, and how many were opened."""
    got: list[bytes] = []

    async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await head(reader)
        if early:
            writer.write(early)
        else:
            if b"100-continue" in received:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            got.append(await reader.readexactly(len(BIG)))
            writer.write(OK)
        await writer.drain()
        await reader.read()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(BIG), 300_000):
            yield BIG[at : at + 300_000]

    async with against(takes, takes) as (connections, url, opened):
        headers = {"host": "x", "content-length": str(len(BIG))}
        answer = await connections.request(
            url, "PUT", "/", headers, pieces, ask_first=ask_first, again=True, stall_s=5.0
        )
        body = await answer.whole(5.0)
        answer.close()
        assert not (early and answer.status == 200)
        return got, body, len(opened)


@pytest.mark.parametrize("ask_first", [True, False])
async def test_a_large_body_goes_out_whole(ask_first: bool) -> None:
    got, body, _ = await _twice(ask_first=ask_first)
    assert got == [BIG]
    assert body == b"ok"


@pytest.mark.parametrize("ask_first", [True, False])
async def test_an_answer_that_comes_before_the_body_was_sent_is_heard(ask_first: bool) -> None:
    refusal = b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 4\r\n\r\nfull"
    got, body, opened = await _twice(early=refusal, ask_first=ask_first)
    assert got == []
    assert body == b"full"
    assert opened == 1


async def test_more_requests_than_connections_take_turns() -> None:
    busy = most = 0

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy, most
        while True:
            await head(reader)
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0)
            busy -= 1
            writer.write(OK)

    async with against(*[counts] * 3, per_server=3) as (connections, url, opened):
        waiting = [asyncio.create_task(get(connections, url)) for _ in range(30)]
        await asyncio.sleep(0)
        for task in waiting[5:10]:  # who no longer waits does not keep others from it
            task.cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert done.count(b"ok") == 25
        assert most <= 3
        assert len(opened) == 3


async def test_nobody_listens() -> None:
    async with against() as (_, url, _):
        pass
    fresh = Connections(TcpNetwork(), per_server=1, tls=None)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await get(fresh, url)
    fresh.close()
    with pytest.raises(ConnectionAbortedError):
        await get(fresh, url)


@given(st.dictionaries(st.sampled_from(["a", "b-c", "x1"]), st.text(max_size=20), max_size=3), st.text(max_size=10))
def test_a_request_head_is_one_head(headers: dict[str, str], where: str) -> None:
    try:
        data = encode_head("GET", "/" + where, headers)
    except ValueError:  # also UnicodeEncodeError
        return
    assert data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r") == len(headers) + 2
    assert data.endswith(b"\r\n\r\n")


@given(st.binary(max_size=200) | st.builds(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest, st.binary(max_size=100)))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    try:
        found = parse_head(data)
        size = body_bytes("GET", found)
    except BadAnswer:
        return
    assert 100 <= found.status <= 599
    assert size >= 0
    assert all(name == name.lower() and "\n" not in name + value for name, value in found.headers.items())


Answered = tuple[Head, bytes] | OSError


async def told(connections: Connections, url: str, *, stall_s: float = 5.0) -> Answered:
    """What is heard of a request that goes out on a connection that was kept."""
    assert await get(connections, url) == b"ok"
    heard: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
    assert connections.tell(url, b"GET / HTTP/1.1\r\n\r\n", heard.set_result, stall_s=stall_s) is not None
    return await heard


async def test_a_whole_answer_is_heard_in_whatever_pieces_it_comes() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)
        await head(reader)
        for at in range(len(OK)):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" if at == 0 else b"")
            writer.write(OK[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)
        await head(reader)
        writer.write(OK)
        await reader.read()

    async with against(slowly) as (connections, url, opened):
        assert connections.tell(url, b"", lambda answer: None, stall_s=1.0) is None  # nothing is open yet
        answer = await told(connections, url)
        assert not isinstance(answer, OSError)
        assert (answer[0].status, answer[1]) == (200, b"ok")
        assert await get(connections, url) == b"ok"
        assert len(opened) == 1


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (b"", Ended),
        (OK[:-1], Ended),
        (b"nonsense\r\n\r\n", BadAnswer),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 20) + bytes(1 << 20), BadAnswer),
    ],
)
async def test_what_is_no_whole_answer_is_heard_of_and_closes_its_connection(
    second: bytes, kind: type[OSError]
) -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(OK)
        await head(reader)
        writer.write(second)
        await writer.drain()

    async with against(twice, says(OK)) as (connections, url, opened):
        answer = await told(connections, url)
        assert isinstance(answer, kind)
        assert not isinstance(answer, Ended) or answer.untouched == (not second)
        assert await get(connections, url) == b"ok"
        assert len(opened) == 2


async def test_silence_and_the_client_s_end_are_heard_of_and_what_is_ended_is_not() -> None:
    async with against(says(OK), says(OK), says(OK), per_server=1) as (connections, url, _):
        assert isinstance(await told(connections, url, stall_s=0.05), TimeoutError)
        assert await get(connections, url) == b"ok"
        heard: list[object] = []
        end = connections.tell(url, b"GET / HTTP/1.1\r\n\r\n", heard.append, stall_s=5.0)
        assert end is not None
        end()
        assert await get(connections, url) == b"ok"
        assert heard == []
        assert connections.tell(url, b"GET / HTTP/1.1\r\n\r\n", heard.append, stall_s=5.0) is not None
        connections.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [type(answer) for answer in heard] == [Ended]
