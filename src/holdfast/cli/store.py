"""``holdfast store``: stores by their URLs, without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import VerbGroup
from holdfast.cli.words import count_words, size_words
from holdfast.errors import PartlyDone

if TYPE_CHECKING:
    from holdfast.stores.check import Outcome, Report
    from holdfast.stores.copy import Progress

FAILURES_SHOWN = 20


@click.group("store", cls=VerbGroup)
def command() -> None:
    """Make, check, copy or scale a store by its URL.

    file:///srv/hf, nats://host:4222/bucket, s3://bucket/prefix?endpoint=https://host. Credentials come from the
    environment (NATS_CREDS, NATS_NKEY, NATS_TOKEN_FILE, NATS_CA; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), never from
    the URL.
    """


@command.command("init")
@click.argument("url")
@current
def init(invocation: Invocation, url: str) -> None:
    """Make an empty store at URL. Reading never makes one."""
    from holdfast import assemble

    made = invocation.run(assemble.make_store(url))
    if invocation.json:
        invocation.document({"store": url, "id": made})
        return
    invocation.data(made)
    invocation.note(f"There is now a store at {url}.")


@command.command("check")
@click.argument("url")
@current
def check(invocation: Invocation, url: str) -> None:
    """Try everything that holdfast asks of a store, on URL, and leave nothing behind.

    Exit code 1 if the store fails a check. A directory is checked by a small store of its own inside of it.
    """
    from holdfast import assemble

    def show(outcome: Outcome) -> None:
        if not invocation.json:
            _show_outcome(invocation, outcome)

    report = invocation.run(assemble.check_store(url, show))
    if invocation.json:
        invocation.document(_document(url, report))
    else:
        _summarise(invocation, report)
    if report.failed or report.left:
        click.get_current_context().exit(1)


def _show_outcome(invocation: Invocation, outcome: Outcome) -> None:
    if outcome.failure is None:
        if not invocation.quiet:
            invocation.marked("ok  ", "green", f"{outcome.name}: {outcome.wants}")
        return
    invocation.marked("fail", "red", f"{outcome.name}: {outcome.wants}")
    invocation.data(f"      {outcome.failure}")


def _summarise(invocation: Invocation, report: Report) -> None:
    if report.put_bytes_per_s is not None and report.get_bytes_per_s is not None:
        put, get = size_words(report.put_bytes_per_s), size_words(report.get_bytes_per_s)
        invocation.note(f"One large blob was written with {put}/s and read with {get}/s.")
    if report.traits.durable:
        invocation.note("What it acknowledges survives a power cut, as far as its operator and its servers say.")
    else:
        invocation.note("It may acknowledge what a power cut takes away: it never counts as a durable copy.")
    if report.left:
        invocation.data(f"{count_words(len(report.left), 'blob')} of the check could not be deleted again:")
        for digest in report.left[:FAILURES_SHOWN]:
            invocation.data(f"  {digest}")
    if report.failed:
        invocation.note(f"{report.failed} of {count_words(len(report.outcomes), 'check')} failed: do not use it.")
    else:
        invocation.note(f"All {count_words(len(report.outcomes), 'check')} passed.")


def _document(url: str, report: Report) -> dict[str, object]:
    return {
        "store": url,
        "ok": not report.failed and not report.left,
        "durable": report.traits.durable,
        "put_bytes_per_s": report.put_bytes_per_s,
        "get_bytes_per_s": report.get_bytes_per_s,
        "left": [str(digest) for digest in report.left],
        "checks": [
            {"check": outcome.name, "wants": outcome.wants, "failure": outcome.failure, "seconds": outcome.seconds}
            for outcome in report.outcomes
        ],
    }


@command.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@current
def copy(invocation: Invocation, source: str, target: str) -> None:
    """Copy every blob of FROM that TO does not hold; each is checked when it arrives. Deletes nothing.

    An interrupted copy goes on where it stopped when it is run again. Exit code 3 if some blobs could not be copied.
    """
    from holdfast import assemble

    with _bar(invocation) as show:
        done = invocation.run(assemble.copy_store(source, target, show))
    if invocation.json:
        failures = [{"digest": str(failure.digest), "reason": failure.reason} for failure in done.failures]
        counts = {"copied": done.copied, "bytes": done.copied_bytes, "skipped": done.skipped, "failed": done.failed}
        invocation.document({"summary": {**counts, "failures": failures}})
    else:
        for failure in done.failures[:FAILURES_SHOWN]:
            invocation.data(f"{failure.digest}  {failure.reason}")
        there = f"; {count_words(done.skipped, 'blob')} were there already" if done.skipped else ""
        invocation.note(f"Copied {count_words(done.copied, 'blob')} ({size_words(done.copied_bytes)}){there}.")
    if done.failed:
        raise PartlyDone(f"{count_words(done.failed, 'blob')} could not be copied.")


@contextmanager
def _bar(invocation: Invocation) -> Iterator[Callable[[Progress], None]]:
    """How far a copy is, on a terminal; how much there is to do is not known before the end."""
    if not invocation.watched:
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, SpinnerColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)

        def show(progress: Progress) -> None:
            text = f"{progress.copied:,} of {progress.seen:,} blobs, {progress.skipped:,} were there"
            bars.update(task, completed=progress.copied_bytes, description=text)

        yield show


@command.command("scale")
@click.argument("url")
@click.option("--replicas", type=click.IntRange(1, 5), required=True, help="How many servers keep a copy.")
@current
def scale(invocation: Invocation, url: str, replicas: int) -> None:
    """Change how many servers of a nats store keep a copy, and wait until all are complete.

    May be interrupted and run again: the servers go on by themselves.
    """
    from holdfast import assemble

    told = [-1]

    def show(complete: int, wanted: int) -> None:
        if complete != told[0]:
            told[0] = complete
            invocation.note(f"{complete} of {count_words(wanted, 'copy', 'copies')} complete")

    invocation.run(assemble.scale_store(url, replicas, show))
    if invocation.json:
        invocation.document({"store": url, "replicas": replicas})
