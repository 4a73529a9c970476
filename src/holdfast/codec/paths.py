"""Paths: what a name in a vault may be, and the tags that stand for it in clear (docs/formats.md, Paths)."""

from __future__ import annotations

import functools
import hmac
import unicodedata

from holdfast.errors import BadRequest

PATH_BYTES_MAX = 4096
PART_BYTES_MAX = 255
NAMES_KEPT = 4096
"""A name is looked at several times on its way, and its directory with each of its names."""


@functools.lru_cache(NAMES_KEPT)
def normalise(text: str) -> str:
    """The one form of a path: NFC, parts of 1 to 255 bytes of UTF-8 joined by one ``/``, at most 4,096 bytes.

    Composes accents (some systems list them apart); everything else that is not right is a BadRequest that shows the
    bytes escaped: it never repairs a slash or a dot, because two names could then become one.
    """
    path = unicodedata.normalize("NFC", text)
    if path.isascii() and path.isprintable():
        data = path.encode("ascii")
    else:
        try:
            data = path.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _refused(text, "it is not UTF-8") from error
        if any(unicodedata.category(character) == "Cc" for character in path):
            raise _refused(text, "it holds a control character")
    if len(data) > PATH_BYTES_MAX:
        raise _refused(text, f"it is longer than {PATH_BYTES_MAX} bytes")
    for part in data.split(b"/"):
        if not part:
            raise _refused(text, "it has an empty part; write it without a / at either end, and never two together")
        if part in (b".", b".."):
            raise _refused(text, "it has a part that is . or ..")
        if len(part) > PART_BYTES_MAX:
            raise _refused(text, f"a part of it is longer than {PART_BYTES_MAX} bytes")
    return path


def parent(path: str) -> str:
    """The directory that holds ``path``; ``""`` is the root."""
    return path.rpartition("/")[0]


def ancestors(path: str) -> list[str]:
    """The directories above ``path``, from the top down, without the root."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


@functools.lru_cache(NAMES_KEPT)
def name_tag(name_key: bytes, path: str) -> bytes:
    """32 bytes that stand for ``path``; ``name_key`` is ``VaultKeys.name``."""
    return hmac.digest(name_key, b"name\0" + path.encode("utf-8"), "sha256")


@functools.lru_cache(NAMES_KEPT)
def parent_tag(name_key: bytes, directory: str) -> bytes:
    """32 bytes that stand for "lies in ``directory``"; ``""`` is the root."""
    return hmac.digest(name_key, b"dir\0" + directory.encode("utf-8"), "sha256")


def _refused(text: str, why: str) -> BadRequest:
    shown = repr(text.encode("utf-8", "surrogateescape" if _escaped(text) else "surrogatepass"))[1:]
    if len(shown) > 200:
        shown = f"{shown[:160]}…{shown[-30:]}"
    return BadRequest(f"cannot use the name {shown}: {why}")


def _escaped(text: str) -> bool:
    """Are all lone surrogates those that stand for undecodable bytes of a file name (PEP 383)?"""
    return all(not 0xD800 <= ord(character) <= 0xDFFF or 0xDC80 <= ord(character) <= 0xDCFF for character in text)
