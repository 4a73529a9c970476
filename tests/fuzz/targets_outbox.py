"""Parsers of what lies on a disk that may change it, or that another version wrote: the outbox and small files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import cbor2
from tests.fuzz.target import Target
from tests.fuzz.targets_auth import US
from tests.fuzz.targets_codec import KEEPS, RECORDS

from holdfast.auth.documents import canonical
from holdfast.blob import Digest
from holdfast.client.offline import ref_entry
from holdfast.clock import SeededRandomness
from holdfast.config import Config, parse_duration, parse_listen, parse_size
from holdfast.errors import BadConfig, BadRequest, Corrupt
from holdfast.node.exchange.trust import _parse as parse_keys
from holdfast.outbox import http
from holdfast.outbox.entry import Entry, State
from holdfast.outbox.queue import bodies
from holdfast.outbox.queue.file import QueueFile
from holdfast.outbox.queue.records import Records
from holdfast.outbox.queue.rows import Row, clear
from holdfast.outbox.queue.sealing import Seals

SEALS = Seals(bytes(32), SeededRandomness(3))
ENTRY_ID = bytes(range(16))
SMALL = bodies.Bodies(
    Path("/nowhere"), files=cast(Any, None), pool=cast(Any, None), health=cast(Any, None), space=cast(Any, None)
)


class _NoPacks:
    def needed_by(self, sequence: int) -> tuple[Digest, ...]:
        return ()


class _File:
    packs = _NoPacks()


RECORDS_OF_QUEUE = Records(cast(QueueFile, _File()), SEALS, SMALL, cast(Any, None))
NEW = http.put("http://dav.example/x", if_match='"a"', headers={"x-a": "b"})
CHANGES = tuple(
    ref_entry.Change(f"name {number}", record, KEEPS[number], chain=(ref_entry.ABSENT,))
    for number, record in enumerate(RECORDS)
)
PAYLOAD = ref_entry.RefEntry(CHANGES).payload()
RECORD = {
    "purpose": NEW.purpose,
    "keys": list(NEW.keys),
    "target": NEW.target,
    "created": 1.5,
    "payload": dict(NEW.payload),
    "digest": bytes(Digest.of(b"body")),
}
NOTES = {
    "reason": "no",
    "left": {"etag": '"b"'},
    "theirs": {"facts": {}, "absent": False, "size": 3, "digest": bytes(32)},
}


def _row(sealed: bytes, progress: bytes | None) -> Row:
    return Row(
        sequence=1,
        id=ENTRY_ID,
        state=int(State.CONFLICT),
        delivery_class=0,
        kind="http",
        size=4,
        stored=60,
        filed=0,
        theirs=1,
        theirs_process=bytes(8),
        begun=1,
        tries=1,
        reached=1,
        next_try=0.0,
        target=SEALS.tag("target", NEW.target),
        keys=SEALS.tag("key", NEW.keys[0]),
        process=bytes(8),
        claim=None,
        sealed=sealed,
        progress=progress,
    )


def _seal(role: str, plain: bytes) -> bytes:
    nonce = bytes(12)
    return nonce + SEALS.cipher(ENTRY_ID, role).encrypt(nonce, plain, clear("http", 0, 4))


def _shown(entry: Entry) -> None:
    """What delivery and people look at."""
    assert isinstance(entry.reason, str)
    assert entry.state.label
    assert all(isinstance(key, str) for key in entry.keys)


RECORD_SEALED = _seal("record", canonical(RECORD))


def _row_sealed(data: bytes) -> bytes | None:
    _shown(RECORDS_OF_QUEUE.entry(_row(data, None)))
    return None


def _row_plain(data: bytes) -> bytes | None:
    entry = RECORDS_OF_QUEUE.entry(_row(_seal("record", data), None))
    _shown(entry)
    return None


def _notes_plain(data: bytes) -> bytes | None:
    _shown(RECORDS_OF_QUEUE.entry(_row(RECORD_SEALED, _seal("progress", data))))
    return None


def _payload(data: bytes) -> bytes | None:
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise Corrupt("no CBOR") from error
    if isinstance(value, dict):
        ref_entry.decode(value)
    return None


def _left(data: bytes) -> bytes | None:
    try:
        value = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise Corrupt("no CBOR") from error
    ref_entry.states_left(value)
    return None


def _body(data: bytes) -> bytes | None:
    async def read() -> bytes:
        cipher = SEALS.cipher(ENTRY_ID, "body")
        return b"".join([bytes(piece) async for piece in SMALL.read("x", ENTRY_ID, cipher, 4, data)])

    coroutine = read()  # it waits for nothing: the body is within the row
    try:
        coroutine.send(None)
    except StopIteration as done:
        return None if done.value == b"body" else b"something else"
    raise AssertionError("a body within its row is read at once")


BODY = bodies._header(ENTRY_ID) + bodies._sealed(
    SEALS.cipher(ENTRY_ID, "body"), bodies._header(ENTRY_ID), 0, True, b"body"
)

CONFIG = b"""[client]
chunk_size = "4MiB"
[node]
scrub_period = "30d"
read_only = false
[coordinator]
lease = "24h"
[peers]
peer = ["http://a:1"]
"""


def _config(data: bytes) -> bytes | None:
    Config.parse(Path("/h/config.toml"), data, environment={})
    return None


def _keys(data: bytes) -> bytes | None:
    parse_keys(data, Path("authorized_keys"))
    return None


def _numbers(data: bytes) -> bytes | None:
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_duration, parse_size, parse_listen):
        try:
            parse(text)
        except BadConfig:
            continue
    return None


TARGETS = (
    Target("outbox-row", [RECORD_SEALED], _row_sealed, (Corrupt,)),
    Target("outbox-record", [canonical(RECORD)], _row_plain, (Corrupt,), words=(b"\xf6", b"\xa0", b"\x80", b"\x60")),
    Target("outbox-progress", [canonical(NOTES)], _notes_plain, (Corrupt,), words=(b"\xf6", b"\xa0", b"\x80", b"\x60")),
    Target("outbox-ref", [canonical(PAYLOAD)], _payload, (Corrupt, BadRequest), words=(b"\xf6", b"\x80", b"\x40")),
    Target("outbox-left", [canonical({"a": [1, bytes(32), bytes(32)]})], _left, (Corrupt,), words=(b"\xf6", b"\x80")),
    Target("outbox-body", [BODY], _body, (Corrupt,)),
    Target("config", [CONFIG], _config, (BadConfig,), words=(b"[node]", b' = "', b"= 1e9", b"inf", b"true", b"\n")),
    Target("authorized-keys", [b"# x\n" + str(US.id).encode() + b" read,write me\n"], _keys, (BadConfig,)),
    Target("numbers", [b"250ms", b"30s", b"64KiB", b"1.5GB", b"[::1]:7420", b"0.0.0.0:80"], _numbers),
)
