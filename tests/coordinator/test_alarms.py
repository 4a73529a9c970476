"""Alarms are told once when they have lasted, and once when they are over; trouble in telling is only logged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiohttp import web
from tests.coordinator.hall import SkippingClock

from holdfast.coordinator.alarms import HOLD_S, Alarms
from holdfast.wire.network import TcpNetwork


def make(found: dict[str, str], on_alarm: str) -> tuple[Alarms, SkippingClock]:
    clock = SkippingClock()
    return Alarms(lambda: found, name="hall", on_alarm=on_alarm, clock=clock, network=TcpNetwork()), clock


async def test_a_command_hears_of_it_once(tmp_path: Path) -> None:
    found = {"lost": "3 packs cannot be read"}
    log = tmp_path / "alarms"
    alarms, clock = make(found, f"tee -a {log}")
    await alarms.unit()
    assert not log.exists(), "figures flicker"
    clock.skip(HOLD_S)
    await alarms.unit()
    await alarms.unit()
    assert json.loads(log.read_text()) == {
        "kind": "lost", "state": "begins", "text": "3 packs cannot be read", "name": "hall",
    }  # fmt: skip
    found.clear()
    await alarms.unit()
    clock.skip(HOLD_S)
    await alarms.unit()
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["state"] for one in told] == ["begins", "over"]


async def test_a_short_alarm_is_not_told(tmp_path: Path) -> None:
    found = {"floor": "1 pack"}
    log = tmp_path / "alarms"
    alarms, clock = make(found, f"tee -a {log}")
    await alarms.unit()
    found.clear()
    clock.skip(HOLD_S)
    await alarms.unit()
    assert not log.exists()


@pytest.mark.parametrize("on_alarm", ["", "false", "/nowhere/at/all", "http://127.0.0.1:9/", "'unclosed"])
async def test_trouble_in_telling_stops_nothing(on_alarm: str) -> None:
    alarms, clock = make({"breaker": "half of it"}, on_alarm)
    await alarms.unit()
    clock.skip(HOLD_S)
    await alarms.unit()
    assert alarms.told == {"breaker": "half of it"}


async def test_a_webhook_hears_of_it() -> None:
    heard: list[dict[str, str]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        heard.append(json.loads(await request.read()))
        return web.Response(status=204)

    server = web.Server(answer)
    listener = await TcpNetwork().listen(server, "127.0.0.1", 0, tls=None)
    alarms, clock = make({"old": "an old copy"}, f"http://127.0.0.1:{listener.port}/hook")
    await alarms.unit()
    clock.skip(HOLD_S)
    await alarms.unit()
    await listener.close()
    await server.shutdown(1.0)
    assert [one["kind"] for one in heard] == ["old"]
