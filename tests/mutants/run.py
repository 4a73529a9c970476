"""``make mutants``: applies each patch in a scratch copy and requires its named test to fail there.

    python -m tests.mutants.run [NAME...] [--jobs 2] [--table]

The test must pass without the patch and fail with it: by a failed check, not because the copy cannot be imported, a
name is missing or nothing was collected. Exit code 1 unless every mutant was caught.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.mutants.patches import ROOT, BadPatch, Mutant, load_all, table

RUN_S_MAX = 300.0
LOOK_S = 2.0
LINGER_LOOKS_MAX = 5
COPIED = ("src", "tests", "docs", "bench")
FILES = ("pyproject.toml", "README.md", "Makefile")
NO_VERDICT = ("ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "NameError", "UnboundLocalError")
"""Failures that speak of a broken patch and not of a broken promise."""

SENTINEL = """\
from pathlib import Path

import holdfast

if Path(holdfast.__file__).resolve().parents[1] != Path(__file__).resolve().parent / "src":
    raise RuntimeError(f"the tests would run on {holdfast.__file__} and not on the copy")
"""


_running: set[int] = set()  # process groups


class Ended(enum.Enum):
    """How one run of a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    BROKEN = "broken"


class Run(NamedTuple):
    """``why``: the first failure, or what went wrong."""

    ended: Ended
    why: str


class Judged(NamedTuple):
    """One row of the answer."""

    mutant: Mutant
    verdict: str
    why: str = ""

    @property
    def caught(self) -> bool:
        return self.verdict == "caught"


