"""Slow connections of each kind against each kind of server: healthy requests go on. How fast: ``make fuzz``."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.servers import KINDS, serving
from tests.fuzz.slow import WAYS, harass


@pytest.mark.rig
@pytest.mark.timeout(300)
async def test_slow_connections_stop_nobody(tmp_path: Path) -> None:
    with serving(tmp_path) as servers:
        assert [server.kind for server in servers] == list(KINDS)
        for server in servers:
            for way in WAYS:
                report = await harass(server, way, 150, 20)
                assert report.wrong == []
