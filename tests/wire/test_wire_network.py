"""The operating system's sockets behind the seam."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from holdfast.errors import Unavailable
from holdfast.wire.network import TcpNetwork


async def _hello(request: web.BaseRequest) -> web.Response:
    return web.Response(text="hello")


async def test_closing_a_listener_ends_accepting_but_no_connection() -> None:
    network = TcpNetwork()
    server = web.Server(_hello)
    listener = await network.listen(server, "localhost", 0, tls=None)
    url = f"http://{listener.host}:{listener.port}/"
    async with aiohttp.ClientSession(connector=network.connector(limit_per_host=2, tls=None)) as session:
        for _ in range(2):
            async with session.get(url) as response:
                assert await response.text() == "hello"
            await listener.close()
    async with aiohttp.ClientSession(connector=network.connector(limit_per_host=2, tls=None)) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url)
    await server.shutdown(1)


async def test_an_address_that_cannot_be_had_is_unavailable() -> None:
    network = TcpNetwork()
    first = await network.listen(asyncio.Protocol, "127.0.0.1", 0, tls=None)
    with pytest.raises(Unavailable, match=f"port {first.port}"):
        await network.listen(asyncio.Protocol, "127.0.0.1", first.port, tls=None)
    with pytest.raises(Unavailable, match="cannot listen on"):
        await network.listen(asyncio.Protocol, "name.invalid", 0, tls=None)
    await first.close()


async def test_processes_may_share_a_port_if_all_of_them_say_so() -> None:
    network = TcpNetwork()
    first = await network.listen(asyncio.Protocol, "127.0.0.1", 0, tls=None, reuse_port=True)
    second = await network.listen(asyncio.Protocol, "127.0.0.1", first.port, tls=None, reuse_port=True)
    assert second.port == first.port
    await first.close()
    await second.close()
