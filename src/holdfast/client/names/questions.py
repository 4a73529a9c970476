"""Asking for names one by one at first, and together while that takes: reads at once share the coordinator's answers.

The first question goes out at once, alone. What is asked while one is under way waits for its end, and goes together
then. So nothing lingers while there is little to do, and a read is never answered by a question that began before it:
it sees whatever was acknowledged by then.
"""

from __future__ import annotations

import asyncio

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.client.device.coordinators import Coordinators
from holdfast.codec import refs
from holdfast.errors import HoldfastError, NotFound, Unavailable
from holdfast.wire import messages as m
from holdfast.wire import routes

PATIENCE_S = 0.25
"""Nobody waits longer for the end of other questions: a slow one does not hold up the rest."""


class RefQuestions:
    """Of one vault. Any number of calls at once."""

    def __init__(self, coordinators: Coordinators, vault: Id) -> None:
        self._coordinators = coordinators
        self._path = {"vault": str(vault)}
        self._under_way = 0
        self._next: dict[Digest, asyncio.Future[m.RefAnswer]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, tag: bytes) -> m.RefAnswer:
        """What the coordinator has under a name's tag; NotFound if it never had anything, errors as its own."""
        if not self._under_way:
            self._under_way += 1
            try:
                return await self._alone(tag)
            finally:
                self._ended()
        loop = asyncio.get_running_loop()
        waiting = self._next.get(Digest(tag))
        if waiting is None:
            if not self._next:
                self._timer = loop.call_later(PATIENCE_S, self._begin)
            waiting = self._next[Digest(tag)] = loop.create_future()
            if len(self._next) == m.REFS_ASKED_MAX:
                self._begin()
        return await asyncio.shield(waiting)

    async def _alone(self, tag: bytes) -> m.RefAnswer:
        return await self._coordinators.ask(routes.REF, path={**self._path, "tag": tag.hex()})

    def _begin(self) -> None:
        """What waits goes out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asked, self._next = self._next, {}
        if asked:
            self._under_way += 1
            task = asyncio.get_running_loop().create_task(self._together(asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._begin()

    async def _together(self, asked: dict[Digest, asyncio.Future[m.RefAnswer]]) -> None:
        try:
            if len(asked) == 1:
                for tag, waiting in asked.items():
                    _settle(waiting, await self._alone(tag))
                return
            answer = await self._coordinators.ask(routes.REFS_FIND, m.RefsQuestion(tags=list(asked)), path=self._path)
            if len(answer.refs) != len(asked):
                raise Unavailable("the coordinator's answer about names has another shape than the question")
            places = {pack.digest: pack for pack in answer.packs}
            for (tag, waiting), found in zip(asked.items(), answer.refs, strict=True):
                if found.large:
                    _settle(waiting, await self._alone(tag))
                elif not found.record and not found.version:
                    _settle(waiting, NotFound("no such name"))
                else:
                    kept = refs.parse_keep_list(found.keep) if found.keep else []
                    packs = [places[digest] for digest in kept if digest in places]
                    _settle(
                        waiting,
                        m.RefAnswer(
                            version=found.version, etag=found.etag, record=found.record, keep=found.keep,
                            packs=packs, nodes=answer.nodes,
                        ),
                    )  # fmt: skip
        except HoldfastError as error:
            for waiting in asked.values():
                _settle(waiting, error)
        except BaseException:
            for waiting in asked.values():
                _settle(waiting, Unavailable("the question for this name was stopped"))
            raise
        finally:
            self._ended()


def _settle(waiting: asyncio.Future[m.RefAnswer], answer: m.RefAnswer | HoldfastError) -> None:
    if waiting.done():
        return
    if isinstance(answer, HoldfastError):
        waiting.set_exception(answer)
        waiting.exception()  # whoever asked may have gone
    else:
        waiting.set_result(answer)
