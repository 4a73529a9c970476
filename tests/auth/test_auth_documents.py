"""Signed documents: what was altered, re-encoded, extended or signed by another is refused."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth import certificates, documents
from holdfast.auth.certificates import Certificate, Countersigned
from holdfast.auth.documents import canonical, from_text, open_signed, sign, to_text
from holdfast.auth.grants import Grant, Receipt
from holdfast.auth.identity import Id, Identity, verify
from holdfast.auth.positions import Position, proven
from holdfast.blob import Digest
from holdfast.clock import SeededRandomness
from holdfast.errors import BadRequest, Denied

ALICE, BOB, NODE = (Identity.generate(SeededRandomness(seed)) for seed in (1, 2, 3))
GRANT = Grant(
    kind="put", node=NODE.id, store=b"s" * 16, vault=ALICE.id, subject=BOB.id, budget=1 << 20, epoch=3, commit=9,
    expires=1_700_000_000,
)  # fmt: skip


def test_a_grant_comes_back_as_it_was() -> None:
    assert open_signed(Grant, sign(GRANT, ALICE), ALICE.id) == GRANT


def test_another_issuer_is_denied() -> None:
    with pytest.raises(Denied):
        open_signed(Grant, sign(GRANT, BOB), ALICE.id)


def test_one_kind_is_never_taken_for_another() -> None:
    receipt = Receipt(node=NODE.id, store=b"s" * 16, digest=Digest.of(b""), size=0, sequence=1, time=1)
    with pytest.raises(BadRequest, match="not a grant"):
        open_signed(Grant, sign(receipt, ALICE), ALICE.id)


@given(st.data())
def test_every_flipped_bit_is_refused(data: st.DataObject) -> None:
    envelope = bytearray(sign(GRANT, ALICE))
    at = data.draw(st.integers(0, len(envelope) * 8 - 1))
    envelope[at // 8] ^= 1 << (at % 8)
    with pytest.raises((BadRequest, Denied)):
        open_signed(Grant, bytes(envelope), ALICE.id)


@given(st.binary(max_size=200))
def test_garbage_is_a_bad_request(data: bytes) -> None:
    with pytest.raises(BadRequest):
        open_signed(Grant, data, ALICE.id)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"budget": "many"},
        {"node": b"short"},
        {"kind": "steal"},
    ],
)
def test_wrong_fields_are_refused_though_signed(change: dict[str, object]) -> None:
    body = cbor2.loads(cbor2.loads(sign(GRANT, ALICE))[0])
    body[2] |= change
    forged = canonical(body)
    with pytest.raises(BadRequest):
        open_signed(Grant, canonical([forged, ALICE.sign(forged)]), ALICE.id)


def test_only_what_the_coordinator_signed_proves_a_position() -> None:
    position = Position(epoch=4, commit=7)
    assert proven(sign(position, ALICE), ALICE.id) == (4, 7)
    assert proven(sign(GRANT, ALICE), ALICE.id) == (3, 9)
    receipt = Receipt(node=NODE.id, store=b"s" * 16, digest=Digest.of(b""), size=0, sequence=1, time=1)
    for word in (sign(position, BOB), sign(GRANT, BOB), sign(receipt, ALICE), b"", b"word"):
        assert proven(word, ALICE.id) == (0, 0)


def test_a_missing_field_is_refused_though_signed() -> None:
    body = cbor2.loads(cbor2.loads(sign(GRANT, ALICE))[0])
    del body[2]["subject"]
    forged = canonical(body)
    with pytest.raises(BadRequest, match="subject"):
        open_signed(Grant, canonical([forged, ALICE.sign(forged)]), ALICE.id)


def test_only_the_canonical_encoding_is_read() -> None:
    body, signature = cbor2.loads(sign(GRANT, ALICE))
    longer = b"\x9f" + cbor2.dumps(body) + cbor2.dumps(signature) + b"\xff"  # an indefinite array of the same parts
    with pytest.raises(BadRequest, match="canonical"):
        open_signed(Grant, longer, ALICE.id)
    with pytest.raises(BadRequest):
        open_signed(Grant, sign(GRANT, ALICE) + b"\0", ALICE.id)


def test_an_oversized_document_is_not_even_parsed() -> None:
    with pytest.raises(BadRequest, match="longer"):
        open_signed(Grant, b"\x5a\xff\xff\xff\xff" + b"x" * documents.DOCUMENT_BYTES_MAX, ALICE.id)


@given(st.binary(max_size=300))
def test_header_text_round_trips(data: bytes) -> None:
    assert from_text(to_text(data)) == data


@pytest.mark.parametrize("text", ["AA==", "A", "AB", "A A", "é"])
def test_only_one_text_stands_for_a_document(text: str) -> None:
    with pytest.raises(BadRequest):
        from_text(text)


def test_certificates_need_both_signatures() -> None:
    vault, coordinator = ALICE, NODE
    certificate = Certificate(vault=vault.id, device=BOB.id, rights=certificates.READ, not_after=2_000_000_000)
    envelope = sign(Countersigned(certificate=sign(certificate, vault), serial=7), coordinator)
    assert certificates.open_countersigned(envelope, coordinator.id) == (certificate, 7)
    with pytest.raises(Denied):
        certificates.open_countersigned(envelope, BOB.id)
    forged = sign(Countersigned(certificate=sign(certificate, BOB), serial=7), coordinator)
    with pytest.raises(Denied, match="vault"):
        certificates.open_countersigned(forged, coordinator.id)


@pytest.mark.parametrize("rights", [0, 8, -1])
def test_unknown_rights_are_refused(rights: int) -> None:
    certificate = Certificate(vault=ALICE.id, device=BOB.id, rights=rights, not_after=1)
    with pytest.raises(BadRequest, match="rights"):
        certificates.open_certificate(sign(certificate, ALICE))


@given(st.binary(min_size=32, max_size=32))
def test_ids_have_one_text(value: bytes) -> None:
    id_ = Id(value)
    assert Id.parse(str(id_)) == id_
    assert len(str(id_)) == 52


@pytest.mark.parametrize("text", ["", "a" * 51, "a" * 53, "A" * 52, "1" * 52, "a" * 51 + "b", "é" * 52])
def test_other_texts_are_no_ids(text: str) -> None:
    with pytest.raises(BadRequest):
        Id.parse(text)


def test_a_key_that_is_no_point_verifies_nothing() -> None:
    assert not verify(Id(b"\xff" * 32), b"\0" * 64, b"data")


def test_secrets_are_not_shown() -> None:
    assert ALICE.seed().hex() not in repr(ALICE)
    assert str(ALICE.seed()) not in repr(ALICE)


@pytest.mark.parametrize("field", ["size", "sequence", "time"])
@pytest.mark.parametrize("value", [-1, 1 << 63, 1 << 200])
def test_numbers_are_those_that_databases_hold(field: str, value: int) -> None:
    fields = {"node": bytes(NODE.id), "store": b"s" * 16, "digest": bytes(32), "size": 0, "sequence": 1, "time": 1}
    body = canonical(["holdfast/receipt", 1, {**fields, field: value}])
    with pytest.raises(BadRequest):
        open_signed(Receipt, canonical([body, NODE.sign(body)]), NODE.id)


@pytest.mark.parametrize("version", [True, 1.0, 2, "1", None])
def test_a_version_is_a_number_and_nothing_that_equals_it(version: object) -> None:
    fields = {"node": bytes(NODE.id), "store": b"s" * 16, "digest": bytes(32), "size": 0, "sequence": 1, "time": 1}
    body = canonical(["holdfast/receipt", version, fields])
    with pytest.raises(BadRequest, match="not a receipt"):
        open_signed(Receipt, canonical([body, NODE.sign(body)]), NODE.id)
