"""Names: one form for each, everything doubtful refused with its bytes shown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.codec.paths import ancestors, name_tag, normalise, parent, parent_tag
from holdfast.errors import BadRequest


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b",
        "Größe/日本",
        "a b",
        "...",
        ".a",
        "a.",
        "-",
        "~",
        "\\",
        "a\\b",
        "C:",
        "x" * 255,
        "/".join(["y" * 255] * 16),
    ],
)
def test_accepted(path: str) -> None:
    assert normalise(path) == path


def test_decomposed_is_composed() -> None:
    assert normalise(unicodedata.normalize("NFD", "Größe")) == "Größe"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("", "''"),
        ("/a", "'/a'"),
        ("a/", "'a/'"),
        ("a//b", "'a//b'"),
        (".", "'.'"),
        ("..", "'..'"),
        ("a/./b", "a/./b"),
        ("a/../b", "a/../b"),
        ("../etc/passwd", "../etc/passwd"),
        ("a\0b", "a\\x00b"),
        ("a\nb", "a\\nb"),
        ("a\x7f", "a\\x7f"),
        ("a\x85", "a\\xc2\\x85"),
        ("\x1b[31m", "\\x1b[31m"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\xe9"),
        ("\ud800", "\\xed\\xa0\\x80"),
        ("x" * 256, "longer than 255"),
        ("ö" * 128, "longer than 255"),
        ("/".join(["y" * 255] * 16) + "/z", "longer than 4096"),
    ],
)
def test_refused_with_the_bytes_shown(path: str, shown: str) -> None:
    with pytest.raises(BadRequest) as caught:
        normalise(path)
    assert shown in caught.value.detail
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 400


@given(st.text(st.characters(codec=None)))
def test_any_text_is_normal_or_refused(text: str) -> None:
    try:
        path = normalise(text)
    except BadRequest as error:
        shown = error.detail
        assert shown.isprintable()
        return
    assert normalise(path) == path
    assert ".." not in path.split("/")
    assert path == "/".join([*ancestors(path), path][-1].split("/"))


def test_parent_and_ancestors() -> None:
    assert (parent("a"), parent("a/b/c")) == ("", "a/b")
    assert ancestors("a") == []
    assert ancestors("a/b/c") == ["a", "a/b"]


def test_tags_do_not_collide() -> None:
    key = b"k" * 32
    found = {name_tag(key, path) for path in ("a", "b", "a/b")} | {
        parent_tag(key, path) for path in ("", "a", "b", "a/b")
    }
    assert len(found) == 7
    assert name_tag(b"j" * 32, "a") not in found
