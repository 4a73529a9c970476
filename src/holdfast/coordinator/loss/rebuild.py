"""``coordinator recover`` and ``coordinator rebuild``: ask the nodes, then merge what they say into the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from holdfast.auth.identity import Id
from holdfast.clock import Clock, SlowClock
from holdfast.coordinator.loss import recovery
from holdfast.coordinator.loss.recovery import Fallback, Recovered, Terms
from holdfast.coordinator.loss.survey import Survey, Surveyor
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.errors import BadConfig
from holdfast.metadata import queries_members
from holdfast.metadata.database import Database
from holdfast.pool import Pool
from holdfast.wire.http import HttpClient


class Means(NamedTuple):
    """What both verbs work with; ``pool`` is not the database's. The directory is held, no coordinator runs on it."""

    coordinator: Id
    database: Database
    http: HttpClient
    pool: Pool
    clock: Clock
    settings: CoordinatorSettings


async def recover(means: Means, urls: Sequence[str], *, force: bool = False) -> Recovered:
    """Brings an old copy of the database up to what its nodes hold, and takes a higher epoch.

    Changes nothing when no node has heard of more than the database holds. ``urls``: further addresses of nodes;
    ``force``: with fewer nodes than it takes to be sure, and also when there seems to be no need. Unavailable when too
    few nodes answer; BadConfig for an empty database. May be run again after any failure.
    """
    facts = await means.database.run(queries_members.network_facts)
    if facts is None:
        raise BadConfig("there is no database to recover; make one from the nodes: holdfast coordinator rebuild")
    rows = [row for row in await means.database.run(queries_members.all_nodes) if row.word != "removed"]
    known = {Id(row.id): row.reached_url or row.url for row in rows}
    survey = await _survey(means, urls, known)
    heard = max(survey.position, (facts.heard_epoch, facts.heard_commit))
    if heard <= (facts.epoch, facts.commit_number) and not force:
        return recovery.unchanged(facts, survey)
    registered = [(Id(row.id), bytes(row.store)) for row in rows]
    survive = facts.survive
    if survey.facts is not None:
        registered += [(node.id, node.store) for node in survey.facts.nodes if node.word != "removed"]
        survive = min(survive, survey.facts.survive)
    recovery.check_enough(survey, registered, survive, force=force)
    return await _merge(means, survey, None)


async def rebuild(
    means: Means, urls: Sequence[str], *, fallback: Fallback | None = None, force: bool = False
) -> Recovered:
    """Makes the database of an empty one from what the nodes at ``urls`` hold, and those that their reflog names.

    BadConfig if the database holds a network already. Else as ``recover``.
    """
    if await means.database.run(queries_members.network_facts) is not None:
        raise BadConfig("there is a database already: bring it up to date with holdfast coordinator recover")
    survey = await _survey(means, urls, {})
    registered: list[tuple[Id, bytes]] = []
    survive = 0
    if survey.facts is not None:
        registered = [(node.id, node.store) for node in survey.facts.nodes if node.word != "removed"]
        survive = survey.facts.survive
    recovery.check_enough(survey, registered, survive, force=force)
    return await _merge(means, survey, fallback)


async def _survey(means: Means, urls: Sequence[str], known: dict[Id, str]) -> Survey:
    return await Surveyor(means.http, means.coordinator, means.pool).survey(urls, known)


async def _merge(means: Means, survey: Survey, fallback: Fallback | None) -> Recovered:
    return await means.database.run(_in_one, means, survey, fallback)


def _in_one(connection: Connection, means: Means, survey: Survey, fallback: Fallback | None) -> Recovered:
    facts = queries_members.network_facts(connection)
    slow = 0.0
    if facts is not None:
        clock = SlowClock(facts.slow_elapsed, facts.slow_wall)
        clock.start(means.clock)
        slow = clock.read(means.clock)
    settings = means.settings
    terms = Terms(slow, means.clock.now(), settings.adopt_lease, settings.history, settings.tombstones)
    return recovery.merge(connection, survey, means.coordinator, terms, fallback)
