"""A file's chunks come in buffers that are reused, with one read ahead: none changes while it is still needed."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from holdfast.client.device.local import OpenedFile
from holdfast.client.writing.put import CHUNKS_AHEAD, FilePutter
from holdfast.clock import SystemClock, SystemRandomness
from holdfast.files import OsFiles
from holdfast.pool import InlinePool

CHUNK = 4096


async def test_chunks_stay_whole_until_enough_more_were_asked_for(tmp_path: Path) -> None:
    data = os.urandom(9 * CHUNK + 17)
    (tmp_path / "file").write_bytes(data)
    nothing = cast(Any, None)  # cutting asks neither the network nor the index
    putter = FilePutter(
        nothing, OsFiles(), InlinePool(), SystemClock(), SystemRandomness(), lambda count, name: None, nothing
    )
    opened = OpenedFile(OsFiles(), str(tmp_path / "file"))
    held: list[tuple[int, memoryview]] = []
    at = 0
    try:
        async with aclosing(cast(Any, putter._cut(opened, CHUNK))) as chunks:
            async for chunk in chunks:
                held = [*held, (at, memoryview(chunk))][-CHUNKS_AHEAD:]
                await asyncio.sleep(0)  # whatever is read ahead is read now
                await asyncio.sleep(0)
                for start, view in held:
                    assert view == data[start : start + len(view)]
                at += len(chunk)
    finally:
        opened.close()
    assert at == len(data)
