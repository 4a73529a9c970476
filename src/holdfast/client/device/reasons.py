"""Which nodes failed and why, in a few words: a sentence must stay one when a hundred nodes are gone."""

from __future__ import annotations

from collections.abc import Mapping

NODES_MAX = 3
REASON_CHARACTERS_MAX = 80


def reasons_text(reasons: Mapping[str, str]) -> str:
    """``attic: connection refused; cellar: ... and 5 more``; empty for none. ``reasons``: node's name -> why."""
    some = [f"{name}: {_short(reason)}" for name, reason in list(reasons.items())[:NODES_MAX]]
    more = len(reasons) - len(some)
    return "; ".join(some) + (f"; and {more} more" if more > 0 else "")


def reason_of(detail: str, url: str) -> str:
    """An error's sentence without the address that it begins with: the node's name says who it was."""
    return detail.removeprefix(f"{url}: ").removeprefix(url).strip()


def _short(reason: str) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= REASON_CHARACTERS_MAX else line[: REASON_CHARACTERS_MAX - 1].rstrip() + "…"
