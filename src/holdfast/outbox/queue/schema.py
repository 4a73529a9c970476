"""The tables of ``queue.db`` (docs/formats.md, Outbox at rest): each question of the queue has its index."""

from __future__ import annotations

from holdfast.outbox.entry import DeliveryClass

MAGIC = 0x68666F62  # "hfob", SQLite's application id
VERSION = 1

KEY_BYTES = 16
"""Of each tag in the column ``keys``, one after another."""
PACKS = 100
"""The row of ``totals`` in which packs are counted."""

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
CREATE INDEX entries_by_state ON entries (state, sequence);
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
CREATE TABLE totals (state INTEGER NOT NULL, class INTEGER NOT NULL, entries INTEGER NOT NULL, stored INTEGER NOT NULL,
  newest INTEGER NOT NULL, PRIMARY KEY (state, class)) STRICT, WITHOUT ROWID;
CREATE TRIGGER entries_in AFTER INSERT ON entries BEGIN
  INSERT INTO totals VALUES (new.state, new.class, 1, new.stored, new.sequence)
    ON CONFLICT DO UPDATE SET entries = entries + 1, stored = stored + excluded.stored, newest = excluded.newest;
END;
CREATE TRIGGER entries_out AFTER DELETE ON entries BEGIN
  UPDATE totals SET entries = entries - 1, stored = stored - old.stored WHERE state = old.state AND class = old.class;
END;
CREATE TRIGGER entries_moved AFTER UPDATE OF state, stored ON entries
  WHEN old.state != new.state OR old.stored != new.stored BEGIN
  UPDATE totals SET entries = entries - 1, stored = stored - old.stored WHERE state = old.state AND class = old.class;
  INSERT INTO totals VALUES (new.state, new.class, 1, new.stored, 0)
    ON CONFLICT DO UPDATE SET entries = entries + 1, stored = stored + excluded.stored;
END;
CREATE TRIGGER packs_in AFTER INSERT ON packs BEGIN
  INSERT INTO totals VALUES (100, 0, 1, new.size, 0)
    ON CONFLICT DO UPDATE SET entries = entries + 1, stored = stored + excluded.stored;
END;
CREATE TRIGGER packs_out AFTER DELETE ON packs BEGIN
  UPDATE totals SET entries = entries - 1, stored = stored - old.size WHERE state = 100;
END;
"""

assert int(DeliveryClass.MODERATE) == 1, "entries_moderate says so"
