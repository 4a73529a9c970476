"""``holdfast fetch``: a download whose digest is known, shared with all neighbours."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from holdfast.cli.exchange import client, through_node
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.output import write_blob
from holdfast.cli.verb import Verb
from holdfast.cli.words import size_words


@click.command("fetch", cls=Verb)
@click.argument("url")
@click.option("--sha256", "digest", required=True, metavar="DIGEST", help="What it must be: 64 hex digits.")
@click.option("-o", "--output", metavar="FILE", help="Where to write it [default: the last part of URL; - is stdout].")
@through_node
@current
def command(
    invocation: Invocation, url: str, digest: str, output: str | None, node: str | None, data: Path | None
) -> None:
    """Fetch URL, by the node if it or a peer or its origin has the blob, else directly; checked either way."""
    invocation.run(_run(invocation, url, digest, output, node, data))


async def _run(
    invocation: Invocation, url: str, digest: str, output: str | None, node: str | None, data: Path | None
) -> None:
    from urllib.parse import unquote, urlsplit

    from holdfast import assemble
    from holdfast.blob import Digest
    from holdfast.errors import Denied, NotFound, Unauthorized, Unavailable, UsageError

    wanted = Digest.parse(digest.lower())
    path = output or unquote(urlsplit(url).path).rpartition("/")[2]
    if path in ("", ".", "..") or ("/" in path and output is None):
        raise UsageError("This URL has no file name in it; say where to write with -o FILE.")
    by = "the node"
    try:
        async with client(invocation, node, data) as opened:
            size = await write_blob(opened, wanted, path, sys.stdout.buffer)
    except (NotFound, Unavailable, Denied, Unauthorized) as error:
        invocation.note(f"Not through the node ({error.detail}); asking {urlsplit(url).hostname} directly.")
        by = "the URL"
        size = await assemble.fetch_url(url, wanted, path, sys.stdout.buffer)
    if invocation.json and path != "-":
        invocation.document({"path": path, "size": size, "digest": str(wanted), "by": by})
    elif path != "-":
        invocation.note(f"{path}: {size_words(size)}, from {by}.")
