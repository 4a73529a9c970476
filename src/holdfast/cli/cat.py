"""``holdfast cat``: files to stdout."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.offline import mark_words
from holdfast.cli.verb import Verb
from holdfast.cli.words import visible

if TYPE_CHECKING:
    from holdfast.client.vault import Entry


@click.command("cat", cls=Verb)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--version", "version", type=click.IntRange(1), help="This version instead of the present one.")
@click.option("--fresh", is_flag=True, help="Ask the coordinator instead of trusting what was seen before.")
@current
def command(invocation: Invocation, names: tuple[str, ...], version: int | None, fresh: bool) -> None:
    """Write files to stdout, one after the other. Every byte is checked before it is written."""
    invocation.run(write_to_stdout(invocation, names, version=version, fresh=fresh))


async def write_to_stdout(invocation: Invocation, names: Sequence[str], *, version: int | None, fresh: bool) -> None:
    """Streams; a failure in the middle is an error and never a short file that looks whole."""
    from holdfast.pool import ThreadPool

    writer = ThreadPool(1, "stdout")
    try:
        async with await invocation.vault() as vault:
            for name in names:
                said = functools.partial(_say, invocation)
                async for piece in vault.stream(name, version=version, fresh=fresh, on_found=said):
                    await writer.run(_write, piece)
    finally:
        writer.close()


def _say(invocation: Invocation, entry: Entry) -> None:
    mark = mark_words(entry)
    if mark:
        invocation.note(f"{visible(entry.name)}: {mark}")


def _write(piece: bytes | bytearray | memoryview) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
