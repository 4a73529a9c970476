"""The tables of ``queue.db`` (docs/formats.md, Outbox at rest): each question of the queue has its index.

A new entry costs three pages: its row, its place among the ready ones and its name. So those that wait are in no
index by state (they lie in their order anyhow), and they are counted many at a time.
"""

from __future__ import annotations

from holdfast.outbox.entry import DeliveryClass

MAGIC = 0x68666F62  # "hfob", SQLite's application id
VERSION = 2

KEY_BYTES = 16
"""Of each tag in the column ``keys``, one after another."""
PACKS = 100
"""The row of ``counts`` in which packs are counted."""
UNCOUNTED_MAX = 64
"""New entries that are in no count yet: a page less to write for each of them."""

TABLES = """
CREATE TABLE wrap (number INTEGER PRIMARY KEY CHECK (number = 1), salt BLOB NOT NULL, wrapped BLOB NOT NULL) STRICT;
CREATE TABLE entries (
  sequence INTEGER PRIMARY KEY,
  id BLOB NOT NULL,
  state INTEGER NOT NULL,
  class INTEGER NOT NULL,
  kind TEXT NOT NULL,
  size INTEGER NOT NULL,
  stored INTEGER NOT NULL,
  filed INTEGER NOT NULL,
  theirs INTEGER NOT NULL,
  theirs_process BLOB,
  begun INTEGER NOT NULL,
  tries INTEGER NOT NULL,
  reached INTEGER NOT NULL,
  next_try REAL NOT NULL,
  patient INTEGER NOT NULL,
  behind INTEGER NOT NULL,
  target BLOB NOT NULL,
  keys BLOB NOT NULL,
  process BLOB NOT NULL,
  claim BLOB,
  boot BLOB,
  claim_until REAL,
  sealed BLOB NOT NULL,
  progress BLOB,
  body BLOB
) STRICT;
CREATE INDEX entries_ready ON entries (kind, target, next_try, sequence)
  WHERE state <= 1 AND behind = 0 AND claim IS NULL;
CREATE INDEX entries_claimed ON entries (claim) WHERE claim IS NOT NULL;
CREATE INDEX entries_moderate ON entries (process) WHERE class = 1;
CREATE UNIQUE INDEX entries_filed ON entries (id) WHERE filed != 0 OR theirs != 0;
CREATE TABLE names (key BLOB NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (key, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE last (key BLOB PRIMARY KEY, sequence INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX last_by_sequence ON last (sequence);
CREATE TABLE packs (digest BLOB PRIMARY KEY, size INTEGER NOT NULL, process BLOB NOT NULL, facts BLOB)
  STRICT, WITHOUT ROWID;
CREATE TABLE needs (sequence INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (sequence, digest))
  STRICT, WITHOUT ROWID;
CREATE INDEX needs_by_digest ON needs (digest);
"""

COUNT = """
INSERT INTO counts SELECT state, class, count(*), sum(stored) FROM entries
  WHERE sequence > (SELECT newest FROM counted) GROUP BY state, class
  ON CONFLICT DO UPDATE SET entries = entries + excluded.entries, stored = stored + excluded.stored;
UPDATE counted SET newest = max(newest, (SELECT ifnull(max(sequence), 0) FROM entries));
"""
"""Counts what is above ``counted.newest``. Whatever changes or goes is counted first, so nothing else moves ``newest``
and no sequence is used twice."""

COUNTS = f"""
CREATE INDEX entries_tried ON entries (state, sequence) WHERE state != 0;
CREATE TABLE counts (state INTEGER NOT NULL, class INTEGER NOT NULL, entries INTEGER NOT NULL, stored INTEGER NOT NULL,
  PRIMARY KEY (state, class)) STRICT, WITHOUT ROWID;
CREATE TABLE counted (number INTEGER PRIMARY KEY CHECK (number = 1), newest INTEGER NOT NULL) STRICT;
INSERT INTO counted VALUES (1, 0);
CREATE TRIGGER entries_going BEFORE DELETE ON entries WHEN old.sequence > (SELECT newest FROM counted) BEGIN {COUNT}
END;
CREATE TRIGGER entries_moving BEFORE UPDATE OF state, stored ON entries
  WHEN old.sequence > (SELECT newest FROM counted) BEGIN {COUNT}
END;
CREATE TRIGGER entries_out AFTER DELETE ON entries BEGIN
  UPDATE counts SET entries = entries - 1, stored = stored - old.stored WHERE state = old.state AND class = old.class;
END;
CREATE TRIGGER entries_moved AFTER UPDATE OF state, stored ON entries
  WHEN old.state != new.state OR old.stored != new.stored BEGIN
  UPDATE counts SET entries = entries - 1, stored = stored - old.stored WHERE state = old.state AND class = old.class;
  INSERT INTO counts VALUES (new.state, new.class, 1, new.stored)
    ON CONFLICT DO UPDATE SET entries = entries + 1, stored = stored + excluded.stored;
END;
CREATE TRIGGER packs_in AFTER INSERT ON packs BEGIN
  INSERT INTO counts VALUES ({PACKS}, 0, 1, new.size)
    ON CONFLICT DO UPDATE SET entries = entries + 1, stored = stored + excluded.stored;
END;
CREATE TRIGGER packs_out AFTER DELETE ON packs BEGIN
  UPDATE counts SET entries = entries - 1, stored = stored - old.size WHERE state = {PACKS};
END;
"""  # noqa: S608 - our own words

FROM_1 = f"""
DROP TRIGGER entries_in; DROP TRIGGER entries_out; DROP TRIGGER entries_moved; DROP TRIGGER packs_in;
DROP TRIGGER packs_out; DROP INDEX entries_by_state;
{COUNTS}
INSERT INTO counts SELECT state, class, entries, stored FROM totals;
UPDATE counted SET newest = (SELECT ifnull(max(newest), 0) FROM totals);
DROP TABLE totals;
"""  # noqa: S608 - our own words
"""A queue of version 1; a process that still has one open is refused by it from then on."""

assert int(DeliveryClass.MODERATE) == 1, "entries_moderate says so"
