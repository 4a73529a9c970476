"""The layout of a blob in a JetStream object store, without a server."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.blob import Digest
from holdfast.errors import BadConfig, BadRequest
from holdfast.stores import url
from holdfast.stores.nats.layout import (
    CHUNK_BYTES_MAX,
    Bucket,
    Meta,
    chunk_bytes,
    chunk_index,
    decode_sequences,
    encode_sequences,
    message_id,
)

BUCKET = Bucket("photos")
DIGEST = Digest.of(b"hello")


def test_a_blob_lies_as_other_clients_expect_it() -> None:
    assert (BUCKET.stream, BUCKET.subjects) == ("OBJ_photos", ["$O.photos.C.>", "$O.photos.M.>"])
    assert BUCKET.meta(DIGEST) == (
        "$O.photos.M.MmNmMjRkYmE1ZmIwYTMwZTI2ZTgzYjJhYzViOWUyOWUxYjE2MWU1YzFmYTc0MjVlNzMwNDMzNjI5MzhiOTgyNA=="
    )
    assert BUCKET.digest(BUCKET.meta(DIGEST)) == DIGEST
    assert BUCKET.digest("$O.photos.M.cGhvdG8uanBn") is None  # photo.jpg
    assert BUCKET.digest("$O.photos.M.*") is None
    written = json.loads(Meta(DIGEST, "N1", 5, 1, 1024, [7]).encode(BUCKET))
    assert written == {
        "name": str(DIGEST),
        "bucket": "photos",
        "nuid": "N1",
        "size": 5,
        "chunks": 1,
        "mtime": "0001-01-01T00:00:00Z",
        "digest": "SHA-256=LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        "options": {"max_chunk_size": 1024},
        "metadata": {"holdfast-sequences": "7"},
    }


@given(st.sets(st.integers(1, 5000), max_size=200))
def test_sequences_come_back(numbers: set[int]) -> None:
    ascending = sorted(numbers)
    assert list(decode_sequences(encode_sequences(ascending), len(ascending))) == ascending
    if ascending:
        assert decode_sequences(encode_sequences(ascending), len(ascending) + 1) == ()


@pytest.mark.parametrize("text", ["0-3", "3-1", "5,4", "1-999999999", "1,1", "1-2,2-3"])
def test_sequences_that_make_no_sense_are_ignored(text: str) -> None:
    assert decode_sequences(text, 4) == ()


@given(st.binary(max_size=300))
def test_meta_messages_of_any_kind_are_read_or_passed_over(data: bytes) -> None:
    assert Meta.decode(DIGEST, data) is None


@pytest.mark.parametrize(
    "change",
    [
        {"deleted": True},
        {"options": {"link": {"bucket": "other"}}},
        {"digest": "SHA-256=AAAA"},
        {"digest": "MD5=LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="},
        {"nuid": "a.>"},
        {"size": -1},
        {"size": None},
        {"options": 7},
    ],
)
def test_what_does_not_stand_for_the_blob_is_passed_over(change: dict[str, object]) -> None:
    right = json.loads(Meta(DIGEST, "N1", 5, 1, 1024).encode(BUCKET))
    assert Meta.decode(DIGEST, json.dumps(right).encode()) == Meta(DIGEST, "N1", 5, 1, 1024)
    assert Meta.decode(DIGEST, json.dumps({**right, **change}).encode()) is None


def test_a_range_starts_at_its_chunk() -> None:
    meta = Meta(DIGEST, "N1", 2500, 3, 1000, [7, 9, 12])
    assert [meta.start_at(offset) for offset in (0, 999, 1000, 2499)] == [(0, 7), (0, 7), (1000, 9), (2000, 12)]
    assert Meta(DIGEST, "N1", 2500, 3, 1000).start_at(2000) == (0, 1)


def test_chunks_fit_into_a_message() -> None:
    assert chunk_bytes(1 << 20) == chunk_bytes(8 << 20) == CHUNK_BYTES_MAX
    assert chunk_bytes(64 * 1024) + 4096 == 64 * 1024
    assert chunk_index("N1", {"Nats-Msg-Id": message_id("N1", 12, 1)}) == 12
    assert chunk_index("N2", {"Nats-Msg-Id": message_id("N1", 12, 1)}) is None
    assert chunk_index("N1", {}) is None


def test_a_buckets_name_is_one_that_nats_takes() -> None:
    for name in ("a.b", "", "a b", "ü", "*"):
        with pytest.raises(BadRequest):
            Bucket(name)


@pytest.mark.parametrize(
    "text",
    [
        "nats://host/b",
        "nats://one:4222,two:4223,three/b?replicas=3",
        "nats://[::1]:4222/b?sync=always&monitor=host:8222",
    ],
)
def test_urls_of_buckets(text: str) -> None:
    assert str(url.parse(text)) == text.replace("host:8222", "host%3A8222")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nats://user:secret@host/b", "no user or password"),
        ("nats://a,,b/bucket", "names no host"),
        ("nats://host:0/bucket", "names no host"),
        ("nats://host/b?replicas=6", "1 to 5"),
        ("nats://host/b?sync=never", "sync has one value"),
        ("nats://host/b?tls=no", "tls takes no value"),
        ("s3://b?replicas=3", "no option"),
    ],
)
def test_urls_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(BadConfig, match=words) as raised:
        url.parse(text)
    assert "secret" not in raised.value.detail
