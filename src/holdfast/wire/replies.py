"""What a handler answers: a message, or a blob from memory, from a file, or as it comes; and the ranges of blobs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from holdfast import errors
from holdfast.blob import Buffer
from holdfast.wire import messages as m

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON answer."""

    message: Any = field(default_factory=m.Empty)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BytesReply:
    """A blob of ``total`` bytes, or the ``range_`` (start, stop) of it that ``data`` is."""

    data: Buffer
    total: int
    range_: tuple[int, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileReply:
    """A blob of ``total`` bytes, or a range of it, sent from ``file`` without copying; the service closes it."""

    file: BinaryIO
    total: int
    range_: tuple[int, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StreamReply:
    """A blob of ``total`` bytes, or a range of it, sent as ``pieces`` come. If they fail the connection breaks off."""

    pieces: AsyncIterator[Buffer]
    total: int
    range_: tuple[int, int] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    done: Callable[[], Awaitable[None]] | None = None
    """Called at the end, however it came."""


def blob_fields(reply: BytesReply | FileReply | StreamReply) -> tuple[int, dict[str, str]]:
    """Status and header fields of a blob's answer."""
    fields = {**reply.headers, "content-type": "application/octet-stream", "accept-ranges": "bytes"}
    if reply.range_ is None:
        fields["content-length"] = str(reply.total)
        return 200, fields
    start, stop = reply.range_
    fields["content-length"] = str(stop - start)
    fields["content-range"] = f"bytes {start}-{stop - 1}/{reply.total}"
    return 206, fields


def parse_range(value: str | None, total: int) -> tuple[int, int] | None:
    """(start, stop) of the one byte range in a Range field (RFC 9110, 14), None without one; RangeInvalid."""
    if value is None:
        return None
    found = _RANGE.fullmatch(value)
    if found is None or not (found[1] or found[2]):
        raise errors.RangeInvalid("Range: one range of the form bytes=FIRST-LAST is understood")
    if not found[1]:
        start, stop = max(total - int(found[2]), 0), total
    else:
        start = int(found[1])
        stop = min(int(found[2]) + 1, total) if found[2] else total
    if start >= stop:
        raise errors.RangeInvalid(f"Range: nothing there in a blob of {total} bytes")
    return start, stop
