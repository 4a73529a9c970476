"""Derived keys differ, are bounded, and are never shown."""

from __future__ import annotations

import dataclasses

import pytest

from holdfast.codec.keys import GENERATION_MAX, VaultKeys
from holdfast.errors import BadRequest


def test_all_keys_differ() -> None:
    seen: list[bytes] = []
    for root in (bytes(32), b"\1" * 32):
        keys = VaultKeys(root)
        seen += [keys.name, keys.identity.seed(), bytes(keys.vault)]
        for n in (0, 1, 2, 11, GENERATION_MAX):
            found = keys.generation(n)
            assert found is keys.generation(n)
            seen += [found.chunk, found.id, found.meta]
    assert len(set(seen)) == len(seen)


def test_secrets_are_not_shown() -> None:
    keys = VaultKeys(b"R" * 32)
    generation = keys.generation(1)
    for shown in (repr(keys), str(keys), repr(generation), f"{generation}"):
        for secret in (b"R" * 32, keys.name, generation.chunk, generation.id, generation.meta):
            assert secret.hex() not in shown
            assert repr(secret)[2:-1] not in shown


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        VaultKeys(b"R" * 32).generation(1).chunk = b""  # type: ignore[misc]


@pytest.mark.parametrize("n", [-1, GENERATION_MAX + 1])
def test_generation_bounds(n: int) -> None:
    with pytest.raises(BadRequest):
        VaultKeys(b"R" * 32).generation(n)


def test_many_generations_do_not_fill_memory() -> None:
    keys = VaultKeys(b"R" * 32)
    for n in range(1000):
        keys.generation(n)
    assert len(keys._cache) <= 64


@pytest.mark.parametrize("size", [0, 31, 33])
def test_root_length(size: int) -> None:
    with pytest.raises(BadRequest):
        VaultKeys(bytes(size))
