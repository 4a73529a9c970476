"""One vault, one device and a small pack, for all tests of the codec."""

from __future__ import annotations

import pytest

from holdfast.auth.identity import Identity
from holdfast.codec.keys import GenerationKeys, VaultKeys


@pytest.fixture(scope="session")
def vault() -> VaultKeys:
    return VaultKeys(b"R" * 32)


@pytest.fixture(scope="session")
def keys(vault: VaultKeys) -> GenerationKeys:
    return vault.generation(1)


@pytest.fixture(scope="session")
def device() -> Identity:
    return Identity(b"d" * 32)
