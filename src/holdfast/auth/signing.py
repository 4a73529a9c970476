"""Signed requests and answers: one fixed profile of RFC 9421 with RFC 9530 (docs/formats.md, Requests).

The components and parameters are those of the profile, in its order, absent ones left out. The verifier rebuilds the
only signature input it would accept from the message and compares: anything else is Unauthorized.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping

from holdfast.auth.identity import Id, Identity, verify
from holdfast.blob import Buffer, Digest
from holdfast.errors import BadRequest, Unauthorized

REQUEST_HEADERS = (
    "content-digest",
    "content-length",
    "holdfast-to",
    "holdfast-grant",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
    "idempotency-key",
)
ANSWER_HEADERS = ("content-digest", "content-length", "etag", "retry-after", "holdfast-epoch")
LIFE_S = 60
SKEW_S = 300

_REQUEST_PARAMETERS = re.compile(
    r'.*;created=([1-9][0-9]{0,11});expires=([1-9][0-9]{0,11});keyid="([a-z2-7]{52})"', re.ASCII
)
_ANSWER_PARAMETERS = re.compile(r'.*;created=([1-9][0-9]{0,11});keyid="([a-z2-7]{52})"', re.ASCII)
_SIGNATURE = re.compile(r"hf=:([A-Za-z0-9+/]{86}==):", re.ASCII)


def content_digest(digest: Digest) -> str:
    """RFC 9530's field value for a SHA-256."""
    return f"sha-256=:{base64.b64encode(digest).decode('ascii')}:"


def digest_of_field(value: str) -> Digest:
    """The digest in a Content-Digest of ours; BadRequest for any other form."""
    if value.startswith("sha-256=:") and value.endswith(":"):
        try:
            digest = Digest(base64.b64decode(value[9:-1], validate=True))
        except (ValueError, BadRequest):
            pass
        else:
            if content_digest(digest) == value:
                return digest
    raise BadRequest("Content-Digest: only sha-256=:…: with 32 bytes is understood")


def body_digest(body: Buffer) -> str:
    """The Content-Digest of a small body; hash large ones in a pool."""
    return content_digest(Digest(hashlib.sha256(body).digest()))


def _request_input(names: str, created: int, expires: int, key: Id) -> str:
    return f'({names});created={created};expires={expires};keyid="{key}"'


def _request_base(method: str, target: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """(covered component names, signature base less its last line)."""
    names = ['"@method"', '"@target-uri"']
    lines = [f'"@method": {method}', f'"@target-uri": {target}']
    for name in REQUEST_HEADERS:
        value = headers.get(name)
        if value is not None:
            names.append(f'"{name}"')
            lines.append(f'"{name}": {value}')
    return " ".join(names), "\n".join(lines)


def _given(base: str, parameters: str) -> bytes:
    """What is said to be signed; Unauthorized for bytes that are no UTF-8, which the profile never has."""
    try:
        return f'{base}\n"@signature-params": {parameters}'.encode()
    except UnicodeEncodeError as error:
        raise Unauthorized("a signed field holds bytes that are no text") from error


def sign_request(
    identity: Identity, method: str, target: str, headers: Mapping[str, str], now: float
) -> dict[str, str]:
    """The two header fields that sign a request.

    ``headers`` has lower-case names and, with a body, Content-Digest and Content-Length; ``holdfast-to`` must be there.
    """
    assert "holdfast-to" in headers, "a request names its receiver"
    created = int(now)
    names, base = _request_base(method, target, headers)
    parameters = _request_input(names, created, created + LIFE_S, identity.id)
    signature = identity.sign(f'{base}\n"@signature-params": {parameters}'.encode())
    return {
        "signature-input": f"hf={parameters}",
        "signature": f"hf=:{base64.b64encode(signature).decode('ascii')}:",
    }


def verify_request(method: str, target: str, headers: Mapping[str, str], receiver: Id, now: float) -> Id:
    """Who signed this request for ``receiver``; Unauthorized in every other case. Names in ``headers`` lower-case.

    Its ``extra["reason"]`` is "time" if nothing but the time is wrong.
    """
    given = headers.get("signature-input", "")
    found = _REQUEST_PARAMETERS.fullmatch(given)
    signed = _SIGNATURE.fullmatch(headers.get("signature", ""))
    if found is None or signed is None:
        raise Unauthorized("this request needs a signature of the holdfast profile")
    created, expires = int(found[1]), int(found[2])
    try:
        key = Id.parse(found[3])
    except BadRequest as error:
        raise Unauthorized("keyid: not an id") from error
    names, base = _request_base(method, target, headers)
    parameters = _request_input(names, created, expires, key)
    if given != f"hf={parameters}":
        raise Unauthorized("the signature does not cover exactly the components of the profile")
    if headers.get("holdfast-to") != str(receiver):
        raise Unauthorized("this request was signed for another receiver")
    if not verify(key, base64.b64decode(signed[1]), _given(base, parameters)):
        raise Unauthorized("the signature is wrong")
    if expires - created != LIFE_S:
        raise Unauthorized(f"a signature is good for {LIFE_S} seconds, neither more nor less")
    if not created - SKEW_S <= now <= expires + SKEW_S:
        raise Unauthorized(
            "this signature is too old or from the future: check both clocks (holdfast doctor)", reason="time"
        )
    return key


def _answer_base(status: int, headers: Mapping[str, str], request_signature: str) -> tuple[str, str]:
    names = ['"@status"']
    lines = [f'"@status": {status}']
    for name in ANSWER_HEADERS:
        value = headers.get(name)
        if value is not None:
            names.append(f'"{name}"')
            lines.append(f'"{name}": {value}')
    names.append('"signature";req;key="hf"')
    lines.append(f'"signature";req;key="hf": {request_signature.removeprefix("hf=")}')
    return " ".join(names), "\n".join(lines)


def sign_answer(
    identity: Identity, status: int, headers: Mapping[str, str], request_signature: str, now: float
) -> dict[str, str]:
    """The two header fields that sign an answer to the request whose ``signature`` field is given."""
    names, base = _answer_base(status, headers, request_signature)
    parameters = f'({names});created={int(now)};keyid="{identity.id}"'
    signature = identity.sign(f'{base}\n"@signature-params": {parameters}'.encode())
    return {
        "signature-input": f"hf={parameters}",
        "signature": f"hf=:{base64.b64encode(signature).decode('ascii')}:",
    }


def verify_answer(status: int, headers: Mapping[str, str], request_signature: str, sender: Id) -> int:
    """When (seconds since 1970) ``sender`` signed this answer to that request; Unauthorized in every other case."""
    given = headers.get("signature-input", "")
    found = _ANSWER_PARAMETERS.fullmatch(given)
    signed = _SIGNATURE.fullmatch(headers.get("signature", ""))
    if found is None or signed is None:
        raise Unauthorized("the answer is not signed")
    names, base = _answer_base(status, headers, request_signature)
    parameters = f'({names});created={found[1]};keyid="{sender}"'
    if given != f"hf={parameters}":
        raise Unauthorized(f"the answer was not signed by {sender.short} in the profile's form")
    if not verify(sender, base64.b64decode(signed[1]), _given(base, parameters)):
        raise Unauthorized("the answer's signature is wrong")
    return int(found[1])
