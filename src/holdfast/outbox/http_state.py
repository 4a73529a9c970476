"""What a target holds at a URL, as far as validators tell, and whether that is what a write was made against. Pure.

A base is CBOR of few fields: ``{}`` whatever is there; ``{"absent": True}`` nothing; else some of ``etag`` (as the
server wrote it), ``modified`` (an HTTP date) and ``digest`` (SHA-256 of the bytes). RFC 9110, section 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from holdfast.outbox.outcomes import RETRY_AFTER_S_MAX

ANY: Mapping[str, Any] = {}
NOTHING: Mapping[str, Any] = {"absent": True}


@dataclass(frozen=True, slots=True)
class Present:
    """The state of one URL. ``size``: bytes, None if the server does not say."""

    absent: bool
    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    def base(self, digest: bytes | None = None) -> dict[str, Any]:
        """As the precondition of the next write."""
        if self.absent:
            return dict(NOTHING)
        found: dict[str, Any] = {}
        if self.etag is not None:
            found["etag"] = self.etag
        if self.modified is not None:
            found["modified"] = self.modified
        if digest is not None:
            found["digest"] = digest
        return found

    def facts(self) -> dict[str, Any]:
        """For people."""
        return {"etag": self.etag, "modified": self.modified, "size": self.size}

    @property
    def tells(self) -> bool:
        """Does it hold anything that changes with the content?"""
        return self.etag is not None or self.modified is not None


def present_of(headers: Mapping[str, str]) -> Present:
    """From the headers (lower-case names) of a 200 to a GET or HEAD."""
    length = headers.get("content-length", "")
    return Present(
        absent=False,
        etag=headers.get("etag"),
        modified=headers.get("last-modified"),
        size=int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None,
    )


def matches(base: Mapping[str, Any], present: Present) -> bool | None:
    """Is ``present`` what the write was made against? None if only the bytes themselves can tell."""
    if not base:
        return True
    if base.get("absent"):
        return present.absent
    if present.absent:
        return False
    if "etag" in base and present.etag is not None:
        return _opaque(base["etag"]) == _opaque(present.etag)
    if "modified" in base and present.modified is not None:
        before, now = http_date(base["modified"]), http_date(present.modified)
        if before is not None and now is not None:
            return now <= before
    return None if "digest" in base else False


def conditions(base: Mapping[str, Any]) -> dict[str, str]:
    """The conditional headers of a write. A weak etag never matches If-Match, so the time stands in for it."""
    if base.get("absent"):
        return {"if-none-match": "*"}
    etag = base.get("etag")
    if etag is not None and not etag.startswith("W/"):
        return {"if-match": etag}
    if "modified" in base:
        return {"if-unmodified-since": base["modified"]}
    return {}


def http_date(text: str) -> float | None:
    """Seconds since 1970, None if it is no date."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds, from either form of Retry-After; at most an hour, None without one that makes sense."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:12])
    else:
        moment = http_date(text) if text else None
        if moment is None:
            return None
        date = http_date(headers.get("date", ""))  # the server's own clock, so that ours may be wrong
        seconds = moment - (now if date is None else date)
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")
