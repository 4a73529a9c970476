"""Tasks that are given out: leases, fencing tokens, priority, room."""

from __future__ import annotations

import pytest

from holdfast.blob import Digest
from holdfast.clock import SeededRandomness
from holdfast.coordinator.repair.dispatch import BACKOFF_S, LEASE_S, PENDING_S, Dispatch, Job, Kind
from holdfast.errors import Conflict, NotFound


def make(limit: int = 10) -> Dispatch:
    return Dispatch(SeededRandomness(1), limit)


def add(table: Dispatch, pack: int, *, node: int = 1, live: int = 3, now: float = 0.0, kind: Kind = "copy") -> Job:
    return table.add(
        kind, pack=pack, digest=Digest.of(bytes([pack])), size=10, vault=1, node=node, urgency=(live, 0), now=now
    )


def test_the_most_urgent_are_given_first_and_once() -> None:
    table = make()
    calm, urgent, other = add(table, 1, live=4), add(table, 2, live=1), add(table, 3, node=2, live=1)
    assert table.lease(1, 1, 0.0) == [urgent]
    assert table.lease(1, 16, 0.0) == [calm]
    assert table.lease(1, 16, 0.0) == []
    assert table.lease(2, 16, 0.0) == [other]


def test_only_the_last_token_counts() -> None:
    table = make()
    job = add(table, 1)
    with pytest.raises(Conflict):
        table.held(job.id, 1, 0)
    table.lease(1, 1, 0.0)
    assert table.held(job.id, 1, job.token) is job
    with pytest.raises(Conflict):
        table.held(job.id, 1, job.token + 1)
    with pytest.raises(NotFound):
        table.held(job.id, 2, job.token)
    token = job.token
    assert table.expire(LEASE_S) == [job]
    with pytest.raises(NotFound):
        table.held(job.id, 1, token)


def test_a_renewed_lease_lasts() -> None:
    table = make()
    job = add(table, 1)
    table.lease(1, 1, 0.0)
    table.renew(job, LEASE_S - 1)
    assert table.expire(LEASE_S + 1) == []
    assert table.expire(2 * LEASE_S) == [job]


def test_what_nobody_asks_for_is_taken_back_and_what_fails_rests() -> None:
    table = make()
    add(table, 1)
    table.expire(PENDING_S)
    assert not table.busy(1, PENDING_S)
    job = add(table, 1, now=200.0)
    table.lease(1, 1, 200.0)
    table.fail(job, 200.0)
    assert table.busy(1, 200.0 + BACKOFF_S - 1)
    assert not table.busy(1, 200.0 + BACKOFF_S)
    assert table.counts(201.0) == (0, 0, 1)


def test_urgent_ones_displace_what_nobody_has_begun() -> None:
    table = make(limit=3)
    begun = add(table, 1, live=4)
    table.lease(1, 1, 0.0)
    add(table, 2, live=4)
    add(table, 3, live=2)
    table.make_room(2, (1, 0))
    assert table.room == 2
    assert list(table.jobs()) == [begun]
    table.make_room(3, (1, 0))
    assert list(table.jobs()) == [begun], "what is under way goes on"


def test_a_node_that_may_trash_no_more_gets_copies_only() -> None:
    table = make()
    trim = add(table, 1, kind="trim")
    table.lease(1, 1, 0.0)
    table.fail(trim, 0.0, retry_after=600)
    add(table, 2, kind="delete")
    copy = add(table, 3)
    assert table.lease(1, 16, 1.0) == [copy]
    assert [job.pack for job in table.lease(1, 16, 601.0)] == [2]
