"""Re-reads everything that the node keeps, again and again, slowly enough that nobody notices.

One pass takes a little less than ``period``. A blob that is wrong is read a second time before it is blamed, then
quarantined, and the coordinator hears of it at once (``Keeper.verify``). The position outlasts restarts. While others
are served, and while the disk answers slower than it usually does, it waits longer; a pass that has fallen behind waits
less, but never takes more than half of the disk's time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from holdfast import logs
from holdfast.blob import Digest
from holdfast.clock import Clock
from holdfast.errors import BadRequest, StorePoisoned, TooManyRequests, Unavailable
from holdfast.files import Files, read_file, write_file
from holdfast.node.keeper import Keeper
from holdfast.node.scrub_debt import Debt, debt
from holdfast.pool import Pool
from holdfast.worker import Progress

PAGE = 256
SAVE_EVERY_S = 300.0
BUSY_FACTOR = 4.0
"""While others are served, it waits for so many times as long as the last read took."""

WAIT_S_MAX = 3600.0
SMOOTHING = 0.1
PASS_SHARE = 0.9
"""Of the period: so much a pass takes when nothing holds it up, so that nothing is unread for longer."""
_BYTES_MAX = 4096

_log = logs.get_logger(__name__)


class _Saved(msgspec.Struct, forbid_unknown_fields=True):
    """``scrub.json``. ``after``: the last digest that was read, in hex; ``began``, ``finished``, ``before``
    (when the pass before began): slow seconds, below 0 for never. ``done``: blobs read in this pass, the last
    of them ``last``."""

    version: int = 1
    after: str = ""
    began: float = 0.0
    finished: float = -1.0
    before: float = -1.0
    done: int = 0
    last: float = -1.0


class Scrub:
    """``unit`` is a worker's unit, one blob each time; ``interval`` is told how long to wait before the next."""

    def __init__(
        self,
        keeper: Keeper,
        directory: Path,
        *,
        files: Files,
        pool: Pool,
        clock: Clock,
        slow_time: Callable[[], float],
        busy: Callable[[], int],
        interval: Callable[[float], None],
        period_s: float,
    ) -> None:
        """``busy``: requests of others under way."""
        self.checked = 0
        self.bad = 0
        self._keeper = keeper
        self._path = directory / "scrub.json"
        self._files = files
        self._pool = pool
        self._clock = clock
        self._slow_time = slow_time
        self._busy = busy
        self._interval = interval
        self._period_s = period_s
        self._saved: _Saved | None = None
        self._page: deque[Digest] = deque()
        self._usual: float | None = None  # seconds that a read usually takes
        self._written = 0.0

    def age(self) -> float | None:
        """Slow seconds since the last whole pass ended, None if there was none."""
        if self._saved is None or self._saved.finished < 0:
            return None
        return max(self._slow_time() - self._saved.finished, 0.0)

    def debt(self) -> Debt | None:
        """How long the longest unread blob waits, and what is overdue; None if nothing is here or known yet."""
        saved, ledger = self._saved, self._keeper.ledger
        if saved is None or not ledger.held_bytes:
            return None
        return debt(
            saved.done / max(self._count(), saved.done, 1),
            now=self._slow_time(),
            began=saved.began,
            before=saved.before,
            last=saved.last,
            period_s=self._period_s,
            held=ledger.held_bytes,
        )

    async def unit(self) -> Progress:
        """Reads the next blob again."""
        if self._saved is None:
            self._saved = await self._pool.run(self._load)
            self._written = self._clock.monotonic()
        saved = self._saved
        if not self._page:
            after = Digest.parse(saved.after) if saved.after else None
            listed = [info.digest for info in await self._keeper.store.list(after, PAGE)]
            await self._note_missing(after, listed)
            self._page.extend(listed)
            if not self._page:
                return await self._finish(saved)
        digest = self._page[0]
        began = self._clock.monotonic()
        try:
            state = await self._keeper.verify(digest)
        except (TooManyRequests, StorePoisoned):
            return Progress.THROTTLED
        except Unavailable as error:  # of this one nothing can be said now; the next pass asks again
            _log.warning("scrub_could_not_read", digest=str(digest), reason=error.detail)
            state = "missing"
        self._page.popleft()
        now = self._clock.monotonic()
        self.checked += 1
        saved.done += 1
        saved.last = self._slow_time()
        if state == "quarantined":
            self.bad += 1
            _log.error("scrub_found_damage", digest=str(digest))
        saved.after = str(digest)
        if now - self._written >= SAVE_EVERY_S:
            self._written = now
            await self._pool.run(self._save, saved)
        self._interval(self._wait(now - began))
        return Progress.IDLE

    async def _note_missing(self, after: Digest | None, listed: list[Digest]) -> None:
        """Rows of this page whose blob is gone: nobody has read it, so nobody has missed it yet."""
        last = listed[-1] if len(listed) == PAGE else None
        held = set(listed)
        for digest in await self._keeper.ledger.span(after, last):
            if digest not in held and await self._keeper.forget(digest):
                self.bad += 1
                _log.error("scrub_found_damage", digest=str(digest), reason="it is gone")

    async def _finish(self, saved: _Saved) -> Progress:
        now = self._slow_time()
        if saved.after:
            _log.info("scrub_finished", blobs=saved.done, bad=self.bad)
        saved.after, saved.finished = "", now
        left = PASS_SHARE * self._period_s - (now - saved.began)
        saved.before, saved.began, saved.done = saved.began, now, 0
        await self._pool.run(self._save, saved)
        self._interval(min(max(left, 60.0), WAIT_S_MAX))
        return Progress.IDLE

    def _wait(self, took: float) -> float:
        """Seconds until the next blob."""
        usual = took if self._usual is None else self._usual
        self._usual = usual + (took - usual) * SMOOTHING
        period_s = PASS_SHARE * self._period_s
        share = period_s / max(self._count(), 1)  # what each blob may take of the period
        assert self._saved is not None, "unit() has loaded it"
        place = int(self._saved.after[:8] or "0", 16) / 0xFFFFFFFF  # digests are spread evenly
        late = self._slow_time() - self._saved.began > place * period_s
        wait = max(share * (0.5 if late else 1.0) - took, took)
        if self._busy() or took > 2 * usual:
            wait = max(wait, took * BUSY_FACTOR)
        return min(wait, WAIT_S_MAX)

    def _count(self) -> int:
        """Blobs here, for vaults, manifests and in the cache."""
        ledger = self._keeper.ledger
        return ledger.roots.count + sum(count for count, _ in ledger.shared.values())

    def _load(self) -> _Saved:
        """As saved; a file that is gone or damaged costs one pass begun anew."""
        fresh = _Saved(began=self._slow_time())
        try:
            data = read_file(self._files, self._path, _BYTES_MAX)
            saved = fresh if data is None else msgspec.json.decode(data, type=_Saved)
            if saved.after:
                Digest.parse(saved.after)
        except (OSError, ValueError, BadRequest, msgspec.MsgspecError) as error:
            _log.warning("scrub_position_lost", reason=str(error))
            return fresh
        return saved

    def _save(self, saved: _Saved) -> None:
        try:
            write_file(self._files, self._path, msgspec.json.encode(saved) + b"\n")
        except OSError as error:
            _log.warning("scrub_position_not_saved", reason=str(error))
