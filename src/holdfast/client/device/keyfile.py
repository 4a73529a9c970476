"""Where the keys of a home lie: ``vault.key`` (the root, plain or sealed by a passphrase) and ``device.key``.

Plain: ``magic 8 | version 1 | form 1 (0) | 32 bytes | SHA-256 of all before, first 4 bytes``.
Sealed: ``magic 8 | version 1 | form 1 (1) | memory KiB u32 | passes u32 | lanes u32 | salt 16 | nonce 12 | 48 bytes``,
where the last are AES-256-GCM(Argon2id(passphrase), nonce, 32 bytes, AAD = all before). Both files have mode 0600 and
are refused when others may read them (docs/formats.md, Keys). The functions block: call them in a pool.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import unicodedata
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from holdfast.auth.identity import SEED_BYTES, Identity
from holdfast.clock import Randomness
from holdfast.errors import BadConfig, BadRequest, Exists, NotFound, WrongPassphrase
from holdfast.files import Files, write_file

VAULT_MAGIC = b"hf-vault"
DEVICE_MAGIC = b"hf-devic"
VERSION = 1
ROOT_BYTES = 32
WORDS = 24
MEMORY_KIB = 64 << 10
PASSES = 3
LANES = 1
FILE_BYTES_MAX = 256

_PLAIN, _SEALED = 0, 1
_HEADER = struct.Struct(">8sBB")
_COST = struct.Struct(">III16s12s")
_COST_MEMORY_KIB_MAX = 1 << 20
_COST_PASSES_MAX = 32
_COST_LANES_MAX = 16


def encode_plain(magic: bytes, secret: bytes) -> bytes:
    """The plain form."""
    data = _HEADER.pack(magic, VERSION, _PLAIN) + secret
    return data + hashlib.sha256(data).digest()[:4]


def encode_sealed(
    secret: bytes, passphrase: str, randomness: Randomness, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES
) -> bytes:
    """The form sealed by ``passphrase``; takes about a quarter of a second and ``memory_kib`` of memory."""
    salt, nonce = randomness.bytes(16), randomness.bytes(12)
    header = _HEADER.pack(VAULT_MAGIC, VERSION, _SEALED) + _COST.pack(memory_kib, passes, LANES, salt, nonce)
    return header + AESGCM(_stretch(passphrase, memory_kib, passes, LANES, salt)).encrypt(nonce, secret, header)


def decode(magic: bytes, data: bytes, passphrase: str | None, where: str) -> bytes:
    """The 32 secret bytes; WrongPassphrase, or BadConfig for a file that is none of ours or was damaged."""
    if len(data) < _HEADER.size or data[:8] != magic:
        raise BadConfig(f"{where} is not a holdfast key file")
    _, version, form = _HEADER.unpack_from(data)
    if version != VERSION:
        raise BadConfig(f"{where} has version {version}; this holdfast reads version {VERSION}")
    if form == _PLAIN:
        if len(data) != _HEADER.size + ROOT_BYTES + 4 or hashlib.sha256(data[:-4]).digest()[:4] != data[-4:]:
            raise BadConfig(f"{where} is damaged; make it again from your 24 words: holdfast init --recover")
        return data[_HEADER.size : -4]
    body = _HEADER.size + _COST.size
    if form != _SEALED or magic != VAULT_MAGIC or len(data) != body + ROOT_BYTES + 16:
        raise BadConfig(f"{where} is damaged; make it again from your 24 words: holdfast init --recover")
    memory_kib, passes, lanes, salt, nonce = _COST.unpack_from(data, _HEADER.size)
    if (
        not 8 * lanes <= memory_kib <= _COST_MEMORY_KIB_MAX
        or not 0 < passes <= _COST_PASSES_MAX
        or not 0 < lanes <= _COST_LANES_MAX
    ):
        raise BadConfig(f"{where} asks for an absurd amount of work; it is damaged or was altered")
    if passphrase is None:
        raise WrongPassphrase(f"{where} is sealed: the passphrase is needed")
    try:
        return AESGCM(_stretch(passphrase, memory_kib, passes, lanes, salt)).decrypt(nonce, data[body:], data[:body])
    except InvalidTag:
        raise WrongPassphrase(f"this passphrase does not open {where}") from None


def write_root(
    files: Files, path: Path, root: bytes, passphrase: str | None, randomness: Randomness, *, replace: bool = False
) -> None:
    """Writes ``vault.key``, durable; Exists if there is one and ``replace`` is false."""
    assert len(root) == ROOT_BYTES
    if passphrase is None:
        _write(files, path, encode_plain(VAULT_MAGIC, root), replace)
    else:
        _write(files, path, encode_sealed(root, passphrase, randomness), replace)


def read_root(files: Files, path: Path, passphrase: str | None) -> bytes:
    """The vault root. NotFound without a file; WrongPassphrase; BadConfig if others may read it or it is damaged."""
    return decode(VAULT_MAGIC, _read(files, path), passphrase, str(path))


def is_sealed(files: Files, path: Path) -> bool:
    """Does ``vault.key`` ask for a passphrase?"""
    data = _read(files, path)
    return len(data) > 9 and data[:8] == VAULT_MAGIC and data[9] == _SEALED


def change_passphrase(files: Files, path: Path, old: str | None, new: str | None, randomness: Randomness) -> None:
    """Seals the root anew, or leaves it plain when ``new`` is None. Copies of the old file still open with ``old``."""
    write_root(files, path, read_root(files, path, old), new, randomness, replace=True)


def write_device(files: Files, path: Path, device: Identity) -> None:
    """Writes ``device.key``, durable; Exists if there is one."""
    _write(files, path, encode_plain(DEVICE_MAGIC, device.seed()), replace=False)


def read_device(files: Files, path: Path) -> Identity:
    """The device's key; errors as ``read_root``."""
    secret = decode(DEVICE_MAGIC, _read(files, path), None, str(path))
    assert len(secret) == SEED_BYTES
    return Identity(secret)


