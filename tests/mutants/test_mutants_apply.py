"""The mutants stay usable: every patch fits the tree in one place only, its test exists, the list is up to date."""

from __future__ import annotations

import ast
import functools
import shutil
from pathlib import Path

import pytest
from tests.mutants.patches import ROOT, BadPatch, Mutant, load_all, parse, table

MUTANTS = load_all()
FROM_THE_START = {
    "acknowledge-before-sync",
    "commit-with-one-receipt-too-few",
    "grant-node-not-checked",
    "signature-component-left-out",
    "id-not-recomputed",
}


def test_there_are_enough_and_those_that_were_asked_for_first() -> None:
    assert {mutant.name for mutant in MUTANTS} >= FROM_THE_START
    assert len(MUTANTS) >= 30
    changes = [tuple(sorted((path, tuple(hunks)) for path, hunks in mutant.files.items())) for mutant in MUTANTS]
    assert len({str(change) for change in changes}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_patch_applies_and_leaves_valid_code(mutant: Mutant, tmp_path: Path) -> None:
    for path in mutant.files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    mutant.apply(tmp_path)
    for path in mutant.files:
        ast.parse((tmp_path / path).read_text(encoding="utf-8"))


@functools.cache
def _tests(path: Path) -> set[str]:
    """Names of the test functions and test classes of a file, without running it."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):  # a state machine's TestCase
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if name.lower().startswith("test")}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_named_test_exists(mutant: Mutant) -> None:
    file, _, name = mutant.test.partition("::")
    assert file.startswith("tests/")
    assert name.partition("[")[0].partition("::")[0] in _tests(ROOT / file)


def test_the_list_is_in_the_track_record() -> None:
    written = (ROOT / "docs" / "track-record.md").read_text(encoding="utf-8")
    assert table(MUTANTS) in written, "python -m tests.mutants.run --table prints it"


GOOD = """Promise: one
Test: tests/x.py::test_x

--- a/src/holdfast/x.py
+++ b/src/holdfast/x.py
@@ -1,2 +1,2 @@
 a
-b
+c
"""


def test_a_hunk_is_found_by_its_lines_and_must_fit_once(tmp_path: Path) -> None:
    file = tmp_path / "src" / "holdfast" / "x.py"
    file.parent.mkdir(parents=True)
    mutant = parse("one", GOOD)
    file.write_text("x\nxa\nb\na\nb\n")
    mutant.apply(tmp_path)
    assert file.read_text() == "x\nxa\nb\na\nc\n"
    for text in ("a\nc\n", "a\nb\na\nb\n"):
        file.write_text(text)
        with pytest.raises(BadPatch, match="fits"):
            mutant.apply(tmp_path)
        assert file.read_text() == text
    file.unlink()
    with pytest.raises(BadPatch, match="there is no"):
        mutant.apply(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one", ""),
        ("one", GOOD.replace("Promise", "promise")),
        ("one", GOOD.replace("src/holdfast", "tests")),
        ("one", GOOD.replace("+c", "+b")),
        ("one", GOOD.replace("+++ b/src/holdfast/x.py", "+++ b/src/holdfast/y.py")),
        ("one", GOOD + "garbage\n"),
        ("One", GOOD),
    ],
)
def test_what_is_no_patch_is_refused(name: str, text: str) -> None:
    with pytest.raises(BadPatch):
        parse(name, text)
