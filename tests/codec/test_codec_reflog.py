"""Reflog blobs: written and read back, every field checked, and the vector that is kept for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.codec.test_codec_vectors import decoder

from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.codec import reflog as codec
from holdfast.codec.ref_fields import RefClear, RefKind, encode_clear
from holdfast.codec.reflog import DeviceFacts, EndedName, Facts, LoggedRef, NodeFacts, Reflog, VaultFacts
from holdfast.codec.refs import NONCE_BYTES, SEALED_STEP_BYTES, keep_list
from holdfast.codec.sealer import SEAL_OVERHEAD
from holdfast.errors import BadRequest, Corrupt

VECTORS = Path(__file__).parents[1] / "vectors"
OWNER = Identity(bytes(range(50, 82)))
STRANGER = Identity(bytes(range(51, 83)))
VAULT = Identity(bytes(range(1, 33))).id


def record(number: int, keep: bytes, version: int = 1) -> bytes:
    clear = RefClear(
        vault=VAULT,
        generation=1,
        name_tag=Digest.of(b"name %d" % number),
        parent_tag=Digest.of(b"parent"),
        kind=RefKind.FILE,
        survive=4,
        version=version,
        previous=None if version == 1 else Digest.of(b"before"),
        author=STRANGER.id,
    )
    nonce = number.to_bytes(NONCE_BYTES, "big")
    return encode_clear(clear) + Digest.of(keep) + nonce + bytes(SEALED_STEP_BYTES + SEAL_OVERHEAD)


def example(**changes: Any) -> Reflog:
    keeps = [keep_list([Digest.of(b"a"), Digest.of(b"b")]), keep_list([Digest.of(b"c")])]
    facts = Facts(
        name="attic",
        urls=("http://attic:7430", "https://attic.example"),
        survive=4,
        policy_version=3,
        revocations=1,
        nodes=(
            NodeFacts(STRANGER.id, "cellar", "http://cellar:7420", bytes(16), "house", 1 << 40, True, ""),
            NodeFacts(OWNER.id, "gone", "", bytes(range(16)), "house", 0, False, "removed"),
        ),
        vaults=(VaultFacts(VAULT, None), VaultFacts(STRANGER.id, 5_000_000)),
        devices=(DeviceFacts(b"envelope", True, None), DeviceFacts(b"another", False, 1)),
    )
    values: dict[str, Any] = {
        "coordinator": OWNER.id, "epoch": 2, "number": 7, "first": 100, "last": 131, "previous": Digest.of(b"before"),
        "facts": facts, "keeps": tuple(sorted(keeps)),
        "refs": (LoggedRef(record(1, keeps[0]), 1_700_000_000_123), LoggedRef(record(2, keeps[1], 9), 5)),
        "ended": (EndedName(VAULT, Digest.of(b"long ago"), 12, Digest.of(b"its tombstone")),),
    }  # fmt: skip
    return Reflog(**(values | changes))


def signed_anew(data: bytes) -> bytes:
    body = data[:-64]
    return body + OWNER.sign(body)


def test_what_is_written_is_read_back() -> None:
    for log in (example(), example(previous=None, first=0, facts=None), example(facts=None, keeps=(), refs=())):
        data = codec.encode(log, OWNER)
        assert codec.decode(data, OWNER.id) == log
        assert codec.reflog_coordinator(data) == OWNER.id
        assert codec.reflog_coordinator(data[: codec.HEADER_BYTES]) == OWNER.id


@given(
    st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), st.integers(0, 2**62), st.integers(0, 2**62),
    st.lists(st.tuples(st.integers(0, 2**64), st.integers(0, 2**63 - 1)), max_size=5),
)  # fmt: skip
def test_any_position_and_any_refs(epoch: int, number: int, first: int, more: int, refs: list[tuple[int, int]]) -> None:
    keep = keep_list([Digest.of(b"k")])
    log = example(
        epoch=epoch, number=number, first=first, last=first + more, keeps=(keep,) if refs else (),
        refs=tuple(LoggedRef(record(one, keep), committed) for one, committed in refs),
    )  # fmt: skip
    assert codec.decode(codec.encode(log, OWNER), OWNER.id) == log


@given(st.data())
def test_any_other_bytes_are_corrupt(data: st.DataObject) -> None:
    blob = bytearray(codec.encode(example(), OWNER))
    at = data.draw(st.integers(0, len(blob) - 1))
    blob[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Corrupt):
        codec.decode(bytes(blob), OWNER.id)
    with pytest.raises(Corrupt):
        codec.decode(bytes(blob[:at]), OWNER.id)


def test_only_its_coordinator_signs_it() -> None:
    data = codec.encode(example(), OWNER)
    with pytest.raises(Corrupt, match="another coordinator"):
        codec.decode(data, STRANGER.id)
    forged = data[:-64] + STRANGER.sign(data[:-64])
    with pytest.raises(Corrupt, match="did not sign"):
        codec.decode(forged, OWNER.id)


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 0x49), (8, 2), (9, 2), (9, 3), (10, 1), (15, 1), (48, 0x80)],
    ids=["magic", "version", "flag", "first-with-previous", "reserved", "reserved-end", "epoch"],
)
def test_fields_of_the_header_are_checked_though_signed(at: int, value: int) -> None:
    data = bytearray(codec.encode(example(), OWNER))
    data[at] = value
    with pytest.raises(Corrupt):
        codec.decode(signed_anew(bytes(data)), OWNER.id)


def test_a_body_is_checked_though_signed() -> None:
    log = example()
    assert log.facts is not None
    node = log.facts.nodes[0]
    wrong = [
        example(keeps=()),  # a record's list is missing
        example(keeps=(*log.keeps, b"no list")),
        example(refs=(LoggedRef(b"no record", 1),)),
        example(refs=(LoggedRef(log.refs[0].record, -1), *log.refs)),
        example(ended=(EndedName(VAULT, b"short", 1, Digest.of(b"")),)),
        example(ended=(EndedName(VAULT, Digest.of(b""), 0, Digest.of(b"")),)),
        example(first=132),
        example(number=0),
        example(epoch=0),
    ]
    for change in ({"store": b"short"}, {"word": "asleep"}, {"capacity": -1}):
        fields = {name: getattr(node, name) for name in node.__struct_fields__}
        nodes = (NodeFacts(**(fields | change)),)
        facts = {name: getattr(log.facts, name) for name in log.facts.__struct_fields__}
        wrong.append(example(facts=Facts(**(facts | {"nodes": nodes}))))
    for one in wrong:
        with pytest.raises(Corrupt):
            codec.decode(codec.encode(one, OWNER), OWNER.id)


def test_other_blobs_say_that_they_are_none() -> None:
    data = codec.encode(example(), OWNER)
    for other in (b"", data[:111], b"HFPACK\r\n" + data[8:]):
        with pytest.raises(BadRequest):
            codec.reflog_coordinator(other)


def test_the_vector_is_read_for_ever() -> None:
    """Made once with ``codec.encode(example(), OWNER)``; an old one must be read by every later version."""
    data = (VECTORS / "reflog-1.reflog").read_bytes()
    assert codec.decode(data, OWNER.id) == example()
    assert codec.encode(example(), OWNER) == data
    found = decoder.open_reflog(bytes(OWNER.id), data)
    assert (found["epoch"], found["number"], found["first"], found["last"]) == (2, 7, 100, 131)
    assert found["previous"] == Digest.of(b"before")
    assert [ref[0] for ref in found["refs"]] == [ref.record for ref in example().refs]
    assert found["facts"][5][0][1] == "cellar"
    assert json.dumps(found["facts"][1]) == '["http://attic:7430", "https://attic.example"]'
    with pytest.raises(ValueError, match="signature"):
        decoder.open_reflog(bytes(STRANGER.id), data)


def test_ids_are_ids() -> None:
    log = codec.decode(codec.encode(example(), OWNER), OWNER.id)
    assert isinstance(log.facts.nodes[0].id, Id)  # type: ignore[union-attr]
