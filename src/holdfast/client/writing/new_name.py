"""A name that is to point at data which the vault has already: what moves and restores are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from holdfast.client.names.drafts import Draft, Present
from holdfast.client.names.names import Found
from holdfast.client.reading.content import ContentReader
from holdfast.client.writing.put_options import PutOptions, directory_draft, prepare_over

AT_ONCE = 32
"""Names whose recipes are looked for, or directories that are looked into, side by side."""


class Step(NamedTuple):
    """``found`` shall also be at ``path``, where ``there`` is now."""

    found: Found
    path: str
    there: Present | None


class NewNames:
    """Drafts of new names. ``options``: what may be replaced there; ``now``: seconds since 1970."""

    def __init__(self, content: ContentReader, options: PutOptions, now: Callable[[], float]) -> None:
        self.options = options
        self.now = now
        self._content = content

    async def draft(self, step: Step) -> Draft:
        """The new name's, ready to be sent. Conflict or Exists if it may not be, and what reading the recipe raises."""
        draft = await self._content.draft(step.found, step.path)
        draft.rule = self.options.rule
        prepare_over(draft, step.there, self.options)
        return draft

    def above(self, ancestors: Sequence[str]) -> list[Draft]:
        """The directories over a new name, to be made where they are missing."""
        now = int(self.now() * 1e9)
        return [directory_draft(path, self.options.survive, now) for path in ancestors]
