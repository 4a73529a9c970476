"""The benchmarks run: every part at a tiny size. Their figures mean nothing here."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from bench.__main__ import main
from bench.measure import MIB, Scale, alternate, parse_size, random_file
from bench.picture import drawn, latest
from bench.raw_pipeline import RawNetwork, get_large, put_large
from bench.report import Figure, at_most, ratio_at_least, table
from cryptography.exceptions import InvalidTag
from tests.stores.nats_servers import needs_nats

from bench import access, buckets, costs, flame, limits, memory, outbox, plans, repair, transfer

TINY = Scale(size=MIB, files=20, singles=5, repeat=1, memory_size=MIB, packs=100, entries=300, at_once=4, lost=4 * MIB)


@pytest.mark.rig
def test_limits_run(tmp_path: Path) -> None:
    figures = limits.run(TINY, tmp_path)
    assert len({figure.name for figure in figures}) == len(figures)
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.rig
@pytest.mark.parametrize("part", [transfer, access, repair, memory, costs, outbox])
def test_holdfast_itself_runs(part: ModuleType, tmp_path: Path) -> None:
    figures = part.run(TINY, tmp_path)
    assert len({figure.name for figure in figures}) == len(figures)
    assert all(figure.value > 0 for figure in figures)


def test_plans_run(tmp_path: Path) -> None:
    figures = plans.run(TINY, tmp_path)
    assert [figure.ok for figure in figures] == [True, None]


@needs_nats
@pytest.mark.rig
def test_buckets_run(tmp_path: Path) -> None:
    figures = buckets.run(TINY, tmp_path)
    assert len(figures) == 6
    assert all(figure.value > 0 for figure in figures)


def test_raw_pipeline_gives_back_what_it_was_given(tmp_path: Path) -> None:
    size = 35 * MIB + 17  # three packs, the last one short
    source = random_file(tmp_path / "source", size)
    with RawNetwork(tmp_path / "raw") as network:
        packs = put_large(network, source)
        assert [len(set(pack.holders)) for pack in packs] == [5, 5, 5]
        kept = sorted(path.name for path in (tmp_path / "raw").glob("receiver-*/*"))
        assert kept == sorted(pack.digest.hex() for pack in packs for _ in pack.holders)
        assert get_large(network, packs, tmp_path / "target") == size
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_raw_pipeline_refuses_a_flipped_bit(tmp_path: Path) -> None:
    with RawNetwork(tmp_path / "raw", nodes=1, copies=1) as network:
        packs = put_large(network, random_file(tmp_path / "source", MIB))
        (path,) = (tmp_path / "raw" / "receiver-0").iterdir()
        body = bytearray(path.read_bytes())
        body[1000] ^= 1
        path.write_bytes(body)
        with pytest.raises(InvalidTag):
            get_large(network, packs)


def test_rounds_alternate() -> None:
    order: list[str] = []
    alternate(3, lambda number: order.append(f"a{number}"), lambda number: order.append(f"b{number}"))
    assert order == ["a0", "b0", "b1", "a1", "a2", "b2"]


def test_goals_are_judged_by_value_or_ratio() -> None:
    assert Figure("put", 60.0, "MB/s", 100.0, "raw", ratio_at_least(0.5)).ok is True
    assert Figure("put", 40.0, "MB/s", 100.0, "raw", ratio_at_least(0.5)).ok is False
    assert Figure("start", 130.0, "ms", goal=at_most(120)).ok is False
    assert Figure("start", 130.0, "ms").ok is None
    assert "MISSED" in table([Figure("start", 130.0, "ms", goal=at_most(120))])


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("4KiB", 4096), ("64MiB", 64 * MIB), ("2gib", 2 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "4 KiB", "1.5GiB", "4KB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_results_name_no_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    arguments = ["--only", "limits", "--size", "1MiB", "--files", "5", "--singles", "2", "--repeat", "1"]
    main([*arguments, "--data", str(tmp_path), "--json", str(result)])
    document = json.loads(result.read_text())
    assert document["settings"]["size"] == MIB
    assert str(tmp_path) not in result.read_text()
    assert "raw pipeline, put" in capsys.readouterr().out


def test_a_picture_of_the_latest_figures() -> None:
    old = {"taken": "1", "figures": [{"name": "put, one large file", "value": 1.0, "unit": "MB/s", "ratio": 0.5}]}
    new = {"taken": "2", "figures": [{"name": "put, one large file", "value": 3.0, "unit": "MB/s", "ratio": 12.0}]}
    svg = ElementTree.fromstring(drawn(latest([new, old])))
    said = " ".join(svg.itertext())
    assert "12 times  (3 MB/s)" in said
    assert "50%" not in said
    with pytest.raises(ValueError, match="none of the figures"):
        drawn({})


def test_a_flame_graph_is_as_wide_as_its_samples() -> None:
    root = flame.Frame("all")
    left, right = "main (a.py);left (src/holdfast/wire/x.py) 3", "main (a.py);right (b.py) 1"
    flame.grown(root, "\n".join([left, right, "main (a.py);_work (pool.py) 9"]))
    assert root.samples == 4
    svg = ElementTree.fromstring(flame.drawn(root, "a title"))
    widths = {group[0].text: group[1].get("width") for group in svg if len(group) == 3}
    assert widths["left wire/x.py 75.0%"] == "750.0"
    assert widths["right b.py 25.0%"] == "250.0"
