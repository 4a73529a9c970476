"""The signature profile: every component and parameter counts, and only the one form is read."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth import signing
from holdfast.auth.identity import Identity
from holdfast.blob import Digest
from holdfast.clock import SeededRandomness
from holdfast.errors import BadRequest, Unauthorized

ALICE, BOB, NODE = (Identity.generate(SeededRandomness(seed)) for seed in (1, 2, 3))
NOW = 1_800_000_000.0
TARGET = "http://node:7420/v1/blobs/00?x=1"
HEADERS = {
    "content-digest": signing.body_digest(b"body"),
    "content-length": "4",
    "holdfast-to": str(NODE.id),
    "holdfast-grant": "Z3JhbnQ",
    "if-match": '"a"',
    "if-none-match": "*",
    "if-unmodified-since": "Sat, 21 Nov 2026 00:00:00 GMT",
    "range": "bytes=0-1",
    "idempotency-key": "k",
}


def _signed(headers: dict[str, str] | None = None, now: float = NOW) -> dict[str, str]:
    headers = dict(HEADERS if headers is None else headers)
    return headers | signing.sign_request(ALICE, "PUT", TARGET, headers, now)


def test_the_signer_is_named() -> None:
    assert signing.verify_request("PUT", TARGET, _signed(), NODE.id, NOW) == ALICE.id


def test_every_signature_component_counts() -> None:
    """One test for the whole profile: alter, drop or add any covered component and the request is nobody's."""
    good = _signed()
    assert tuple(HEADERS) == signing.REQUEST_HEADERS, "the profile's components, in its order"
    for name in HEADERS:
        other = str(BOB.id) if name == "holdfast-to" else good[name] + "x"
        for altered in ({**good, name: other}, {key: value for key, value in good.items() if key != name}):
            with pytest.raises(Unauthorized):
                signing.verify_request("PUT", TARGET, altered, NODE.id, NOW)
        bare = {key: value for key, value in HEADERS.items() if key != name or key == "holdfast-to"}
        if name != "holdfast-to":
            with pytest.raises(Unauthorized):
                signing.verify_request("PUT", TARGET, _signed(bare) | {name: HEADERS[name]}, NODE.id, NOW)
    with pytest.raises(Unauthorized):
        signing.verify_request("GET", TARGET, good, NODE.id, NOW)
    for target in (TARGET + "&y=2", TARGET.replace("7420", "7421"), TARGET.replace("http", "https")):
        with pytest.raises(Unauthorized):
            signing.verify_request("PUT", target, good, NODE.id, NOW)


def test_another_receiver_refuses() -> None:
    with pytest.raises(Unauthorized, match="another receiver"):
        signing.verify_request("PUT", TARGET, _signed(), BOB.id, NOW)


@pytest.mark.parametrize("age", [-signing.SKEW_S - 2, signing.LIFE_S + signing.SKEW_S + 2])
def test_too_old_or_from_the_future_is_refused(age: float) -> None:
    with pytest.raises(Unauthorized, match="too old"):
        signing.verify_request("PUT", TARGET, _signed(), NODE.id, NOW + age)


def test_a_longer_life_cannot_be_claimed() -> None:
    names, base = signing._request_base("PUT", TARGET, HEADERS)
    parameters = signing._request_input(names, int(NOW), int(NOW) + 999_999, ALICE.id)
    signature = ALICE.sign(f'{base}\n"@signature-params": {parameters}'.encode())
    headers = HEADERS | {
        "signature-input": f"hf={parameters}",
        "signature": f"hf=:{base64.b64encode(signature).decode()}:",
    }
    with pytest.raises(Unauthorized, match="good for 60 seconds"):
        signing.verify_request("PUT", TARGET, headers, NODE.id, NOW)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("signature-input", lambda text: text.replace("hf=", "sig=")),
        ("signature-input", lambda text: text + ";nonce=1"),
        ("signature-input", lambda text: text.replace(" ", "  ", 1)),
        ("signature-input", lambda text: text.replace('"@method" ', "")),
        ("signature-input", lambda text: text.upper()),
        ("signature", lambda text: text.replace("hf=:", "hf=::")),
        ("signature", lambda text: text[:-1]),
        ("signature", lambda text: ""),
    ],
)
def test_any_other_form_is_refused(field: str, change: object) -> None:
    good = _signed()
    with pytest.raises(Unauthorized):
        signing.verify_request("PUT", TARGET, good | {field: change(good[field])}, NODE.id, NOW)  # type: ignore[operator]


@given(st.text(max_size=300), st.text(max_size=120))
def test_hostile_signature_fields_are_refused(given_input: str, signature: str) -> None:
    headers = HEADERS | {"signature-input": given_input, "signature": signature}
    with pytest.raises(Unauthorized):
        signing.verify_request("PUT", TARGET, headers, NODE.id, NOW)


def test_every_answer_component_counts() -> None:
    request = _signed()["signature"]
    headers = {
        "content-digest": signing.body_digest(b"{}"), "content-length": "2", "etag": '"e"', "retry-after": "1",
        "holdfast-epoch": "1.2",
    }  # fmt: skip
    good = headers | signing.sign_answer(NODE, 200, headers, request, NOW)
    assert signing.verify_answer(200, good, request, NODE.id) == int(NOW)
    assert tuple(headers) == signing.ANSWER_HEADERS, "the profile's components, in its order"
    for name in headers:
        for altered in ({**good, name: good[name] + "0"}, {key: value for key, value in good.items() if key != name}):
            with pytest.raises(Unauthorized):
                signing.verify_answer(200, altered, request, NODE.id)
    with pytest.raises(Unauthorized):
        signing.verify_answer(201, good, request, NODE.id)
    with pytest.raises(Unauthorized):
        signing.verify_answer(200, good, request, BOB.id)
    with pytest.raises(Unauthorized):
        signing.verify_answer(200, good, _signed(now=NOW + 1)["signature"], NODE.id)
    with pytest.raises(Unauthorized):
        signing.verify_answer(200, headers, request, NODE.id)


@pytest.mark.parametrize("value", ["", "sha-256=::", "md5=:AAAA:", "sha-256=:" + "A" * 43 + ":", "sha-256=:!:"])
def test_other_digest_fields_are_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        signing.digest_of_field(value)


@given(st.binary(min_size=32, max_size=32))
def test_digest_fields_round_trip(value: bytes) -> None:
    assert signing.digest_of_field(signing.content_digest(Digest(value))) == Digest(value)
