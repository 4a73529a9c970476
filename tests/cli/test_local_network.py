"""The processes behind ``up`` and ``demo``: a cut start goes on, members are killed and restarted, failures told."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast import assemble
from holdfast.cli.local_network import LocalNetwork, Member, survive_default
from holdfast.errors import BadConfig, Unavailable, UsageError


def test_survive_leaves_two_to_spare() -> None:
    assert [survive_default(nodes) for nodes in range(1, 9)] == [0, 0, 1, 2, 3, 4, 4, 4]


async def test_an_interrupted_start_is_continued_and_members_come_back(tmp_path: Path) -> None:
    (port,) = await assemble.free_ports(1)
    made = await assemble.init_coordinator(tmp_path / "coordinator", advertise=f"http://127.0.0.1:{port}", survive=0)
    seen: list[Member] = []
    async with LocalNetwork(tmp_path, nodes=2, on_exit=seen.append) as network:
        assert network.coordinator.url == made.url
        assert network.coordinator.id == str(made.id)
        victim = network.nodes[0]
        before = (victim.id, victim.pid)
        await network.kill(victim)
        assert victim.code == -9
        assert seen == [victim]
        await network.restart(victim)
        assert victim.running
        assert victim.id == before[0]
        assert victim.pid != before[1]
        with pytest.raises(BadConfig, match="in use"):
            await LocalNetwork(tmp_path).start()
    assert not any(member.running for member in network.members)
    assert [member.code for member in network.members] == [0, 0, 0]
    assert seen == [victim]

    with pytest.raises(UsageError, match="2 nodes"):
        await LocalNetwork(tmp_path, nodes=3).start()
    (tmp_path / "node-2" / "node.json").write_text("{")
    with pytest.raises(Unavailable, match=r"node-2 did not start: .*node.json is damaged"):
        async with LocalNetwork(tmp_path):
            pass
