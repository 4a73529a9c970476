"""Ed25519 by one library against another."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth.identity import Identity, verify


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_signatures_are_those_of_any_other_ed25519(seed: bytes, data: bytes) -> None:
    """RFC 8032 leaves no choice: what OpenSSL makes is what we make, and each believes the other."""
    ours, theirs = Identity(seed), Ed25519PrivateKey.from_private_bytes(seed)
    assert ours.id == theirs.public_key().public_bytes_raw()
    assert ours.sign(data) == theirs.sign(data)
    assert verify(ours.id, theirs.sign(data), data)
    assert not verify(ours.id, theirs.sign(data + b"!"), data)
