"""Key files: what opens them, what does not, and what their words are."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.auth.identity import Identity
from holdfast.client.device import keyfile
from holdfast.clock import SeededRandomness
from holdfast.errors import BadConfig, BadRequest, Exists, NotFound, WrongPassphrase, meaning
from holdfast.files import OsFiles

FILES = OsFiles()
ROOT = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.key"


def test_plain(path: Path) -> None:
    keyfile.write_root(FILES, path, ROOT, None, SeededRandomness(1))
    assert path.stat().st_mode & 0o777 == 0o600
    assert keyfile.read_root(FILES, path, None) == ROOT
    assert not keyfile.is_sealed(FILES, path)
    with pytest.raises(Exists):
        keyfile.write_root(FILES, path, bytes(32), None, SeededRandomness(1))
    assert keyfile.read_root(FILES, path, "not needed") == ROOT


def test_sealed(path: Path) -> None:
    path.write_bytes(keyfile.encode_sealed(ROOT, "pässword", SeededRandomness(1), memory_kib=64, passes=1))
    path.chmod(0o600)
    assert keyfile.is_sealed(FILES, path)
    assert keyfile.read_root(FILES, path, "pa\u0308ssword") == ROOT  # however the accent was typed
    for wrong in ("password", "", None):
        with pytest.raises(WrongPassphrase) as caught:
            keyfile.read_root(FILES, path, wrong)
        assert meaning(caught.value).exit == 5
    assert ROOT not in path.read_bytes()


def test_the_cost_is_that_of_the_format(path: Path) -> None:
    keyfile.write_root(FILES, path, ROOT, "secret", SeededRandomness(1))
    assert path.read_bytes()[10:22] == (65536).to_bytes(4) + (3).to_bytes(4) + (1).to_bytes(4)
    keyfile.change_passphrase(FILES, path, "secret", None, SeededRandomness(2))
    assert keyfile.read_root(FILES, path, None) == ROOT


def test_others_may_not_read_it(path: Path) -> None:
    keyfile.write_root(FILES, path, ROOT, None, SeededRandomness(1))
    path.chmod(0o640)
    with pytest.raises(BadConfig, match="chmod 600"):
        keyfile.read_root(FILES, path, None)


def test_missing_and_strange_files(path: Path) -> None:
    with pytest.raises(NotFound):
        keyfile.read_root(FILES, path, None)
    device = Identity(bytes(32))
    keyfile.write_device(FILES, path, device)
    assert keyfile.read_device(FILES, path).id == device.id
    with pytest.raises(BadConfig, match="not a holdfast key file"):
        keyfile.read_root(FILES, path, None)
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises((BadConfig, NotFound)):
        keyfile.read_root(FILES, path, None)


@given(st.integers(0, 45), st.integers(0, 7))
def test_any_flipped_bit_of_a_plain_file_is_noticed(at: int, bit: int) -> None:
    data = bytearray(keyfile.encode_plain(keyfile.VAULT_MAGIC, ROOT))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(BadConfig):
        keyfile.decode(keyfile.VAULT_MAGIC, bytes(data), None, "file")


@given(st.binary(max_size=120))
def test_garbage_is_no_key_file(data: bytes) -> None:
    with pytest.raises((BadConfig, WrongPassphrase)):
        keyfile.decode(keyfile.VAULT_MAGIC, keyfile.VAULT_MAGIC + data, None, "file")


def test_absurd_costs_are_refused_before_any_work() -> None:
    data = bytearray(keyfile.encode_sealed(ROOT, "x", SeededRandomness(1), memory_kib=64, passes=1))
    for at, value in ((10, 1 << 31), (14, 1 << 20), (18, 1 << 20), (14, 0)):
        changed = bytearray(data)
        changed[at : at + 4] = value.to_bytes(4)
        with pytest.raises(BadConfig):
            keyfile.decode(keyfile.VAULT_MAGIC, bytes(changed), "x", "file")


@given(st.binary(min_size=32, max_size=32))
def test_words_there_and_back(root: bytes) -> None:
    words = keyfile.to_words(root)
    assert len(words) == 24
    assert keyfile.from_words("  " + "  ".join(words).upper() + "\n") == root


def test_wrong_words_are_named() -> None:
    words = keyfile.to_words(ROOT)
    with pytest.raises(BadRequest, match="24 words, 23"):
        keyfile.from_words(" ".join(words[1:]))
    with pytest.raises(BadRequest, match=r"word 2 .*'holdfast'"):
        keyfile.from_words(" ".join([words[0], "holdfast", *words[2:]]))
    with pytest.raises(BadRequest, match="one of them is wrong"):
        keyfile.from_words(" ".join([words[1], words[0], *words[2:]]))
