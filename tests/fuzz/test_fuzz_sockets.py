"""Some hundreds of hostile requests to each kind of server, real processes; ``make fuzz`` sends a hundred thousand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.servers import KINDS, serving
from tests.fuzz.sockets import attack


@pytest.mark.rig
@pytest.mark.timeout(300)
async def test_hostile_requests_leave_servers_as_they_were(tmp_path: Path) -> None:
    with serving(tmp_path) as servers:
        assert [server.kind for server in servers] == list(KINDS)
        for server in servers:
            report = await attack(server, 1000, seed=3)
            assert report.wrong == []
            assert report.statuses[200]
            assert report.statuses[400]
