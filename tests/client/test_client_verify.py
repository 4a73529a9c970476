"""Verify lists what is wrong with copies and names, and what it finds is set aside and made anew."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.client.fleet import Fleet

from holdfast.blob import Digest
from holdfast.cli import main
from holdfast.client.vault import Defect, Vault, VerifySummary
from holdfast.codec import refs
from holdfast.errors import BadRequest, Corrupt, NotFound, Unavailable
from holdfast.metadata import queries_status
from holdfast.testing.grid import Grid, Process
from holdfast.testing.loop import VirtualLoop, run

DATA = random.Random(4).randbytes(3 << 20)
SETTINGS = {"repair_interval": 5.0, "heartbeat_interval": 10.0}


async def verified(vault: Vault, names: tuple[str, ...] = (), **words: Any) -> tuple[list[Defect], VerifySummary]:
    found: list[Defect] = []
    summary = await vault.verify(names, found=found.append, **words)
    return found, summary


async def pack_of(vault: Vault, name: str) -> Digest:
    return refs.parse_keep_list((await vault._names.find(name, fresh=True)).keep)[0]


def copies_of(grid: Grid, pack: Digest) -> list[tuple[Process, Path]]:
    paths = [(node, node.data / "objects" / str(pack)[:2] / str(pack)) for node in grid.nodes]
    return [(node, path) for node, path in paths if path.exists()]


def rot(path: Path, at: int = -200) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


async def until(grid: Grid, copies: int) -> None:
    """Until every pack has so many copies on record."""
    assert grid.coordinator.running is not None
    state: Any = grid.coordinator.running.app.state  # type: ignore[attr-defined]
    async with asyncio.timeout(600):
        while True:
            rows = await state.database.run(queries_status.packs_by_copies, sorted(state.registry.absent()))
            if all(row.live == copies for row in rows):
                return
            await asyncio.sleep(1)


def test_a_wrong_and_a_missing_copy_are_found_and_made_anew(tmp_path: Path) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=5, survive=2, settings=SETTINGS) as grid:
            vault = await grid.vault()
            await vault.put(DATA, "dir/large")
            await vault.put(b"small", "dir/small")
            found, summary = await verified(vault)
            assert (found, summary.names, summary.bytes) == ([], 3, len(DATA) + 5)
            found, summary = await verified(vault, all_copies=True)
            assert (found, summary.names, summary.copies) == ([], 3, 6)
            pack = await pack_of(vault, "dir/large")
            (one, rotten), (two, gone), _ = copies_of(grid, pack)
            rot(rotten)
            gone.unlink()
            found, summary = await verified(vault, ("dir/large",), all_copies=True)
            assert {(defect.kind, defect.name, defect.pack, defect.node) for defect in found} == {
                ("wrong", "dir/large", pack, one.name), ("missing", "dir/large", pack, two.name),
            }  # fmt: skip
            assert (summary.wrong, summary.missing, summary.unreached, summary.lost) == (1, 1, 0, 0)
            assert any((one.data / "quarantine").iterdir())
            await until(grid, 3)
            assert len(copies_of(grid, pack)) == 3
            assert (await verified(vault, all_copies=True))[0] == []
            assert await vault.read("dir/large") == DATA

    run(scenario, seed=5)


def test_a_name_without_a_right_copy_is_lost_and_said_so_at_once_and_later(tmp_path: Path) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=4, survive=1, settings=SETTINGS) as grid:
            vault = await grid.vault()
            await vault.put(DATA, "lost")
            pack = await pack_of(vault, "lost")
            await vault.put(b"right", "right")
            for _, path in copies_of(grid, pack):
                rot(path, 1000)
            reader = await grid.vault("another laptop")
            with pytest.raises(Corrupt) as caught:
                await reader.read("lost")
            assert str(pack) in caught.value.detail
            assert "node-" in caught.value.detail
            await asyncio.sleep(60)  # the nodes have set them aside, the coordinator has heard
            assert copies_of(grid, pack) == []
            for one in (reader, await grid.vault("third laptop")):
                with pytest.raises(Corrupt, match=str(pack)):
                    await one.read("lost")
            for words in ({}, {"all_copies": True}):
                found, summary = await verified(vault, **words)  # type: ignore[arg-type]
                assert [(defect.kind, defect.name, defect.pack) for defect in found] == [("lost", "lost", pack)]
                assert (summary.lost, summary.names) == (1, 2)
            await grid.kill(grid.coordinator)
            with pytest.raises((Corrupt, Unavailable)):
                await reader.read("lost")

    run(scenario, seed=6)


def test_a_node_that_does_not_answer_is_no_proof(tmp_path: Path) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=4, survive=1, settings=SETTINGS) as grid:
            vault = await grid.vault()
            await vault.put(DATA, "here")
            pack = await pack_of(vault, "here")
            (one, _), (two, _) = copies_of(grid, pack)
            await grid.kill(one)
            found, summary = await verified(vault, all_copies=True)
            assert ("unreached", pack, one.name) in {(defect.kind, defect.pack, defect.node) for defect in found}
            assert (summary.lost, summary.unreached) == (0, 1)
            await grid.kill(two)
            found, summary = await verified(vault)
            assert {defect.kind for defect in found} == {"unreached"}
            with pytest.raises(Unavailable):
                await vault.read("here")

    run(scenario, seed=7)


def test_a_sample_reads_its_share_and_names_are_checked(tmp_path: Path) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        async with Grid(loop, tmp_path, nodes=3, survive=1, settings=SETTINGS) as grid:
            vault = await grid.vault()
            for number in range(60):
                await vault.put(bytes([number]) * 1000, f"d/{number}")
            _, summary = await verified(vault, ("d",), sample=0.3)
            assert summary.names == 61
            assert 5_000 < summary.bytes < 35_000
            with pytest.raises(NotFound):
                await vault.verify(["nothing"])
            for share in (0.0, 1.1):
                with pytest.raises(BadRequest):
                    await vault.verify(sample=share)

    run(scenario, seed=8)


async def test_the_command_and_its_exit_codes(small_fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    vault = await small_fleet.vault()
    await vault.put(DATA[:300_000], "file")
    await vault.put(b"other", "other")
    home = str(small_fleet.home_of(vault).path)

    async def command(*words: str) -> tuple[int, list[dict[str, Any]], str]:
        code = await asyncio.to_thread(main.run, ["verify", *words, "--json", "--home", home])
        said = capsys.readouterr()
        return code, [json.loads(line) for line in said.out.splitlines()], said.err

    code, [summary], _ = await command("--all-copies")
    assert (code, summary["event"], summary["names"], summary["lost"]) == (0, "summary", 2, 0)
    paths = [path for number in range(4) for path in small_fleet.blobs(number) if path.stat().st_size > 200_000]
    rot(paths[0], 1000)
    code, [defect, summary], _ = await command("file", "--all-copies")
    assert (code, defect["event"], defect["kind"], defect["pack"]) == (3, "defect", "wrong", paths[0].name)
    assert summary["wrong"] == 1
    await vault.put(DATA[300_000:600_000], "lost")
    pack = str(await pack_of(vault, "lost"))
    for path in [path for number in range(4) for path in small_fleet.blobs(number) if path.name == pack]:
        rot(path, 1000)
    code, rows, err = await command()
    assert code == 6
    assert [row["name"] for row in rows if row.get("kind") == "lost"] == ["lost"]
    [refusal] = [said for line in err.splitlines() if "error" in (said := json.loads(line))]  # log lines lie around it
    assert refusal["error"]["exit"] == 6
    assert (await command("nothing"))[0] == 4
    assert (await command("--sample", "0%"))[0] == 2
