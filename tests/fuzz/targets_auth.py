"""Parsers of what proves who somebody is and what he may: documents, invites, keys, signatures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping

import msgspec
from tests.fuzz.target import Target

from holdfast.auth import certificates, documents, grants, invites, positions, signing
from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.client.device import keyfile
from holdfast.clock import SeededRandomness
from holdfast.errors import BadConfig, BadRequest, Denied, HoldfastError, Unauthorized, WrongPassphrase

US = Identity(bytes(range(32)))
THEM = Identity(bytes(range(1, 33)))
NOW = 1_800_000_000

GRANT = grants.Grant(
    kind="get",
    node=US.id,
    store=bytes(16),
    vault=THEM.id,
    subject=THEM.id,
    digests=(Digest.of(b"a"),),
    epoch=1,
    commit=2,
    expires=NOW,
)
RECEIPT = grants.Receipt(node=US.id, store=bytes(16), digest=Digest.of(b"a"), size=5, sequence=7, time=NOW)
CERTIFICATE = certificates.Certificate(vault=US.id, device=THEM.id, rights=7, not_after=NOW)
COUNTERSIGNED = certificates.Countersigned(certificate=documents.sign(CERTIFICATE, US), serial=3)
INVITE = invites.Invite(
    id=bytes(8), coordinator=US.id, urls=("http://a:1",), role="node", secret=bytes(16), uses=3, expires=NOW
)


def _body(document: documents.Document) -> bytes:
    fields = msgspec.to_builtins(document, builtin_types=(bytes,), enc_hook=documents.plain)
    return documents.canonical([f"holdfast/{document.KIND}", document.VERSION, fields])


def _envelope(kind: type[documents.Document]) -> Callable[[bytes], bytes]:
    def parse(data: bytes) -> bytes:
        return documents.sign(documents.open_signed(kind, data, US.id), US)

    return parse


def _signed(kind: type[documents.Document]) -> Callable[[bytes], bytes]:
    """``data`` is the body; the signature fits it."""

    def parse(data: bytes) -> bytes:
        envelope = documents.canonical([data, US.sign(data)])
        found = documents.open_signed(kind, envelope, US.id)
        if kind is certificates.Certificate:
            certificates.open_certificate(documents.canonical([data, US.sign(data)]))
        return _body(found) if len(_body(found)) == len(data) else data  # fields left out are filled in

    return parse


def _countersigned(data: bytes) -> bytes:
    certificates.open_countersigned(data, US.id)
    return data


def _line(data: bytes) -> bytes:
    return invites.to_line(invites.from_line(data.decode("latin-1"))).encode()


def _checked_line(data: bytes) -> bytes | None:
    """``data`` is the CBOR; the checksum fits it."""
    whole = data + hashlib.sha256(data).digest()[:4]
    invites.from_line(invites.PREFIX + base64.b32encode(whole).decode().rstrip("=").lower())
    return None


def _invite_body(invite: invites.Invite) -> bytes:
    return documents.canonical(msgspec.to_builtins(invite, builtin_types=(bytes,), enc_hook=documents.plain))


def _headers(data: bytes) -> dict[str, str]:
    """``name: value`` lines as a server's headers, bytes that are no UTF-8 escaped as aiohttp does it."""
    fields = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        name, _, value = line.partition(": ")
        fields[name.lower()] = value
    return fields


def _lines(headers: Mapping[str, str]) -> bytes:
    return "\n".join(f"{name}: {value}" for name, value in headers.items()).encode()


_FIELDS = {"holdfast-to": str(US.id), "range": "bytes=0-1", "content-length": "0", "if-match": '"x"'}
REQUEST = {**_FIELDS, **signing.sign_request(THEM, "GET", "http://h/v1/x", _FIELDS, NOW)}
_ANSWER_FIELDS = {"content-digest": signing.body_digest(b"x"), "content-length": "1", "holdfast-epoch": "1.2"}
ANSWER = {**_ANSWER_FIELDS, **signing.sign_answer(US, 200, _ANSWER_FIELDS, REQUEST["signature"], NOW)}


def _request(data: bytes) -> bytes | None:
    signing.verify_request("GET", "http://h/v1/x", _headers(data), US.id, NOW)
    return None


def _damaged_request(data: bytes) -> bytes | None:
    """A covered field is ``data``, and the request says that it is signed: in the right form, by a known key."""
    fields = {**_FIELDS, "range": data.decode("utf-8", "surrogateescape")}
    names, _ = signing._request_base("GET", "http://h", fields)
    parameters = signing._request_input(names, NOW, NOW + signing.LIFE_S, THEM.id)
    headers = {**fields, "signature-input": f"hf={parameters}", "signature": REQUEST["signature"]}
    for target in ("http://h/", "http://h/" + data.decode("utf-8", "surrogateescape")):
        try:
            signing.verify_request("GET", target, headers, US.id, NOW)
        except Unauthorized:
            continue
    return None


