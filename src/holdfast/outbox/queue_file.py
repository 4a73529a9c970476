"""``queue.db``: the rows of one outbox, in one SQLite file that several processes may have open (docs/formats.md).

Everything here blocks and runs in the queue's one thread. Writes happen inside ``change``: one immediate transaction
with synchronous FULL. Nothing at start or in delivery scans the table: each question has its index, and counts are
kept by triggers.

Order: ``names`` holds, for each key, the sequences that wait in it; ``behind`` of an entry counts the keys in which
another one stands before it. Only entries with ``behind`` 0 may be claimed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from holdfast.blob import Digest
from holdfast.clock import Randomness
from holdfast.errors import BadConfig, BadRequest, Corrupt, NoSpace, NotFound, StorePoisoned, Unavailable
from holdfast.files import Files
from holdfast.outbox import sealing
from holdfast.outbox.entry import DeliveryClass, State
from holdfast.outbox.next_step import ENTRY_BACKOFF_S_MAX, Lane, LaneView
from holdfast.outbox.outcomes import RETRY_AFTER_S_MAX
from holdfast.outbox.queue_rows import Fresh, PackRow, Row, Total
from holdfast.outbox.queue_schema import MAGIC, PACKS, TABLES, VERSION
from holdfast.outbox.sealing import Seals

BUSY_MS = 10_000
CACHE_KIB = 8 << 10
LAST_MAX = 100_000
FUTURE_S = RETRY_AFTER_S_MAX + ENTRY_BACKOFF_S_MAX
"""No honest next try is further away: one that is was set by another clock, and is due."""

_COLUMNS = ", ".join("class" if name == "delivery_class" else name for name in Row._fields)
_READY = "state <= 1 AND behind = 0 AND claim IS NULL"
_BLOCKING = (State.WAITING, State.DEFERRED, State.CONFLICT)
_BROKEN = (apsw.IOError, apsw.ReadOnlyError)


T = TypeVar("T")


class QueueFile:
    """The database. Use from one thread at a time."""

    def __init__(self, path: Path, files: Files, seed: bytes, randomness: Randomness) -> None:
        """Opens or makes it. Denied for another ``seed``, Corrupt or BadConfig for a file that is none."""
        self.path = path
        with _translated(path):
            if files.size(path) is None:
                with contextlib.suppress(FileExistsError):
                    files.close(files.create(path))  # made here so that its mode is 0600
                files.sync_directory(path.parent)
            self._db = apsw.Connection(os.fspath(path))
            try:
                self._prepare()
                with self.change():
                    self._begin_new(seed, randomness)
                self.seals = self._unsealed(seed, randomness)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        self._db.set_busy_timeout(BUSY_MS)
        self._db.pragma("journal_mode", "wal")
        self._db.pragma("synchronous", "full")
        self._db.pragma("cache_size", -CACHE_KIB)
        self._db.pragma("temp_store", 2)

    def _begin_new(self, seed: bytes, randomness: Randomness) -> None:
        magic, version = self._db.pragma("application_id"), self._db.pragma("user_version")
        if (magic, version) == (0, 0) and not self._db.execute("SELECT 1 FROM sqlite_schema").fetchall():
            self._db.execute(TABLES)
            self._db.execute(
                "INSERT INTO wrap VALUES (1, ?, ?)",
                sealing.wrap(randomness.bytes(sealing.KEY_BYTES), seed, randomness),
            )
            self._db.pragma("application_id", MAGIC)
            self._db.pragma("user_version", VERSION)
        elif magic != MAGIC:
            raise BadConfig(f"{self.path} is not an outbox; nothing in it was changed")
        elif version != VERSION:
            raise BadConfig(f"{self.path} was written by another holdfast (version {version}, not {VERSION})")

    def _unsealed(self, seed: bytes, randomness: Randomness) -> Seals:
        found = self._db.execute("SELECT salt, wrapped FROM wrap").fetchone()
        if found is None:
            raise Corrupt(f"{self.path} has lost the record of its key; nothing in it was changed or deleted")
        return Seals(sealing.unwrap(found[0], found[1], seed, str(self.path.parent)), randomness)

    def rewrap(self, old: bytes, new: bytes, randomness: Randomness) -> None:
        """The device has another key now. Denied if ``old`` is not the one it had; inside ``change``."""
        ((salt, wrapped),) = self._db.execute("SELECT salt, wrapped FROM wrap").fetchall()
        key = sealing.unwrap(_bytes(salt), _bytes(wrapped), old, str(self.path.parent))
        self._db.execute("UPDATE wrap SET salt = ?, wrapped = ?", sealing.wrap(key, new, randomness))

    def asked(self, question: Callable[[], T]) -> T:
        """``question()`` with the database's errors as ours."""
        with _translated(self.path):
            return question()

    def close(self) -> None:
        """May be called twice."""
        self._db.close()

    # --- writing ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def change(self, *, durable: bool = True) -> Iterator[None]:
        """One transaction. ``durable`` False: may be lost in a power cut, not in a crash; for claims."""
        with _translated(self.path):
            if not durable:
                self._db.pragma("synchronous", "normal")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    if not self._db.get_autocommit():
                        self._db.execute("ROLLBACK")
                    raise
            finally:
                if not durable:
                    self._db.pragma("synchronous", "full")

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """Inside ``change``: what is done here is undone if it raises."""
        self._db.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if not self._db.get_autocommit():  # some errors end the whole transaction
                self._db.execute("ROLLBACK TO part; RELEASE part")
            raise
        self._db.execute("RELEASE part")

    def ended(self) -> bool:
        """Did an error end the transaction?"""
        return self._db.get_autocommit()

    def add(self, fresh: Fresh, process: bytes, packs: Sequence[tuple[Digest, int]]) -> int:
        """Returns its sequence. ``packs``: those of its needs that this process has just stored, with their sizes."""
        self._db.execute(
            "INSERT INTO entries (id, state, class, kind, size, stored, filed, theirs, begun, tries, reached, "
            "next_try, patient, behind, target, process, sealed, body) "
            "VALUES (?, 0, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0.0, 0, 0, ?, ?, ?, ?)",
            (
                fresh.id, int(fresh.delivery_class), fresh.kind, fresh.size, fresh.stored, int(fresh.filed),
                fresh.target, process, fresh.sealed, fresh.body,
            ),
        )  # fmt: skip
        sequence = self._db.last_insert_rowid()
        self._db.executemany(
            "INSERT OR IGNORE INTO packs (digest, size, process) VALUES (?, ?, ?)",
            [(bytes(digest), size, process) for digest, size in packs],
        )
        for digest in fresh.needs:
            if not self._db.execute("SELECT 1 FROM packs WHERE digest = ?", (bytes(digest),)).fetchall():
                raise NotFound(f"the outbox does not hold the pack {digest}")
            self._db.execute("INSERT OR IGNORE INTO needs VALUES (?, ?)", (sequence, bytes(digest)))
        self._enter(sequence, fresh.keys)
        return sequence

    def claim(
        self, lane: Lane, limit: int, *, process: bytes, boot: bytes, now: float, until: float
    ) -> list[tuple[Row, bytes | None]]:
        """Up to ``limit`` due entries of the lane, now this process's, with their inline bodies."""
        kind, target = lane
        sequences: list[Any] = []
        for condition, values in (
            ("next_try <= ?", (now,)),
            ("next_try > ?", (now + FUTURE_S,)),
        ):
            left = limit - len(sequences)
            if left > 0:
                sequences += self._db.execute(
                    f"SELECT sequence FROM entries WHERE kind = ? AND target = ? AND {_READY} AND {condition} "  # noqa: S608
                    "ORDER BY next_try, sequence LIMIT ?",
                    (kind, target, *values, left),
                ).fetchall()
        found = []
        for (sequence,) in sequences:
            self._db.execute(
                "UPDATE entries SET claim = ?, boot = ?, claim_until = ?, begun = begun + 1 WHERE sequence = ?",
                (process, boot, until, sequence),
            )
            found.append((self._row(sequence), self.body(sequence)))
        return found

    def renew(self, sequences: Iterable[int], *, process: bytes, until: float) -> None:
        self._db.executemany(
            "UPDATE entries SET claim_until = ? WHERE sequence = ? AND claim = ?",
            [(until, sequence, process) for sequence in sequences],
        )

    def release(self, *, dead: Callable[[bytes], bool], process: bytes, boot: bytes, now: float) -> int:
        """Frees entries whose claimer is dead, of another boot, or silent for its lease; how many."""
        freed = 0
        for (claim,) in self._distinct("claim", "claim IS NOT NULL"):
            if claim == process:
                continue
            rows: Sequence[Any] = self._db.execute(
                "SELECT sequence, boot, claim_until FROM entries WHERE claim = ?", (claim,)
            ).fetchall()
            gone = dead(claim)
            for sequence, its_boot, until in rows:
                if gone or its_boot != boot or until < now:
                    self.unclaim(sequence, claim)
                    freed += 1
        return freed

    def unclaim(self, sequence: int, process: bytes) -> None:
        """Gives an entry back untried."""
        self._db.execute(
            "UPDATE entries SET claim = NULL, boot = NULL, claim_until = NULL WHERE sequence = ? AND claim = ?",
            (sequence, process),
        )

    def held_by(self, sequence: int, process: bytes) -> bool:
        """Does ``process`` still have the claim?"""
        return bool(
            self._db.execute("SELECT 1 FROM entries WHERE sequence = ? AND claim = ?", (sequence, process)).fetchall()
        )

    def defer(self, sequence: int, *, next_try: float, reached: bool, patient: bool, progress: bytes | None) -> None:
        self._db.execute(
            "UPDATE entries SET state = ?, tries = tries + 1, reached = reached + ?, next_try = ?, patient = ?, "
            "progress = ?, claim = NULL, boot = NULL, claim_until = NULL WHERE sequence = ?",
            (int(State.DEFERRED), int(reached), next_try, int(patient), progress, sequence),
        )

    def park(
        self, sequence: int, state: State, *, tried: bool, reached: bool, progress: bytes | None,
        theirs: int = 0, process: bytes | None = None,
    ) -> None:  # fmt: skip
        """To a state that only a person ends. All but conflicts let the next of their keys go on.

        ``theirs``: stored bytes of the other side's content, in a file of ``process``.
        """
        self._db.execute(
            "UPDATE entries SET state = ?, tries = tries + ?, reached = reached + ?, progress = ?, theirs = ?, "
            "theirs_process = ?, stored = stored + ? - theirs, claim = NULL, boot = NULL, claim_until = NULL "
            "WHERE sequence = ?",
            (int(state), int(tried), int(reached), progress, theirs, process, theirs, sequence),
        )
        if state not in _BLOCKING:
            self._leave(sequence)

    def damage(self, sequences: Iterable[int]) -> None:
        """Their records cannot be opened: put aside as they are."""
        for sequence in sequences:
            self._db.execute(
                "UPDATE entries SET state = ?, claim = NULL, boot = NULL, claim_until = NULL WHERE sequence = ?",
                (int(State.DAMAGED), sequence),
            )
            self._leave(sequence)

    def remove(self, sequence: int) -> list[str]:
        """The entry is delivered or dropped; returns the files that nobody needs any more."""
        row = self._row(sequence)
        names = [row.file_name()] * bool(row.filed) + [row.theirs_name()] * bool(row.theirs)
        self._leave(sequence)
        digests = self._db.execute("SELECT digest FROM needs WHERE sequence = ?", (sequence,)).fetchall()
        self._db.execute("DELETE FROM needs WHERE sequence = ?", (sequence,))
        for (digest,) in digests:
            pack = self.pack(Digest(_bytes(digest)))
            if pack is not None and not pack.needed:
                self._db.execute("DELETE FROM packs WHERE digest = ?", (digest,))
                names.append(pack.file_name())
        self._db.execute("DELETE FROM entries WHERE sequence = ?", (sequence,))
        return names

    def set_waiting(self, sequence: int) -> None:
        """A person says: again, now. It takes its old place in its keys if it still stands in them."""
        self._db.execute(
            "UPDATE entries SET state = ?, next_try = 0.0, patient = 0 WHERE sequence = ?",
            (int(State.WAITING), sequence),
        )

    def set_record(self, sequence: int, sealed: bytes, target: bytes) -> None:
        self._db.execute("UPDATE entries SET sealed = ?, target = ? WHERE sequence = ?", (sealed, target, sequence))

    def set_progress(self, sequence: int, progress: bytes | None) -> None:
        self._db.execute("UPDATE entries SET progress = ? WHERE sequence = ?", (progress, sequence))

    def drop_theirs(self, sequence: int) -> list[str]:
        """What was kept of the other side goes; returns its file."""
        row = self._row(sequence)
        if not row.theirs:
            return []
        self._db.execute("UPDATE entries SET stored = stored - theirs, theirs = 0 WHERE sequence = ?", (sequence,))
        return [row.theirs_name()]

    def wake(self, lane: Lane, now: float) -> None:
        """All that was deferred on the lane is due now, but for what the target asked to wait."""
        self._db.execute(
            f"UPDATE entries SET next_try = ? WHERE kind = ? AND target = ? AND {_READY} AND next_try > ? "  # noqa: S608
            "AND patient = 0",
            (now, *lane, now),
        )

    def remember(self, key: bytes, sequence: int, sealed: bytes) -> None:
        """What the delivery of ``sequence`` left at a key; of about the newest ``LAST_MAX`` entries."""
        self._db.execute("INSERT OR REPLACE INTO last VALUES (?, ?, ?)", (key, sequence, sealed))
        self._db.execute(
            "DELETE FROM last WHERE sequence < (SELECT max(sequence) FROM last) - ? "
            "AND sequence = (SELECT min(sequence) FROM last)",
            (LAST_MAX,),
        )

    def last(self, key: bytes) -> bytes | None:
        found = self._db.execute("SELECT sealed FROM last WHERE key = ?", (key,)).fetchone()
        return None if found is None else _bytes(found[0])

    def set_pack_facts(self, digest: Digest, facts: bytes) -> None:
        self._db.execute("UPDATE packs SET facts = ? WHERE digest = ?", (facts, bytes(digest)))

    # --- order within keys --------------------------------------------------------------------------------------------

    def successors(self, sequence: int) -> list[Row]:
        """The entries that stand right behind it in one of its keys."""
        found: Sequence[Any] = self._db.execute(
            "SELECT (SELECT min(b.sequence) FROM names b WHERE b.key = n.key AND b.sequence > n.sequence) "
            "FROM names n WHERE n.sequence = ?",
            (sequence,),
        ).fetchall()
        return [self._row(next_) for next_ in sorted({next_ for (next_,) in found if next_ is not None})]

    def _enter(self, sequence: int, keys: Iterable[bytes]) -> None:
        """Stands in its keys, by sequence; may be called for one that stands there already."""
        for key in sorted(set(keys)):
            ((head,),) = self._db.execute("SELECT min(sequence) FROM names WHERE key = ?", (key,)).fetchall()
            self._db.execute("INSERT OR IGNORE INTO names VALUES (?, ?)", (key, sequence))
            if not self._db.changes() or head is None:
                continue
            later = max(sequence, head)
            self._db.execute("UPDATE entries SET behind = behind + 1 WHERE sequence = ?", (later,))

    def _leave(self, sequence: int) -> None:
        """Stands in no key any more; whoever was next in one moves up."""
        keys = self._db.execute("SELECT key FROM names WHERE sequence = ?", (sequence,)).fetchall()
        for (key,) in keys:
            ((head,),) = self._db.execute("SELECT min(sequence) FROM names WHERE key = ?", (key,)).fetchall()
            self._db.execute("DELETE FROM names WHERE key = ? AND sequence = ?", (key, sequence))
            if head == sequence:
                self._db.execute(
                    "UPDATE entries SET behind = behind - 1 "
                    "WHERE sequence = (SELECT min(sequence) FROM names WHERE key = ?)",
                    (key,),
                )
        self._db.execute("UPDATE entries SET behind = 0 WHERE sequence = ?", (sequence,))

    def re_enter(self, sequence: int, keys: Iterable[bytes]) -> None:
        """Leaves the keys it stands in and enters these, by its sequence; Unavailable while one of them is under way:
        two of a key never are."""
        keys = list(keys)
        for key in keys:
            if self._db.execute(
                "SELECT 1 FROM names n JOIN entries e USING (sequence) WHERE n.key = ? AND e.claim IS NOT NULL", (key,)
            ).fetchall():
                raise Unavailable("another entry for the same name is being delivered just now; try again in a moment")
        self._leave(sequence)
        self._enter(sequence, keys)

    # --- asked --------------------------------------------------------------------------------------------------------

    def lanes(self, kinds: Iterable[str], now: float, most: int) -> dict[Lane, LaneView]:
        """The targets with entries that are not blocked: how many are due (up to ``most``), when the next one is."""
        found: dict[Lane, LaneView] = {}
        for kind in kinds:
            target = b""
            while True:
                ((target_found,),) = self._db.execute(
                    f"SELECT min(target) FROM entries WHERE kind = ? AND target > ? AND {_READY}",  # noqa: S608
                    (kind, target),
                ).fetchall()
                if target_found is None:
                    break
                target = _bytes(target_found)
                found[kind, target] = self._lane(kind, target, now, most)
        return found

    def _lane(self, kind: str, target: bytes, now: float, most: int) -> LaneView:
        due = 0
        soonest: float | None = None
        for condition, values in (("next_try <= ?", (now,)), ("next_try > ?", (now + FUTURE_S,))):
            ((count,),) = self._db.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM entries WHERE kind = ? AND target = ? AND {_READY} "  # noqa: S608
                f"AND {condition} LIMIT ?)",
                (kind, target, *values, most),
            ).fetchall()
            due += _int(count)
        ((next_,),) = self._db.execute(
            f"SELECT min(next_try) FROM entries WHERE kind = ? AND target = ? AND {_READY} AND next_try > ?",  # noqa: S608
            (kind, target, now),
        ).fetchall()
        if isinstance(next_, float):
            soonest = min(next_ - now, FUTURE_S)
        return LaneView(min(due, most), soonest)

    def row(self, sequence: int) -> Row:
        """NotFound if there is none."""
        return self._row(sequence)

    def body(self, sequence: int) -> bytes | None:
        """The inline body, sealed."""
        found = self._db.execute("SELECT body FROM entries WHERE sequence = ?", (sequence,)).fetchone()
        return None if found is None or found[0] is None else _bytes(found[0])

    def page(self, after: int, limit: int, states: Sequence[State] | None) -> list[Row]:
        """Entries above sequence ``after``, ascending; of these states only, if given."""
        with _translated(self.path):
            if states is None:
                rows = self._select("sequence > ? ORDER BY sequence LIMIT ?", (after, limit))
            else:
                rows = []
                for state in states:  # each by its index; together they are at most a few pages
                    rows += self._select(
                        "state = ? AND sequence > ? ORDER BY sequence LIMIT ?", (int(state), after, limit)
                    )
                rows = sorted(rows)[:limit]
            return rows

    def is_first(self, sequence: int) -> bool:
        """Does nothing stand before it in any of its keys?"""
        return bool(self._db.execute("SELECT 1 FROM entries WHERE sequence = ? AND behind = 0", (sequence,)).fetchall())

    def of_key(self, key: bytes) -> list[Row]:
        """The entries that stand in a key, in order."""
        found: Sequence[Any] = self._db.execute(
            "SELECT sequence FROM names WHERE key = ? ORDER BY sequence", (key,)
        ).fetchall()
        return [self._row(sequence) for (sequence,) in found]

    def needs(self, sequence: int) -> tuple[Digest, ...]:
        found = self._db.execute("SELECT digest FROM needs WHERE sequence = ?", (sequence,)).fetchall()
        return tuple(Digest(_bytes(digest)) for (digest,) in found)

    def pack(self, digest: Digest) -> PackRow | None:
        found = self._db.execute("SELECT size, process, facts FROM packs WHERE digest = ?", (bytes(digest),)).fetchone()
        if found is None:
            return None
        ((needed,),) = self._db.execute("SELECT count(*) FROM needs WHERE digest = ?", (bytes(digest),)).fetchall()
        size, process, facts = found
        return PackRow(digest, _int(size), _bytes(process), None if facts is None else _bytes(facts), _int(needed))

    def totals(self) -> list[Total]:
        rows: Sequence[Any] = self._db.execute("SELECT state, class, entries, stored FROM totals").fetchall()
        return [
            Total(
                None if state == PACKS else State(state),
                None if state == PACKS else DeliveryClass(class_),
                entries,
                stored,
            )
            for state, class_, entries, stored in rows
        ]

    def oldest(self) -> Row | None:
        """Of those that are still to be delivered."""
        rows = [
            row
            for state in (State.WAITING, State.DEFERRED)
            for row in self._select("state = ? ORDER BY sequence LIMIT 1", (int(state),))
        ]
        return min(rows, default=None)

    def moderate_of(self, dead: Callable[[bytes], bool]) -> list[int]:
        """Moderate entries of processes that are gone."""
        found: list[int] = []
        condition = f"class = {DeliveryClass.MODERATE:d}"
        for (process,) in self._distinct("process", condition):
            if dead(process):
                rows: Sequence[Any] = self._db.execute(
                    f"SELECT sequence FROM entries WHERE {condition} AND process = ?",  # noqa: S608
                    (process,),
                ).fetchall()
                found += [sequence for (sequence,) in rows]
        return found

    def is_named(self, name: str) -> bool:
        """Does a row name this file of the bodies?"""
        process, _, rest = name.partition("-")
        try:
            if rest.endswith(".pack"):
                pack = self.pack(Digest.parse(rest.removesuffix(".pack")))
                return pack is not None and pack.file_name() == name
            owner, size = ("theirs_process", "theirs") if rest.endswith(".theirs") else ("process", "filed")
            values = (bytes.fromhex(rest.removesuffix(".theirs")), bytes.fromhex(process))
        except (ValueError, BadRequest):
            return True  # not ours: leave it
        found = self._db.execute(
            f"SELECT 1 FROM entries WHERE id = ? AND {owner} = ? AND {size} != 0 AND (filed != 0 OR theirs != 0)",  # noqa: S608
            values,
        ).fetchone()
        return found is not None

    def _distinct(self, column: str, condition: str) -> Iterator[tuple[bytes]]:
        """The different values of an indexed column, by jumps and not by a scan."""
        value: Any = b""
        while True:
            ((value,),) = self._db.execute(
                f"SELECT min({column}) FROM entries WHERE {condition} AND {column} > ?",  # noqa: S608
                (value,),
            ).fetchall()
            if value is None:
                return
            yield (value,)

    def _row(self, sequence: Any) -> Row:
        rows = self._select("sequence = ?", (sequence,))
        if not rows:
            raise NotFound(f"the outbox has no entry {sequence}")
        return rows[0]

    def _select(self, condition: str, values: tuple[Any, ...]) -> list[Row]:
        rows: Sequence[Any] = self._db.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE {condition}",  # noqa: S608
            values,
        ).fetchall()
        return [Row(*row) for row in rows]


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.FullError as error:
        raise NoSpace(f"the disk of {path.parent} is full; earlier entries of the outbox are safe") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Corrupt(f"{path} is damaged ({error}); nothing in it was deleted") from error
    except _BROKEN as error:
        raise StorePoisoned(f"{path} cannot be written ({error}); look at the disk, then start again") from error
    except apsw.CantOpenError as error:
        raise BadConfig(f"{path} cannot be opened: {error}") from error
    except apsw.Error as error:
        raise Unavailable(f"the outbox {path} cannot be used now: {error}") from error


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes), "STRICT tables keep their types"
    return value


def _int(value: object) -> int:
    assert isinstance(value, int), "STRICT tables keep their types"
    return value
