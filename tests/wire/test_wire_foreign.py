"""URLs of servers that are not holdfast: the short way of reading them finds what the long one does."""

from __future__ import annotations

from urllib.parse import urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.wire import foreign

URLS = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp"]),
    st.text("ab0.:-@[]%_", max_size=12),
    st.text("/ab?&#@: \t%é\n", max_size=12),
)


@given(URLS)
@example("http://h:80/a?b=c")
@example("https://h")
@example("http://h/a#")
def test_a_plain_url_is_read_as_any_other(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return  # of those the short way knows none
    found = foreign._parts(url)
    assert (found.scheme, found.netloc, found.fragment) == (parts.scheme, parts.netloc, parts.fragment)
