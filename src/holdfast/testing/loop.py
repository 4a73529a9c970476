"""An asyncio event loop on virtual time: nothing waits, no socket, no thread, and one seed gives one run.

When nothing is ready, time moves on to the next timer. When there is no timer either, everybody waits for somebody
else and ``Deadlock`` says who and where. What asyncio takes from chance elsewhere is taken away here: sets of tasks and
futures iterate in the order of their making, tasks are numbered per loop, cyclic garbage is collected at fixed turns,
and the module-level ``random`` that libraries draw from is seeded for the run. One thing is left to the caller: sets of
``str`` and ``bytes`` iterate by the interpreter's hash seed, so repeating a run in another process needs the same
``PYTHONHASHSEED``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import hashlib
import logging
import random  # noqa: TID251 - to seed what libraries draw from it
from collections.abc import Callable, Coroutine, Iterator
from types import CoroutineType
from typing import Any, NoReturn, TypeVar

from holdfast.clock import SeededRandomness
from holdfast.testing.trace import Trace

T = TypeVar("T")

_OWNER: contextvars.ContextVar[set[asyncio.Task[Any]] | None] = contextvars.ContextVar("owner", default=None)

START_WALL_S = 1_700_000_000.0  # seconds since 1970 at virtual time 0
RESOLUTION_S = 1e-6  # coarse enough to be more than one step of a float for 30 virtual years
TURNS_AT_ONE_MOMENT_MAX = 1_000_000
TURNS_PER_COLLECTION = 1_000
TURNS_PER_FULL_COLLECTION = 20_000

log = logging.getLogger(__name__)


class Stuck(RuntimeError):
    """A simulation that cannot or may not go on; the message lists the tasks that have not ended."""

    def __init__(self, reason: str, loop: VirtualLoop) -> None:
        tasks = pending_tasks(loop)
        lines = "\n".join(f"  {_describe(task)}" for task in tasks) or "  (none)"
        super().__init__(f"{reason} at {loop.time():.6f} s; {len(tasks)} tasks have not ended:\n{lines}")


class Deadlock(Stuck):
    """Nothing is ready and no timer is set."""


class Livelock(Stuck):
    """Callbacks go on calling each other and no time passes."""


class Overrun(Stuck):
    """The virtual time that ``run`` allowed is over."""


class _Future(asyncio.Future[Any]):
    """A future whose hash is its number, so that sets of futures have one order."""

    def __init__(self, *, loop: VirtualLoop) -> None:
        self.serial = loop.next_serial()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.serial


class _Task(asyncio.Task[Any]):
    """A task whose hash and default name come from its number."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, loop: VirtualLoop, **options: Any) -> None:
        self.serial = loop.next_serial()
        super().__init__(coroutine, loop=loop, name=f"task-{self.serial}", **options)

    def __hash__(self) -> int:
        return self.serial


