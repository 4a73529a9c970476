"""Every parser of bytes from outside, for a moment: what once broke one, and some inputs (``make fuzz``: many)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz import run
from tests.fuzz.mutate import SCRAPS
from tests.fuzz.target import Target, check

FOUND = [(name, path) for name, target in run.TARGETS.items() for path in run.kept(target)]


@pytest.mark.parametrize(("name", "path"), FOUND, ids=[path.stem for _, path in FOUND])
def test_what_once_broke_a_parser(name: str, path: Path) -> None:
    check(run.TARGETS[name], path.read_bytes())


def test_every_file_of_the_corpus_belongs_to_a_target() -> None:
    assert {path for _, path in FOUND} == set(run.CORPUS.iterdir())


@pytest.mark.parametrize("target", run.TARGETS.values(), ids=run.TARGETS)
def test_changed_bytes_are_refused_as_they_should_be(target: Target) -> None:
    broken, _, _ = run.fuzz(target, 80, seed=7)
    assert broken == []


@pytest.mark.parametrize("target", run.TARGETS.values(), ids=run.TARGETS)
def test_seeds_are_taken_and_long_ones_bounded(target: Target) -> None:
    assert any(check(target, seed) for seed in target.seeds)
    for scrap in (*SCRAPS, target.seeds[0][-40:]):
        if scrap:
            data = target.seeds[0][:40] + scrap * (target.bytes_max // len(scrap))
            run.measure(target, data[: target.bytes_max])