def _answer(data: bytes) -> bytes | None:
    signing.verify_answer(200, _headers(data), REQUEST["signature"], US.id)
    return None


def _credential(data: bytes) -> bytes:
    return documents.to_text(documents.from_text(data.decode("utf-8", "surrogateescape"))).encode()


def _content_digest(data: bytes) -> bytes:
    return signing.content_digest(signing.digest_of_field(data.decode("utf-8", "surrogateescape"))).encode()


def _id(data: bytes) -> bytes:
    return str(Id.parse(data.decode("utf-8", "surrogateescape"))).encode()


def _digest(data: bytes) -> bytes:
    return str(Digest.parse(data.decode("utf-8", "surrogateescape"))).encode()


def _keyfile(data: bytes) -> bytes | None:
    for magic in (keyfile.VAULT_MAGIC, keyfile.DEVICE_MAGIC):
        try:
            secret = keyfile.decode(magic, data, None, "vault.key")
        except (BadConfig, WrongPassphrase):
            continue
        return keyfile.encode_plain(magic, secret)
    return None


def _checked_keyfile(data: bytes) -> bytes | None:
    made = _keyfile(data + hashlib.sha256(data).digest()[:4])
    return None if made is None else made[:-4]


def _words(data: bytes) -> bytes:
    return " ".join(keyfile.to_words(keyfile.from_words(data.decode("utf-8", "surrogateescape")))).encode()


def _secret(data: bytes) -> bytes | None:
    invites.SecretRequest(SeededRandomness(5)).open(data)
    invites.seal_secret(bytes(16), data[:32], SeededRandomness(5))
    return None


SEALED_SECRET = invites.seal_secret(bytes(16), invites.SecretRequest(SeededRandomness(5)).public, SeededRandomness(6))
_PLAIN_KEYS = [keyfile.encode_plain(magic, bytes(range(32))) for magic in (keyfile.VAULT_MAGIC, keyfile.DEVICE_MAGIC)]
_SEALED_KEY = keyfile.encode_sealed(bytes(32), "pass", SeededRandomness(5), memory_kib=8, passes=1)
_KINDS: tuple[tuple[type[documents.Document], documents.Document], ...] = (
    (grants.Grant, GRANT),
    (positions.Position, positions.Position(epoch=1, commit=2)),
    (grants.Receipt, RECEIPT),
    (certificates.Certificate, CERTIFICATE),
    (certificates.Countersigned, COUNTERSIGNED),
)

TARGETS = (
    *(
        Target(kind.KIND, [documents.sign(seed, US)], _envelope(kind), (BadRequest, Denied), canonical=True)
        for kind, seed in _KINDS
    ),
    *(
        Target(
            f"{kind.KIND}-signed", [_body(seed)], _signed(kind), (BadRequest, Denied), words=(b"\xf6", b"\x80", b"\x40")
        )
        for kind, seed in _KINDS
    ),
    Target("countersigned-both", [documents.sign(COUNTERSIGNED, US)], _countersigned, (BadRequest, Denied)),
    Target("invite", [invites.to_line(INVITE).encode()], _line, (BadRequest,)),
    Target("invite-checked", [_invite_body(INVITE)], _checked_line, (BadRequest,)),
    Target("invite-secret", [SEALED_SECRET], _secret),
    Target("request-signature", [_lines(REQUEST)], _request, (Unauthorized,), words=[*map(str.encode, REQUEST)]),
    Target("request-damaged", [b"bytes=0-1", b"/v1/blobs/" + b"a" * 64], _damaged_request, (Unauthorized,)),
    Target("answer-signature", [_lines(ANSWER)], _answer, (Unauthorized,), words=[*map(str.encode, ANSWER)]),
    Target(
        "credential",
        [documents.to_text(documents.sign(GRANT, US)).encode()],
        _credential,
        (BadRequest,),
        canonical=True,
    ),
    Target(
        "content-digest", [_ANSWER_FIELDS["content-digest"].encode()], _content_digest, (BadRequest,), canonical=True
    ),
    Target("id", [str(US.id).encode(), str(THEM.id).encode()], _id, (BadRequest,), canonical=True),
    Target("digest", [b"0123456789abcdef" * 4], _digest, (BadRequest,), canonical=True),
    Target("keyfile", [*_PLAIN_KEYS, _SEALED_KEY], _keyfile, (HoldfastError,), canonical=True),
    Target("keyfile-checked", [data[:-4] for data in _PLAIN_KEYS], _checked_keyfile, (HoldfastError,)),
    Target("words", [" ".join(keyfile.to_words(bytes(range(32)))).encode()], _words, (BadRequest,)),
)
