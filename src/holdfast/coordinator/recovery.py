"""Makes a coordinator's database whole again, from an old copy of it or from nothing (docs/design.md, 6, Loss).

Nothing that is on a node is let go of: packs that no known name keeps are adopted and wait for a device of their vault,
which reads what refs they bring and commits these again. The merge is one transaction, and running it again changes
nothing but the epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection

from holdfast.auth.certificates import Countersigned, open_countersigned
from holdfast.auth.documents import read
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.codec.reflog import Facts, LoggedRef, Reflog
from holdfast.codec.refs import RefKind, etag, parse_keep_list, parse_record
from holdfast.coordinator.survey import Asked, Survey
from holdfast.errors import BadConfig, Unavailable
from holdfast.metadata import queries_members, queries_packs, queries_recovery, queries_refs, queries_repair
from holdfast.metadata.tables import NEVER_READ, PackState

RECENT_S = 3600.0
"""Packs of names committed within so long before the end of what is known are read by a device, too."""

SERIALS_SKIPPED = 1000
"""Certificates that the lost database may have countersigned since."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery came to. ``epoch`` and ``commit``: where the coordinator goes on from.

    ``known_to``: the commit up to which the reflog told everything; ``adopted``: packs that wait for a device of their
    vault; ``silent``: addresses of nodes that could not be asked, with why; ``changed``: False if there was no need.
    """

    epoch: int
    commit: int
    known_to: int
    nodes: int
    vaults: int
    refs: int
    packs: int
    adopted: int
    silent: Mapping[str, str]
    changed: bool = True


class Terms(NamedTuple):
    """``slow``: seconds of the slow clock; the others as in the settings."""

    slow: float
    wall: float
    adopt_lease: float
    history: float
    tombstones: float


class Fallback(NamedTuple):
    """What the network is called and asks for when no reflog tells it."""

    name: str
    urls: Sequence[str]
    survive: int


def check_enough(survey: Survey, registered: Iterable[tuple[Id, bytes]], survive: int, *, force: bool) -> None:
    """Unavailable when so many disks are silent that all copies of something may be on them.

    ``registered``: id and store id of each node that is known.
    """
    heard = {node.overview.store for node in survey.nodes.values()}
    if not heard:
        raise Unavailable(f"no node answers ({_reasons(survey)}): start them, or name their addresses with --nodes")
    silent = {store for _, store in registered} - heard
    if len(silent) > survive and not force:
        raise Unavailable(
            f"{len(silent)} registered nodes do not answer; with survive {survive} at most {survive} may be missing, "
            f"or names may be lost ({_reasons(survey)}): start them, or say --force to do without them",
            silent=dict(survey.silent),
        )


def _reasons(survey: Survey) -> str:
    return "; ".join(f"{url}: {why}" for url, why in survey.silent.items()) or "no address is known"


def merge(
    connection: Connection, survey: Survey, coordinator: Id, terms: Terms, fallback: Fallback | None
) -> Recovered:
    """Brings the database up to what ``survey`` shows and takes a higher epoch; in one transaction.

    ``fallback`` for a database that is empty; BadConfig if there is neither it nor a reflog.
    """
    facts = survey.facts
    _make_network(connection, facts, coordinator, fallback, terms)
    meta = queries_members.network_facts(connection)
    assert meta is not None, "it has just been made"
    vaults = _merge_vaults(connection, facts, survey)
    _merge_devices(connection, facts, survey, coordinator, meta)
    nodes = _merge_nodes(connection, facts, survey, terms.wall)
    survive = max(meta.survive, facts.survive if facts is not None else 0)
    lease_until = int(terms.slow + terms.adopt_lease)
    fresh = _merge_packs(connection, survey, vaults, nodes, survive + 1, lease_until)
    refs = _merge_refs(connection, survey.logs, vaults, survive + 1, terms)
    queries_recovery.mark_known(connection, fresh)
    queries_recovery.mark_recent(connection, queries_recovery.newest_commit(connection) - RECENT_S)
    queries_recovery.extend_history(connection, terms.slow + terms.adopt_lease)
    queries_recovery.count_bytes(connection)
    queries_recovery.forget_reflogs(connection)
    heard = max(survey.position, (meta.epoch, meta.commit_number), (meta.heard_epoch, meta.heard_commit))
    commit = max(heard[1], meta.commit_number)
    changes: dict[str, Any] = {
        "epoch": heard[0] + 1, "commit_number": commit, "hold_until": terms.slow + terms.adopt_lease,
        "reflog_number": max([meta.reflog_number, *(log.number for log in survey.logs)]),
    }  # fmt: skip
    if facts is not None and facts.policy_version > meta.policy_version:
        changes |= {"survive": facts.survive, "policy_version": facts.policy_version}
    queries_members.change_network(connection, **changes)
    return Recovered(
        epoch=heard[0] + 1,
        commit=commit,
        known_to=max(survey.known_to, meta.commit_number),
        nodes=len(survey.nodes),
        vaults=len(vaults),
        refs=refs,
        packs=len({entry.digest for node in survey.nodes.values() for entry in node.packs}),
        adopted=queries_recovery.count_adopted(connection),
        silent=dict(survey.silent),
    )


# --- the network and its members --------------------------------------------------------------------------------------


def _make_network(
    connection: Connection, facts: Facts | None, coordinator: Id, fallback: Fallback | None, terms: Terms
) -> None:
    if queries_members.network_facts(connection) is not None:
        return
    if facts is None and (fallback is None or not fallback.urls):
        raise BadConfig(
            "no reflog is left on these nodes, so say where this coordinator is reached: --advertise http://HOST:PORT"
        )
    name, urls, survive, version = (
        (facts.name, facts.urls, facts.survive, facts.policy_version)
        if facts is not None
        else (fallback.name, tuple(fallback.urls), fallback.survive, 1)  # type: ignore[union-attr]
    )
    if fallback is not None and fallback.urls:
        urls = tuple(fallback.urls)
    queries_members.create_network(
        connection,
        {
            "coordinator": coordinator, "name": name, "urls": "\n".join(urls), "epoch": 0, "commit_number": 0,
            "heard_epoch": 0, "heard_commit": 0, "slow_elapsed": terms.slow, "slow_wall": terms.wall,
            "survive": survive, "policy_version": version, "revocations": 0,
        },
    )  # fmt: skip


def _merge_vaults(connection: Connection, facts: Facts | None, survey: Survey) -> dict[Id, int]:
    vaults = {Id(row.id): int(row.number) for row in queries_members.all_vaults(connection)}
    for vault in facts.vaults if facts is not None else ():
        if vault.id not in vaults:
            vaults[vault.id] = queries_members.add_vault(connection, vault.id, vault.quota)
    for id_ in sorted({e.vault for node in survey.nodes.values() for e in node.packs if e.vault is not None}):
        if id_ not in vaults:
            vaults[id_] = queries_members.add_vault(connection, id_, None)
    return vaults


def _merge_devices(connection: Connection, facts: Facts | None, survey: Survey, coordinator: Id, meta: Any) -> None:
    known = {row.serial: row for row in queries_members.all_devices(connection)}
    numbers = {Id(row.id): row.number for row in queries_members.all_vaults(connection)}
    for device in facts.devices if facts is not None else ():
        certificate, serial = open_countersigned(device.countersigned, coordinator)
        inner = read(Countersigned, device.countersigned)[0].certificate
        if serial in known:
            continue
        queries_members.add_device(
            connection,
            {
                "serial": serial, "vault": numbers[certificate.vault], "device": certificate.device,
                "rights": certificate.rights, "not_after": certificate.not_after, "operator": device.operator,
                "certificate": inner, "countersigned": device.countersigned,
            },
        )  # fmt: skip
    told = 1 + max(
        [
            meta.revocations,
            facts.revocations if facts is not None else 0,
            *(node.overview.revocations for node in survey.nodes.values()),
        ]
    )
    revoked = {serial for node in survey.nodes.values() for serial in node.overview.revoked}
    for device in facts.devices if facts is not None else ():
        if device.revoked is not None:
            revoked.add(open_countersigned(device.countersigned, coordinator)[1])
    queries_recovery.set_revoked(connection, revoked, told)
    serials = [meta.serial_floor, *known, *revoked, queries_members.next_serial(connection) - 1]
    queries_members.change_network(connection, revocations=told, serial_floor=max(serials) + SERIALS_SKIPPED)


def _merge_nodes(connection: Connection, facts: Facts | None, survey: Survey, wall: float) -> dict[Id, int]:
    """Id -> number of the nodes whose inventories are taken over."""
    known = {Id(row.id): row for row in queries_members.all_nodes(connection)}
    for node in facts.nodes if facts is not None else ():
        if node.id in known:
            continue
        queries_members.add_node(
            connection,
            {
                "id": node.id, "name": node.name, "url": node.url, "reached_url": "", "store": node.store,
                "domain": node.domain, "capacity": node.capacity, "free": 0, "always_on": node.always_on,
                "read_only": False, "state": "down", "word": node.word, "sequence": 0, "blobs": 0, "root": bytes(16),
                "seen": wall,
            },
        )  # fmt: skip
    known = {Id(row.id): row for row in queries_members.all_nodes(connection)}
    taken: dict[Id, int] = {}
    for id_, asked in survey.nodes.items():
        said = asked.overview
        row = known.get(id_)
        if row is not None and row.word == "removed":
            continue
        facts_now: dict[str, Any] = {
            "name": said.name, "url": asked.url, "reached_url": asked.url, "store": said.store, "free": said.space.free,
            "sequence": asked.sequence, "read_sequence": asked.sequence, "state": "up", "seen": wall,
        }  # fmt: skip
        if row is None:
            taken[id_] = queries_members.add_node(
                connection,
                {
                    **facts_now, "id": id_, "domain": said.domain or said.name, "capacity": said.capacity,
                    "always_on": said.always_on, "read_only": False, "word": "", "blobs": 0, "root": bytes(16),
                },
            )  # fmt: skip
        else:
            taken[id_] = row.number
            queries_members.change_nodes(connection, [{"number": row.number, **facts_now}])
    return taken


# --- packs ------------------------------------------------------------------------------------------------------------


def _merge_packs(
    connection: Connection,
    survey: Survey,
    vaults: Mapping[Id, int],
    nodes: Mapping[Id, int],
    target: int,
    lease_until: int,
) -> list[int]:
    """Every pack that is on a node, and who holds it; the numbers of those that are new here."""
    sizes: dict[Digest, tuple[int, int]] = {}
    for node in survey.nodes.values():
        for entry in node.packs:
            assert entry.vault is not None, "the survey keeps only packs"
            sizes.setdefault(entry.digest, (vaults[entry.vault], entry.size))
    queries_recovery.adopt_again(connection, sizes, lease_until)
    known = {Digest(row.digest): row.number for row in queries_packs.packs_by_digest(connection, sizes)}
    fresh = [
        {"digest": digest, "vault": vault, "size": size, "state": PackState.LEASED, "target": target,
         "lease_until": lease_until, "adopted": 1}
        for digest, (vault, size) in sizes.items() if digest not in known
    ]  # fmt: skip
    made = queries_packs.add_packs(connection, fresh)
    known.update((Digest(digest), number) for digest, number in made.items())
    queries_repair.take_beliefs(connection)
    for id_, number in nodes.items():
        queries_recovery.clear_places(connection, number)
        _place(connection, number, survey.nodes[id_], known)
    for id_, row in ((Id(row.id), row) for row in queries_members.all_nodes(connection)):
        if id_ not in nodes and row.word != "removed":
            queries_repair.read_up_to(connection, row.number, NEVER_READ)  # when it is back, all is read
    return list(made.values())


def _place(connection: Connection, node: int, asked: Asked, numbers: Mapping[Digest, int]) -> None:
    rows = [{"pack": numbers[e.digest], "node": node, "sequence": e.sequence} for e in asked.packs]
    queries_packs.place(connection, rows)


# --- refs -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Version:
    """One state of a name. ``rank``: of two with one version the higher counts."""

    version: int
    rank: tuple[int, int]
    record: bytes
    keep: Digest
    committed: float
    commit: int


def _merge_refs(
    connection: Connection, logs: Sequence[Reflog], vaults: Mapping[Id, int], target: int, terms: Terms
) -> int:
    """Names as the highest version tells them; the others are history. How many names the logs tell of."""
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
    _write_refs(connection, names, numbers, terms)
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
    terms: Terms,
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
                        "until": terms.slow + terms.history, "commit_number": one.commit,
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
    due = terms.slow + terms.tombstones
    deleted = [row for row in present if row["kind"] == RefKind.TOMBSTONE]
    queries_refs.put_tombstones(
        connection,
        [{**{name: row[name] for name in ("vault", "tag", "version", "etag")}, "due": due} for row in deleted],
    )
    queries_refs.end_tombstones(
        connection, [(row["vault"], row["tag"]) for row in present if row["kind"] != RefKind.TOMBSTONE]
    )


def unchanged(meta: Any, survey: Survey) -> Recovered:
    """Nobody has heard of more than this database holds."""
    return Recovered(
        epoch=meta.epoch, commit=meta.commit_number, known_to=meta.commit_number, nodes=len(survey.nodes), vaults=0,
        refs=0, packs=0, adopted=0, silent=dict(survey.silent), changed=False,
    )  # fmt: skip


__all__ = ["Fallback", "Recovered", "Terms", "check_enough", "merge", "unchanged"]
