"""Makes a coordinator's database whole again, from an old copy of it or from nothing (docs/design.md, 6, Loss).

Nothing that is on a node is let go of: packs that no known name keeps are adopted and wait for a device of their vault,
which reads what refs they bring and commits these again. The merge is one transaction, and running it again changes
nothing but the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection

from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.coordinator.loss.recovery_members import Fallback, make_network, merge_devices, merge_nodes, merge_vaults
from holdfast.coordinator.loss.recovery_refs import merge_refs
from holdfast.coordinator.loss.survey import Asked, Survey
from holdfast.errors import Unavailable
from holdfast.metadata import queries_members, queries_packs, queries_recovery, queries_repair
from holdfast.metadata.tables import NEVER_READ, PackState

RECENT_S = 3600.0
"""Packs of names committed within so long before the end of what is known are read by a device, too."""


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
    make_network(connection, facts, coordinator, fallback, terms.slow, terms.wall)
    meta = queries_members.network_facts(connection)
    assert meta is not None, "it has just been made"
    vaults = merge_vaults(connection, facts, survey)
    merge_devices(connection, facts, survey, coordinator, meta)
    nodes = merge_nodes(connection, facts, survey, terms.wall)
    survive = max(meta.survive, facts.survive if facts is not None else 0)
    lease_until = int(terms.slow + terms.adopt_lease)
    fresh = _merge_packs(connection, survey, vaults, nodes, survive + 1, lease_until)
    until, due = terms.slow + terms.history, terms.slow + terms.tombstones
    refs = merge_refs(connection, survey.logs, vaults, survive + 1, until=until, due=due)
    queries_recovery.mark_known(connection, fresh)
    queries_recovery.mark_recent(connection, queries_recovery.newest_commit(connection) - RECENT_S)
    queries_recovery.extend_history(connection, terms.slow + terms.adopt_lease)
    if not survey.silent:  # what no node has any more was let go of since, and is not to be missed
        keeps = queries_recovery.drop_hollow_history(connection)
        queries_packs.release_unheld(connection, queries_packs.drop_unused_keep_lists(connection, keeps))
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


def unchanged(meta: Any, survey: Survey) -> Recovered:
    """Nobody has heard of more than this database holds."""
    return Recovered(
        epoch=meta.epoch, commit=meta.commit_number, known_to=meta.commit_number, nodes=len(survey.nodes), vaults=0,
        refs=0, packs=0, adopted=0, silent=dict(survey.silent), changed=False,
    )  # fmt: skip


__all__ = ["Fallback", "Recovered", "Terms", "check_enough", "merge", "unchanged"]
