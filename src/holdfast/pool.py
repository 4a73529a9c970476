"""Threads: the one seam through which blocking work (disk, hashing, sealing) leaves the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool(Protocol):
    """Runs plain functions beside the event loop."""

    workers: int

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(*args, **kwargs)`` in a worker. Waits when all are busy.

        A cancelled caller still waits until the function has ended: buffers handed to it may be reused afterwards.
        """
        ...

    def close(self) -> None:
        """Waits for what runs and ends the workers. May be called twice."""
        ...


class _Answer(asyncio.Future[T]):
    """What a worker will say. It cannot be cancelled: whoever is, hears it when the function has ended."""

    def cancel(self, msg: object = None) -> bool:
        return False


class _Answers:
    """On their way to one event loop: those that come together wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[tuple[_Answer[Any], object, BaseException | None]] = deque()
        self._told = False

    def add(self, answer: _Answer[Any], result: object, error: BaseException | None) -> None:
        """In any thread."""
        self._waiting.append((answer, result, error))
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._told = False  # before the first is taken: what is added from now on tells the loop again
        while self._waiting:
            _settle(*self._waiting.popleft())


_Job: TypeAlias = tuple[Callable[[], object], "_Answer[Any]", _Answers]


class ThreadPool:
    """A pool of ``workers`` threads; by default one for each core, at least two. They begin when first needed.

    Not ``concurrent.futures``: its future, wrapped and shielded, cost a small visit more than the visit itself.
    """

    def __init__(self, workers: int | None = None, name: str = "holdfast") -> None:
        self.workers = workers or max(2, os.cpu_count() or 2)
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._answers: _Answers | None = None  # to the event loop that asked last
        self._waiting = 0  # jobs that no worker has ended yet, as the event loops see it
        self._closed = False

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise RuntimeError("this pool is closed")
        loop, answers = asyncio.get_running_loop(), self._answers
        if answers is None or answers.loop is not loop:
            answers = self._answers = _Answers(loop)
        answer: _Answer[T] = _Answer(loop=loop)
        self._waiting += 1
        if self._waiting > len(self._threads) < self.workers:
            self._begin()
        self._jobs.put((functools.partial(function, *args, **kwargs), answer, answers))
        try:
            return await answer
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _begin(self) -> None:
        thread = threading.Thread(
            target=_work, args=(self._jobs,), name=f"{self._name}_{len(self._threads)}", daemon=True
        )
        self._threads.append(thread)
        thread.start()


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    """One worker, until it is told to end."""
    while (job := jobs.get()) is not None:
        function, answer, answers = job
        try:
            result, error = function(), None
        except BaseException as raised:
            result, error = None, raised
        answers.add(answer, result, error)
        del job, function, answer, answers, result, error  # nothing of it lives on while this thread waits


def _settle(answer: _Answer[Any], result: object, error: BaseException | None) -> None:
    if error is None:
        answer.set_result(result)
    elif isinstance(error, StopIteration):  # no future carries one
        answer.set_exception(RuntimeError("a function in a pool raised StopIteration"))
    else:
        answer.set_exception(error)


class InlinePool:
    """Runs everything at once in the caller's thread: for simulations and short tests."""

    workers = 1

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    def close(self) -> None:
        pass
