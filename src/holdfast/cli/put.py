"""``holdfast put``: files, directories, or stdin."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.entries import entry_document
from holdfast.cli.invocation import Invocation, current, sentence
from holdfast.cli.offline import Queueing, offline_flags
from holdfast.cli.verb import SIZE, Verb
from holdfast.cli.words import count_words, pairs, size_words, visible
from holdfast.errors import NotFound, PartlyDone, UsageError

if TYPE_CHECKING:
    from holdfast.client.vault import PutSummary
    from holdfast.pool import Pool

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOptions:
    """What the flags of ``put`` say."""

    name: str | None
    survive: int | None
    allow_degraded: bool
    no_clobber: bool
    if_match: str | None
    exclude: tuple[str, ...]
    exclude_from: Path | None
    dry_run: bool
    reread: bool
    no_dedup: bool
    meta: tuple[str, ...]
    chunk_bytes: int | None
    bwlimit: int | None
    offline: bool
    no_queue: bool

    def keywords(self) -> dict[str, Any]:
        """Of ``Vault.put`` and ``Vault.put_tree``; UsageError for flags that do not go together."""
        from holdfast.blob import Digest

        if self.no_clobber and self.if_match is not None:
            raise UsageError("--no-clobber and --if-match exclude each other.")
        return {
            "survive": self.survive,
            "allow_degraded": self.allow_degraded,
            "no_clobber": self.no_clobber,
            "if_match": Digest.parse(self.if_match) if self.if_match is not None else None,
            "meta": pairs(self.meta, "--meta") or None,
            "dedup": not self.no_dedup,
            "reread": self.reread,
            "chunk_bytes": self.chunk_bytes,
        }

    def excludes(self) -> list[str]:
        """The patterns of ``--exclude`` and ``--exclude-from``."""
        found = list(self.exclude)
        if self.exclude_from is not None:
            lines = self.exclude_from.read_text(encoding="utf-8").splitlines()
            found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        return found


@click.command("put", cls=Verb)
@click.argument("paths", nargs=-1, required=True, metavar="PATH... | -")
@click.option("--as", "name", metavar="NAME", help="Name in the vault; for several PATHs the directory they go into.")
@click.option("--survive", type=click.IntRange(0, 64), help="More machines may die than the policy says.")
@click.option("--allow-degraded", is_flag=True, help="Store on what is there; repair makes the other copies later.")
@click.option("--no-clobber", is_flag=True, help="Only if there is nothing of this name.")
@click.option("--if-match", metavar="ETAG", help="Only if the name still has this etag.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these names out of directories.")
@click.option(
    "--exclude-from", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="One GLOB a line."
)
@click.option("--dry-run", is_flag=True, help="Say what would be stored, and store nothing.")
@click.option("--reread", is_flag=True, help="Read files again although size and times are unchanged.")
@click.option("--no-dedup", is_flag=True, help="Share no chunk with other files.")
@click.option("--meta", multiple=True, metavar="K=V", help="Metadata of your own, sealed too.")
@click.option("--chunk-size", "chunk_bytes", type=SIZE, help="Cut files every so many bytes [default: 4MiB].")
@click.option("--bwlimit", type=SIZE, metavar="RATE", help="Send at most so many bytes a second, copies counted.")
@offline_flags
@current
def command(invocation: Invocation, /, paths: tuple[str, ...], **flags: Any) -> None:
    """Store files and directories, encrypted, on survive + 1 machines.

    One PATH keeps its base name unless --as names it; several go into the directory --as, or keep their base names.
    With '-' stdin is stored. Files that are there already and unchanged are not read again. When the network does not
    answer, the write is queued (exit code 75) and can be read at once; 'holdfast outbox flush' delivers it.
    """
    options = PutOptions(**flags)
    options.keywords()
    Queueing.of(options.offline, options.no_queue)
    invocation.run(_run(invocation, paths, options))


async def _run(invocation: Invocation, paths: tuple[str, ...], options: PutOptions) -> None:
    if "-" in paths:
        if len(paths) > 1 or options.name is None:
            raise UsageError("'-' stands alone and needs a name: holdfast put - --as NAME.")
        await _put_stdin(invocation, options.name, options)
        return
    sources = [Path(path) for path in paths]
    for source in sources:
        if not source.is_symlink() and not source.exists() and len(sources) == 1:
            raise NotFound(f"{source}: there is no such file")
    await _put_paths(invocation, sources, options)


async def _put_stdin(invocation: Invocation, name: str, options: PutOptions) -> None:
    from holdfast.cli.progress import progress
    from holdfast.pool import ThreadPool

    if options.dry_run:
        raise UsageError("--dry-run says nothing about stdin.")
    reader = ThreadPool(1, "stdin")
    queueing = Queueing.of(options.offline, options.no_queue)
    try:
        async with await invocation.vault(bwlimit=options.bwlimit) as vault:
            with progress(invocation, "put") as show:
                source = _stdin(reader)
                entry = await vault.put(source, name, **options.keywords(), **queueing.words, progress=show)
            if invocation.json:
                invocation.document({"event": "summary", "files": 1, "entry": entry_document(entry)})
            elif not queueing.queued:
                invocation.note(f"{visible(entry.name)}: {size_words(entry.size)}, version {entry.version}")
            await queueing.finish(invocation, vault, f"{visible(entry.name)} is")
    finally:
        reader.close()


async def _put_paths(invocation: Invocation, sources: list[Path], options: PutOptions) -> None:
    from holdfast.cli.progress import progress

    queueing = Queueing.of(options.offline, options.no_queue)
    async with await invocation.vault(bwlimit=options.bwlimit) as vault:
        with progress(invocation, "put", total=_known_total(sources)) as show:
            summary = await vault.put_tree(
                sources, options.name, **options.keywords(), exclude=options.excludes(), dry_run=options.dry_run,
                **queueing.words, progress=show,
            )  # fmt: skip
        if invocation.json and len(sources) == 1 and summary.entry is None and not (summary.failed or options.dry_run):
            summary.entry = await vault.stat(options.name or sources[0].resolve().name)
        done = summary.files + summary.directories + summary.links + summary.unchanged
        if len(summary.failed) == 1 and not done:
            raise summary.failed[0][1]
        _tell(invocation, summary, dry_run=options.dry_run)
        if summary.failed:
            queued = f", {summary.queued:,} of them in the outbox" if summary.queued else ""
            raise PartlyDone(f"{count_words(len(summary.failed), 'item')} failed, {done:,} are stored{queued}.")
        if not options.dry_run:
            whole = count_words(summary.queued, "name")
            what = f"{whole} {'is' if summary.queued == 1 else 'are'}"
            await queueing.finish(invocation, vault, what)


def _known_total(sources: list[Path]) -> int | None:
    """Bytes of files that were named; None if there is a directory among them, which is walked only once."""
    total = 0
    for source in sources:
        if not source.is_file():
            return None
        total += source.stat().st_size
    return total


def _tell(invocation: Invocation, summary: PutSummary, *, dry_run: bool) -> None:
    for name, error in summary.failed:
        if invocation.json:
            invocation.document({"event": "failed", "name": name, "detail": sentence(error)})
        else:
            click.echo(f"{visible(name)}: {sentence(error)}", err=True)
    if invocation.json:
        invocation.document(_document(summary, dry_run))
        return
    parts = [count_words(summary.files, "file")]
    if summary.directories:
        parts.append(count_words(summary.directories, "directory", "directories"))
    if summary.links:
        parts.append(count_words(summary.links, "link"))
    if summary.unchanged:
        parts.append(f"{summary.unchanged:,} unchanged")
    if summary.queued:
        parts.append(f"{summary.queued:,} of them queued")
    text = f"{', '.join(parts)}; {size_words(summary.bytes)} read, {size_words(summary.new_bytes)} new"
    invocation.note(f"would store: {text}" if dry_run else text)


def _document(summary: PutSummary, dry_run: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "event": "summary",
        "files": summary.files,
        "directories": summary.directories,
        "links": summary.links,
        "bytes": summary.bytes,
        "new_bytes": summary.new_bytes,
        "unchanged": summary.unchanged,
        "queued": summary.queued,
        "failed": len(summary.failed),
        "dry_run": dry_run,
    }
    if summary.entry is not None:
        found["entry"] = entry_document(summary.entry)
    return found


async def _stdin(pool: Pool) -> AsyncIterator[bytes]:
    """stdin in pieces, read beside the event loop."""
    while piece := await pool.run(sys.stdin.buffer.read, PIECE_BYTES):
        yield piece