class _Selector:
    """Stands where the loop waits for sockets: it moves time on instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._turns = 0
        self._turns_at_this_moment = 0

    def select(self, timeout: float | None) -> list[object]:
        """Called once a turn; ``timeout`` is 0 if something is ready and None if there is no timer."""
        self._turns += 1
        if not gc.isenabled():
            if self._turns % TURNS_PER_FULL_COLLECTION == 0:
                gc.collect()
            elif self._turns % TURNS_PER_COLLECTION == 0:
                gc.collect(1)
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set", self._loop)
        if timeout > 0:
            self._turns_at_this_moment = 0
            self._loop.advance()
        else:
            self._turns_at_this_moment += 1
            if self._turns_at_this_moment > TURNS_AT_ONE_MOMENT_MAX:
                self._turns_at_this_moment = 0
                raise Livelock(f"{TURNS_AT_ONE_MOMENT_MAX} turns without any time passing", self._loop)
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. ``time()`` starts at 0; ready callbacks run first in, first out.

    ``run_in_executor`` runs the function inline in a later turn of the same moment, whatever the executor. Everything
    that needs the operating system (sockets, names, processes, signals) raises NotImplementedError.
    """

    _selector: _Selector
    _clock_resolution: float
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int, *, start_wall: float = START_WALL_S, limit_s: float | None = None) -> None:
        """``start_wall``: wall-clock seconds at time 0. ``limit_s``: going beyond this virtual time is an Overrun."""
        self._now = 0.0
        self._serial = 0
        super().__init__()
        self.seed = seed
        self.start_wall = start_wall
        self.limit_s = limit_s
        self.trace = Trace(self.time)
        self.unhandled: list[dict[str, Any]] = []
        """What reached the loop's exception handler; also logged."""
        self._clock_resolution = RESOLUTION_S
        self._selector = _Selector(self)
        self.set_task_factory(_make_task)
        self.set_exception_handler(_keep_unhandled)

    def randomness(self, label: str) -> SeededRandomness:
        """An own stream for each ``label``: what one part draws does not change what another gets."""
        drawn = hashlib.sha256(f"{self.seed}/{label}".encode()).digest()
        return SeededRandomness(int.from_bytes(drawn[:8], "big"))

    def time(self) -> float:
        return self._now

    def next_serial(self) -> int:
        """The number of the next task or future."""
        self._serial += 1
        return self._serial

    def advance(self) -> None:
        """To the earliest timer. Called by the selector only."""
        then = max(self._now, self._scheduled[0].when())
        if self.limit_s is not None and then > self.limit_s:
            limit, self.limit_s = self.limit_s, None  # what is cancelled now may need a little more time to end
            raise Overrun(f"the limit of {limit} virtual seconds is over", self)
        self._now = then

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        self.call_soon(_settle, future, func, args)
        return future

    def finish(self) -> None:
        """Cancels every task that is left, waits for their ends and closes. Call it outside of the loop, once."""
        try:
            tasks = pending_tasks(self)
            for task in tasks:
                task.cancel()
            if tasks:
                self.run_until_complete(asyncio.wait(tasks))
            for task in tasks:
                if not task.cancelled() and (error := task.exception()) is not None:
                    self.call_exception_handler(
                        {"message": "a cancelled task failed", "exception": error, "task": task}
                    )
            self.run_until_complete(self.shutdown_asyncgens())
            self.run_until_complete(asyncio.sleep(0))  # functions that were handed to an executor and not waited for
        finally:
            self.close()

    def _process_events(self, event_list: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    async def create_connection(self, *args: object, **options: object) -> NoReturn:
        _no_sockets()

    async def create_server(self, *args: object, **options: object) -> NoReturn:
        _no_sockets()

    async def create_datagram_endpoint(self, *args: object, **options: object) -> NoReturn:
        _no_sockets()

    async def getaddrinfo(self, *args: object, **options: object) -> NoReturn:
        _no_sockets()

    async def getnameinfo(self, *args: object, **options: object) -> NoReturn:
        _no_sockets()

    async def subprocess_exec(self, *args: object, **options: object) -> NoReturn:
        _no_sockets()

    async def subprocess_shell(self, *args: object, **options: object) -> NoReturn:
        _no_sockets()


def run(
    main: Callable[[VirtualLoop], Coroutine[Any, Any, T]],
    *,
    seed: int,
    start_wall: float = START_WALL_S,
    limit_s: float | None = None,
) -> T:
    """Runs ``main(loop)`` on a new loop, cancels what it left behind, closes the loop and gives its result.

    Like ``asyncio.run``: not from inside a running loop. ``main``'s own exception wins over one of the cleaning up.
    """
    library_state, collecting, frozen = random.getstate(), gc.isenabled(), gc.get_freeze_count()
    gc.collect()
    gc.disable()
    gc.freeze()  # what was there before need not be looked at again and again
    random.seed(seed)
    loop = VirtualLoop(seed, start_wall=start_wall, limit_s=limit_s)
    try:
        try:
            result = loop.run_until_complete(main(loop))
        except BaseException:
            with contextlib.suppress(Stuck):
                loop.finish()
            raise
        loop.finish()
        return result
    finally:
        random.setstate(library_state)
        if not frozen:
            gc.unfreeze()
        if collecting:
            gc.enable()


def pending_tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """The tasks that have not ended, in the order in which they were made."""
    return sorted(asyncio.all_tasks(loop), key=hash)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> _Task:
    assert isinstance(loop, VirtualLoop)
    task = _Task(coroutine, loop=loop, **options)
    owner = _OWNER.get()
    if owner is not None:
        owner.add(task)
        task.add_done_callback(owner.discard)
    return task


@contextlib.contextmanager
def owned_tasks(owner: set[asyncio.Task[Any]]) -> Iterator[None]:
    """Every task made inside, and by those tasks, and for connections to listeners opened inside, is in ``owner``
    while it runs: so that one simulated process can be ended."""
    token = _OWNER.set(owner)
    try:
        yield
    finally:
        _OWNER.reset(token)


def _keep_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    loop.unhandled.append(context)
    loop.default_exception_handler(context)


def _settle(future: asyncio.Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        return
    try:
        result = function(*args)
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _describe(task: asyncio.Task[Any]) -> str:
    """Name, coroutine, and the innermost line at which it waits."""
    coroutine: Any = task.get_coro()
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    while isinstance(inner := getattr(coroutine, "cr_await", None), CoroutineType):
        coroutine = inner
    frame = getattr(coroutine, "cr_frame", None)
    where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}" if frame is not None else "?"
    return f"{task.get_name()} {name}, at {where}"


def _no_sockets() -> NoReturn:
    raise NotImplementedError("the virtual loop has no sockets, names or processes; traffic goes through MemoryNetwork")
