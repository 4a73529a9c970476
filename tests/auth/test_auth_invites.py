"""Invites: copied whole or not at all; the secret proves itself and is never sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth.identity import Identity
from holdfast.auth.invites import Invite, SecretRequest, check_proof, from_line, proof, seal_secret, to_line
from holdfast.clock import SeededRandomness
from holdfast.errors import BadRequest, Denied

ALICE, COORDINATOR = (Identity.generate(SeededRandomness(seed)) for seed in (1, 2))
INVITE = Invite(
    id=b"i" * 8, coordinator=COORDINATOR.id, urls=("http://server:7430",), role="node", secret=b"s" * 16, uses=10,
    expires=1_800_000_000,
)  # fmt: skip


def test_a_line_comes_back_as_it_was() -> None:
    line = to_line(INVITE)
    assert line.startswith("hf1-")
    assert line == line.lower()
    assert from_line(f"  {line}\n") == INVITE


@given(st.data())
def test_a_miscopied_line_is_refused(data: st.DataObject) -> None:
    line = to_line(INVITE)
    at = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567-0189"))
    changed = line[:at] + other + line[at + 1 :]
    if changed == line:
        return
    with pytest.raises(BadRequest):
        from_line(changed)
    if at:
        with pytest.raises(BadRequest):
            from_line(line[:at])


@given(st.text(max_size=200))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        from_line(text)


def test_each_part_of_a_proof_counts() -> None:
    good = proof(INVITE.secret, "join", ALICE.id, COORDINATOR.id, "node")
    check_proof(good, INVITE.secret, "join", ALICE.id, COORDINATOR.id, "node")
    for secret, word, newcomer, coordinator, role in (
        (b"x" * 16, "join", ALICE.id, COORDINATOR.id, "node"),
        (INVITE.secret, "accept", ALICE.id, COORDINATOR.id, "node"),
        (INVITE.secret, "join", COORDINATOR.id, COORDINATOR.id, "node"),
        (INVITE.secret, "join", ALICE.id, ALICE.id, "node"),
        (INVITE.secret, "join", ALICE.id, COORDINATOR.id, "operator"),
    ):
        with pytest.raises(Denied):
            check_proof(good, secret, word, newcomer, coordinator, role)  # type: ignore[arg-type]


def test_a_secret_is_sealed_to_who_asked() -> None:
    asker, other = SecretRequest(SeededRandomness(5)), SecretRequest(SeededRandomness(6))
    sealed = seal_secret(b"0123456789abcdef", asker.public, SeededRandomness(7))
    assert asker.open(sealed) == b"0123456789abcdef"
    assert b"0123456789abcdef" not in sealed
    for wrong in (sealed[:-1], sealed[:31], b"", sealed[:40] + b"x" + sealed[41:]):
        with pytest.raises(Denied):
            asker.open(wrong)
    with pytest.raises(Denied):
        other.open(sealed)


def test_the_secret_is_not_shown() -> None:
    assert "ssss" not in repr(INVITE)
