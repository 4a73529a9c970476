"""Recovery's merge of names: every reflog blob that was found, in any order; the highest version of a name counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.codec.reflog import LoggedRef, Reflog
from holdfast.codec.refs import RefKind, etag, parse_keep_list, parse_record
from holdfast.metadata import queries_packs, queries_recovery, queries_refs
from holdfast.metadata.tables import PackState


@dataclass(slots=True)
class _Version:
    """One state of a name. ``rank``: of two with one version the higher counts."""

    version: int
    rank: tuple[int, int]
    record: bytes
    keep: Digest
    committed: float
    commit: int


def merge_refs(
    connection: Connection, logs: Sequence[Reflog], vaults: Mapping[Id, int], target: int, *, until: float, due: float
) -> int:
    """Names as the highest version tells them; the others are history. How many names the logs tell of.

    ``until``: slow seconds at which what is history goes; ``due``: at which a deleted name is only a version.
    """
    lists: dict[Digest, bytes] = {Digest.of(data): data for log in logs for data in log.keeps}
    names: defaultdict[tuple[int, bytes], dict[Digest, _Version]] = defaultdict(dict)
    targets: dict[Digest, int] = {}
    for log in logs:
        for ref in log.refs:
            parsed = parse_record(ref.record)
            vault = vaults.get(parsed.clear.vault)
            if vault is None:
                continue
            names[vault, parsed.clear.name_tag][etag(ref.record)] = _version(log, ref, parsed.keep)
            for digest in parse_keep_list(lists[parsed.keep]):
                targets[digest] = max(targets.get(digest, target), parsed.clear.survive + 1)
    by_vault: defaultdict[int, list[bytes]] = defaultdict(list)
    for vault, tag in names:
        by_vault[vault].append(tag)
    for vault, tags in by_vault.items():
        for row in queries_refs.refs_by_tag(connection, vault, tags):
            found = _Version(row.version, (0, 0), row.record, Digest(row.keep_digest), row.committed, row.commit_number)
            if names[vault, row.tag].setdefault(Digest(row.etag), found) is not found:
                names[vault, row.tag][Digest(row.etag)].commit = row.commit_number  # it is known already
    _merge_ended(connection, logs, vaults, names)
    numbers = _merge_keeps(connection, names, lists, target)
    _write_refs(connection, names, numbers, until, due)
    queries_recovery.keep_alive(connection)
    packs = {Digest(row.digest): row.number for row in queries_packs.packs_by_digest(connection, targets)}
    queries_recovery.raise_targets(connection, {packs[d]: n for d, n in targets.items() if n > target})
    return len(names)


def _merge_ended(
    connection: Connection,
    logs: Sequence[Reflog],
    vaults: Mapping[Id, int],
    names: dict[tuple[int, bytes], dict[Digest, _Version]],
) -> None:
    """Names deleted long ago go on counting their versions; older records of them are left out."""
    rows: dict[tuple[int, bytes], dict[str, Any]] = {}
    for log in logs:
        for one in log.ended:
            vault = vaults.get(one.vault)
            if vault is not None:
                rows[vault, one.tag] = {
                    "vault": vault, "tag": one.tag, "version": one.version, "etag": one.etag, "due": None,
                }  # fmt: skip
    for name, row in list(rows.items()):
        highest = max((one.version for one in names.get(name, {}).values()), default=0)
        if highest > row["version"]:
            del rows[name]
        else:
            names.pop(name, None)
    queries_refs.put_tombstones(connection, list(rows.values()))


def _version(log: Reflog, ref: LoggedRef, keep: Digest) -> _Version:
    clear = parse_record(ref.record).clear
    return _Version(clear.version, (log.epoch, log.number), ref.record, keep, ref.committed / 1000, max(log.last, 1))


def _merge_keeps(
    connection: Connection,
    names: Mapping[tuple[int, bytes], Mapping[Digest, _Version]],
    lists: Mapping[Digest, bytes],
    target: int,
) -> dict[tuple[int, Digest], int]:
    """(vault, keep list) -> number; those that are not there yet are written, with packs that nobody has shown."""
    wanted: defaultdict[int, set[Digest]] = defaultdict(set)
    for (vault, _), versions in names.items():
        wanted[vault].update(one.keep for one in versions.values())
    numbers: dict[tuple[int, Digest], int] = {}
    for vault, keeps in wanted.items():
        for digest, number in queries_packs.keep_lists_by_digest(connection, vault, keeps).items():
            numbers[vault, Digest(digest)] = number
    fresh = sorted((vault, keep) for vault, keeps in wanted.items() for keep in keeps if (vault, keep) not in numbers)
    named = {(vault, digest) for vault, keep in fresh for digest in parse_keep_list(lists[keep])}
    packs = {
        Digest(row.digest): row.number
        for row in queries_packs.packs_by_digest(connection, {digest for _, digest in named})
    }
    unseen = [
        {"digest": digest, "vault": vault, "size": 0, "state": PackState.LIVE, "target": target, "lease_until": None,
         "adopted": 0}
        for vault, digest in sorted(named) if digest not in packs
    ]  # fmt: skip
    packs.update((Digest(digest), number) for digest, number in queries_packs.add_packs(connection, unseen).items())
    made = queries_packs.add_keep_lists(connection, [{"vault": vault, "digest": keep} for vault, keep in fresh])
    queries_packs.add_keep_packs(
        connection,
        [
            {"keep": made[vault, keep], "pack": packs[digest]}
            for vault, keep in fresh
            for digest in parse_keep_list(lists[keep])
        ],
    )
    numbers.update(((vault, Digest(keep)), number) for (vault, keep), number in made.items())
    return numbers


def _write_refs(
    connection: Connection,
    names: Mapping[tuple[int, bytes], Mapping[Digest, _Version]],
    numbers: Mapping[tuple[int, Digest], int],
    until: float,
    due: float,
) -> None:
    kept = queries_recovery.past_etags(connection)
    present: list[dict[str, Any]] = []
    past: list[dict[str, Any]] = []
    for (vault, tag), versions in names.items():
        ordered = sorted(versions.items(), key=lambda item: (item[1].version, item[1].rank))
        for digest, one in ordered[:-1]:
            if (vault, tag, digest) not in kept:
                past.append(
                    {
                        "vault": vault, "tag": tag, "version": one.version, "etag": digest, "record": one.record,
                        "keep": numbers[vault, one.keep], "committed": one.committed,
                        "until": until, "commit_number": one.commit,
                    }
                )  # fmt: skip
        digest, one = ordered[-1]
        clear = parse_record(one.record).clear
        present.append(
            {
                "vault": vault, "tag": tag, "parent": clear.parent_tag, "kind": int(clear.kind),
                "version": one.version, "etag": digest, "record": one.record, "keep": numbers[vault, one.keep],
                "commit_number": one.commit, "committed": one.committed,
            }
        )  # fmt: skip
    queries_refs.add_history(connection, past)
    queries_refs.put_refs(connection, present)
    deleted = [row for row in present if row["kind"] == RefKind.TOMBSTONE]
    queries_refs.put_tombstones(
        connection,
        [{**{name: row[name] for name in ("vault", "tag", "version", "etag")}, "due": due} for row in deleted],
    )
    queries_refs.end_tombstones(
        connection, [(row["vault"], row["tag"]) for row in present if row["kind"] != RefKind.TOMBSTONE]
    )