def copy_tree(target: Path) -> None:
    """What tests need, with compiled files, which are valid as long as the times of their sources are kept."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("results", ".hypothesis"))
    for name in FILES:
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, target / name)
    (target / "conftest.py").write_text(SENTINEL, encoding="utf-8")


@contextlib.contextmanager
def patched(copy: Path, mutant: Mutant) -> Iterator[None]:
    """The copy with one patch, and then as it was. BadPatch."""
    before = {copy / path: ((copy / path).read_bytes(), (copy / path).stat()) for path in mutant.files}
    try:
        mutant.apply(copy)
        forget_compiled(before)
        yield
    finally:
        for file, (data, stat) in before.items():
            file.write_bytes(data)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        forget_compiled(before)


def forget_compiled(files: Iterable[Path]) -> None:
    """A compiled file is taken for that of any source of its size and second."""
    for file in files:
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()


class Copies:
    """As many copies of the tree as tests run at once, each used by one at a time."""

    def __init__(self, directory: Path, count: int) -> None:
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            copy = directory / str(number)
            copy.mkdir()
            copy_tree(copy)
            self._free.put(copy)

    @contextlib.contextmanager
    def one(self) -> Iterator[Path]:
        copy = self._free.get()
        try:
            yield copy
        finally:
            self._free.put(copy)


class Case(NamedTuple):
    """One test that ran. ``name`` is its id without the file; ``message``: of its failure, None if it passed."""

    name: str
    message: str | None
    failed: bool  # by a check of its own, not while it was prepared
    skipped: bool

    def is_of(self, test: str) -> bool:
        """Is this what the node id ``test`` asks for: the test itself, one of its cases, or one of its class?"""
        wanted = test.partition("::")[2]
        return self.name == wanted or self.name.startswith((f"{wanted}[", f"{wanted}::"))


def run_tests(copy: Path, tests: Sequence[str], *, stop_at_first: bool) -> list[Case] | str:
    """Tests of one file in a copy, with its ``src`` before everything that is installed; what went wrong as text."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    shutil.rmtree(copy / ".hypothesis", ignore_errors=True)  # examples that broke another mutant
    rigs = "pytestmark = pytest.mark.rig" in (copy / tests[0].partition("::")[0]).read_text(encoding="utf-8")
    command = [
        sys.executable, "-m", "pytest", *tests, *["-x"][: int(stop_at_first)], "-q", "--no-header", "--tb=short",
        "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--junitxml={report}", f"--rootdir={copy}",
        f"--basetemp={copy / 'tmp'}", *["-m", "rig"][: 2 * rigs],
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONHASHSEED": "0"}
    environment["PYTHONDONTWRITEBYTECODE"] = ""  # what was compiled for one mutant serves the next
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=copy, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        _running.add(process.pid)
        try:
            code = _end_of(process, report)
        finally:
            _kill(process.pid)  # what the test has started goes, too
            process.wait()
            _running.discard(process.pid)
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
    if not report.is_file() and code is None:
        return f"no end within {RUN_S_MAX:.0f} s"
    if code not in (0, 1, None) or not report.is_file():
        return f"pytest ended with {code}: {said[-2000:]}"
    module = tests[0].partition("::")[0].removesuffix(".py").replace("/", ".")
    cases = []
    for found in ET.parse(report).getroot().iter("testcase"):
        inside = found.get("classname", "").removeprefix(module).strip(".")
        name = f"{inside}::{found.get('name')}" if inside else str(found.get("name"))
        failure, error = found.find("failure"), found.find("error")
        wrong = failure if failure is not None else error
        message = None if wrong is None else " ".join(wrong.get("message", "").split())
        cases.append(Case(name, message, failure is not None, found.find("skipped") is not None))
    return cases


def _end_of(process: subprocess.Popen[bytes], report: Path) -> int | None:
    """The exit code; None if it does not end, be it because a broken promise left a thread behind."""
    began = time.monotonic()
    said = 0
    while time.monotonic() - began < RUN_S_MAX and said < LINGER_LOOKS_MAX:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(LOOK_S)
        said += report.is_file()
    return None


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def judged_run(cases: list[Case] | str, test: str) -> Run:
    """What the cases of one test say."""
    if isinstance(cases, str):
        return Run(Ended.BROKEN, cases)
    mine = [case for case in cases if case.is_of(test)]
    wrong = [case for case in mine if case.message is not None]
    if not wrong:
        if all(case.skipped for case in mine):
            return Run(Ended.BROKEN, "the test was skipped or not found")
        return Run(Ended.PASSED, "")
    first = next((case for case in wrong if case.failed), wrong[0])
    message = first.message or ""
    if not first.failed or message.startswith(NO_VERDICT):
        return Run(Ended.BROKEN, message)
    return Run(Ended.FAILED, message)


def judge_all(mutants: Sequence[Mutant], copies: Copies) -> list[Judged]:
    """Mutants whose tests are in one file: first the tests as they stand, then each with its patch."""
    tests = list(dict.fromkeys(mutant.test for mutant in mutants))
    with copies.one() as copy:
        cases = run_tests(copy, tests, stop_at_first=False)
        return [judge(mutant, judged_run(cases, mutant.test), copy) for mutant in mutants]


def judge(mutant: Mutant, plain: Run, copy: Path) -> Judged:
    """Runs the mutant's test with its patch; ``plain`` is the run without."""
    if plain.ended is not Ended.PASSED:
        return Judged(mutant, "fails without it", plain.why)
    try:
        with patched(copy, mutant):
            run = judged_run(run_tests(copy, [mutant.test], stop_at_first=True), mutant.test)
    except BadPatch as error:
        return Judged(mutant, "does not apply", str(error))
    verdict = {Ended.PASSED: "SURVIVED", Ended.FAILED: "caught", Ended.BROKEN: "broken"}[run.ended]
    return Judged(mutant, verdict, run.why)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("--jobs", type=int, default=2, help="tests run at once (2)")
    parser.add_argument("--table", action="store_true", help="print the list for docs/track-record.md and run nothing")
    parser.add_argument("--verbose", action="store_true", help="also say how caught mutants were caught")
    options = parser.parse_args(arguments)
    mutants = load_all()
    unknown = set(options.names) - {mutant.name for mutant in mutants}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    mutants = [mutant for mutant in mutants if not options.names or mutant.name in options.names]
    if options.table:
        print(table(mutants), end="")
        return 0
    began = time.monotonic()
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.test.partition("::")[0], []).append(mutant)
    width = max(len(mutant.name) for mutant in mutants)
    print(f"{len(mutants)} mutants, their tests in {len(by_file)} files", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    judged: list[Judged] = []
    scratch = tempfile.TemporaryDirectory(prefix="holdfast-mutants-")
    copies = Copies(Path(scratch.name), options.jobs)
    threads = ThreadPoolExecutor(options.jobs)
    try:
        for judgements in threads.map(judge_all, by_file.values(), repeat(copies)):
            judged += judgements
            for one in judgements:
                mutant = one.mutant
                print(f"{mutant.name:{width}} | {mutant.promise} | {mutant.test} | {one.verdict}", flush=True)
                if one.why and (options.verbose or not one.caught):
                    print(f"{'':{width}}   {one.why}", flush=True)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for group in list(_running):
            _kill(group)
        threads.shutdown()
        scratch.cleanup()
    missed = [one for one in judged if not one.caught]
    print(f"{len(judged) - len(missed)} of {len(judged)} caught in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
