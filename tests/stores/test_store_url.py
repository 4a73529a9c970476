"""Store URLs: what is understood, and a sentence for what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import BadConfig
from holdfast.stores.url import StoreUrl, parse


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("memory:", StoreUrl("memory")),
        ("file:///srv/hf", StoreUrl("file", path="/srv/hf")),
        ("file:///srv/my%20disk", StoreUrl("file", path="/srv/my disk")),
        ("nats://host:4222/bucket?replicas=3", StoreUrl("nats", "host:4222", "bucket", {"replicas": "3"})),
        ("s3://bucket", StoreUrl("s3", "bucket")),
        (
            "s3://bucket/a/b?endpoint=https://h:9000&region=x",
            StoreUrl("s3", "bucket", "a/b", {"endpoint": "https://h:9000", "region": "x"}),
        ),
        ("https://node.example:7420/", StoreUrl("https", "node.example:7420")),
        ("http://[::1]:7420", StoreUrl("http", "[::1]:7420")),
    ],
)
def test_what_is_understood(text: str, url: StoreUrl) -> None:
    assert parse(text) == url
    assert parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "known kind"),
        ("/srv/hf", "file:///srv/hf"),
        ("ftp://host/x", "known kind"),
        ("file://srv/hf", "three slashes"),
        ("file:relative", "three slashes"),
        ("memory:x", "just memory:"),
        ("nats://host", "one bucket"),
        ("nats://host/a/b", "one bucket"),
        ("nats://host/a?replicas=9", "1 to 5"),
        ("nats://host/a?colour=red", "no option 'colour'"),
        ("s3:///x", "bucket"),
        ("http://host:99999", "not a store's URL"),
        ("http://host/path", "no path"),
        ("file:///x#y", "%23"),
        ("file:///x%00y", "NUL"),
    ],
)
def test_what_is_not(text: str, says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:geheim@bucket/x",
        "nats://geheim@host/b",
        "s3://b?endpoint=https://u:geheim@host",
        "ftp://u:geheim@host",
        "https://u:geheim@h:port",
    ],
)
def test_a_secret_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parse(text)
    assert "geheim" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_gives_a_url_or_a_sentence(text: str) -> None:
    for prefix in ("", "file:///", "s3://", "nats://", "http://"):
        try:
            url = parse(prefix + text)
        except BadConfig:
            continue
        assert parse(str(url)) == url
