"""Where a network stands, as its coordinator has signed it: whoever came back from an old copy believes only that."""

from __future__ import annotations

from holdfast.auth.documents import Count, Document, open_signed
from holdfast.auth.grants import Grant
from holdfast.auth.identity import Id
from holdfast.errors import BadRequest, Denied


class Position(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The coordinator has committed number ``commit`` in ``epoch``."""

    KIND = "position"

    epoch: Count
    commit: Count


def proven(word: bytes, coordinator: Id) -> tuple[int, int]:
    """The (epoch, commit) that ``word``, a position or a grant signed by ``coordinator``, proves; else (0, 0)."""
    kinds: tuple[type[Position | Grant], ...] = (Position, Grant)
    for kind in kinds:
        try:
            found = open_signed(kind, word, coordinator)
        except (BadRequest, Denied):
            continue
        return found.epoch, found.commit
    return 0, 0
