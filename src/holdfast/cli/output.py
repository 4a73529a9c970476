"""Writing a blob to a file or to stdout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from holdfast.assemble import ExchangeClient
    from holdfast.blob import Digest


async def write_blob(opened: ExchangeClient, digest: Digest, output: str, stdout: BinaryIO) -> int:
    """Its bytes; to a file all or nothing. Corrupt, NotFound, Unavailable."""
    if output != "-":
        return await opened.work.get_file(digest, Path(output))
    async with opened.node.read(digest) as body:
        async for piece in body:
            await opened.node.pool.run(stdout.write, piece)
        stdout.flush()
        return body.size