def to_words(root: bytes) -> list[str]:
    """The root as 24 words (BIP-39, English, with its checksum)."""
    from mnemonic import Mnemonic  # loads a word list: only when words are wanted

    return Mnemonic("english").to_mnemonic(root).split()


def from_words(words: str) -> bytes:
    """The root from its 24 words, as a person types them; BadRequest says which word is unknown."""
    from mnemonic import Mnemonic

    given = unicodedata.normalize("NFKD", words).lower().split()
    if len(given) != WORDS:
        raise BadRequest(f"a vault has {WORDS} words, {len(given)} were given")
    book = Mnemonic("english")
    known = set(book.wordlist)
    for number, word in enumerate(given, 1):
        if word not in known:
            raise BadRequest(f"word {number} ({word!r}) is not in the list")
    if not book.check(" ".join(given)):
        raise BadRequest("these words are all known, but not in this order: one of them is wrong")
    return bytes(book.to_entropy(given))


def _stretch(passphrase: str, memory_kib: int, passes: int, lanes: int, salt: bytes) -> bytes:
    secret = unicodedata.normalize("NFKC", passphrase).encode()
    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive(secret)


def _write(files: Files, path: Path, data: bytes, replace: bool) -> None:
    try:
        write_file(files, path, data, replace=replace)
    except FileExistsError as error:
        raise Exists(f"{path} exists already; it is never overwritten") from error


def _read(files: Files, path: Path) -> bytes:
    try:
        descriptor = files.open(path)
    except FileNotFoundError as error:
        raise NotFound(f"no key at {path}; make a home with: holdfast init") from error
    except OSError as error:
        raise BadConfig(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise BadConfig(f"{path} is not a regular file")
        if stat.S_IMODE(mode) & 0o077:
            raise BadConfig(f"{path} can be read by others; close it with: chmod 600 {path}")
        return files.read(descriptor, FILE_BYTES_MAX, 0)
    finally:
        files.close(descriptor)
