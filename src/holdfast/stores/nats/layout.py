"""How a blob lies in a JetStream object store: the layout that other NATS clients read and write. Pure.

Bucket B is the stream ``OBJ_B``. A blob named by its hex digest is one meta message on ``$O.B.M.<base64url name>`` (a
roll-up: only the last one stays) and its chunks, in order, on ``$O.B.C.<nuid>``. Source: the NATS architecture decision
record 20 (docs/formats.md, JetStream, has the fields). Two additions that others pass over: each chunk carries a
``Nats-Msg-Id`` of nuid, index and generation, and the meta message remembers the chunks' sequence numbers, so that a
range starts where it lies.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.blob import Digest
from holdfast.errors import BadRequest

CHUNK_BYTES_MAX = 512 * 1024
HEADER_BYTES_RESERVED = 4096
"""Headers count into the server's largest payload."""
SEQUENCES_MAX = 1 << 16
"""A longer hint is not taken: the number of chunks is only what a meta message says."""
SEQUENCES_TEXT_MAX = 16 * 1024
"""A longer list of sequence numbers is left out; ranges of that blob are then read from its start."""

BUCKET = re.compile(r"[a-zA-Z0-9_-]{1,100}", re.ASCII)
_DIGEST_PREFIX = "SHA-256="
_SEQUENCES = "holdfast-sequences"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The names that belong to one bucket; BadRequest if NATS would refuse it."""

    name: str

    def __post_init__(self) -> None:
        if BUCKET.fullmatch(self.name) is None:
            raise BadRequest(f"a bucket's name has letters, digits, - and _ only, not {self.name!r}")

    @property
    def stream(self) -> str:
        return f"OBJ_{self.name}"

    @property
    def subjects(self) -> list[str]:
        return [f"$O.{self.name}.C.>", f"$O.{self.name}.M.>"]

    @property
    def all_meta(self) -> str:
        return f"$O.{self.name}.M.*"

    @property
    def all_chunks(self) -> str:
        return f"$O.{self.name}.C.*"

    def meta(self, digest: Digest) -> str:
        """The subject of a blob's meta message."""
        return f"$O.{self.name}.M.{base64.urlsafe_b64encode(str(digest).encode()).decode()}"

    def chunks(self, nuid: str) -> str:
        """The subject of the chunks of one put."""
        return f"$O.{self.name}.C.{nuid}"

    def digest(self, meta_subject: str) -> Digest | None:
        """The blob of a meta subject; None for an object that is not named by a digest."""
        try:
            name = base64.urlsafe_b64decode(meta_subject.rpartition(".")[2]).decode("ascii")
            return Digest.parse(name)
        except (binascii.Error, ValueError, BadRequest):
            return None


@dataclass(frozen=True, slots=True)
class Meta:
    """What a meta message says of a blob."""

    digest: Digest
    nuid: str
    size: int
    chunks: int
    chunk_bytes: int  # all but the last have this many; 0 if the writer did not say
    sequences: Sequence[int] = ()  # of each chunk, if known

    def encode(self, bucket: Bucket) -> bytes:
        """The JSON of the meta message."""
        document: dict[str, Any] = {
            "name": str(self.digest),
            "options": {"max_chunk_size": self.chunk_bytes},
            "bucket": bucket.name,
            "nuid": self.nuid,
            "size": self.size,
            "mtime": "0001-01-01T00:00:00Z",  # readers take the time of the message
            "chunks": self.chunks,
            "digest": _DIGEST_PREFIX + base64.urlsafe_b64encode(self.digest).decode(),
        }
        runs = encode_sequences(self.sequences)
        if 0 < len(runs) <= SEQUENCES_TEXT_MAX:
            document["metadata"] = {_SEQUENCES: runs}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, digest: Digest, data: bytes) -> Meta | None:
        """None for a deletion mark, a link, and an object under this name whose bytes have another digest."""
        try:
            found = json.loads(data)
            options = found.get("options") or {}
            if found.get("deleted") or options.get("link"):
                return None
            kind, _, value = str(found["digest"]).partition("=")
            if kind.upper() != "SHA-256" or base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) != digest:
                return None
            size, chunks, nuid = int(found["size"]), int(found["chunks"]), str(found["nuid"])
            chunk_bytes = int(options.get("max_chunk_size") or 0)
            runs = (found.get("metadata") or {}).get(_SEQUENCES, "")
            sequences = decode_sequences(str(runs), chunks)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        if min(size, chunks, chunk_bytes) < 0 or not nuid or set(nuid) & set(" .*>\r\n\t"):
            return None
        return cls(digest, nuid, size, chunks, chunk_bytes, sequences)

    def start_at(self, offset: int) -> tuple[int, int]:
        """(byte offset, sequence) of a chunk from which ``offset`` is read: its own if that is known, else the first.

        Sequence 1 stands for "wherever the first chunk lies".
        """
        if self.sequences and self.chunk_bytes:
            index = offset // self.chunk_bytes
            if index < len(self.sequences):
                return index * self.chunk_bytes, self.sequences[index]
        return 0, 1


def encode_sequences(sequences: Sequence[int]) -> str:
    """Ascending numbers as runs: ``7-38,41,43-44``."""
    runs: list[list[int]] = []
    for number in sequences:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def decode_sequences(text: str, count: int) -> Sequence[int]:
    """The numbers again; nothing if they are not ``count`` ascending ones: a hint must not break a read."""
    found: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        low, high = int(first), int(last or first)
        if low < 1 or high < low or high - low >= min(count, SEQUENCES_MAX) or (found and low <= found[-1]):
            return ()
        found += range(low, high + 1)
        if len(found) > count:
            return ()
    return found if len(found) == count else ()


def chunk_bytes(payload_max: int) -> int:
    """Bytes in a chunk on a server that takes messages of ``payload_max`` bytes."""
    return max(1, min(CHUNK_BYTES_MAX, payload_max - HEADER_BYTES_RESERVED))


def message_id(nuid: str, index: int, generation: int) -> str:
    """What makes a chunk that is sent again the same one; ``generation`` counts the copies that were deleted."""
    return f"{nuid}-{index}-{generation}"


def chunk_index(nuid: str, headers: Mapping[str, str]) -> int | None:
    """The index that a stored chunk names; None if another client wrote it."""
    parts = headers.get("Nats-Msg-Id", "").split("-")
    if len(parts) == 3 and parts[0] == nuid and parts[1].isdecimal():
        return int(parts[1])
    return None
