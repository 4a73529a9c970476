"""The node's talk with its coordinator: joining by an invite, heartbeats, saying goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import msgspec

from holdfast import logs
from holdfast.auth.invites import Invite, check_proof, proof
from holdfast.errors import BadConfig, HoldfastError, StaleEpoch, Unavailable
from holdfast.node.layout import NodeDirectory
from holdfast.node.membership import Membership
from holdfast.pool import Pool
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import HttpClient, Target
from holdfast.worker import Progress

LEAVING_S = 2.0

_log = logs.get_logger(__name__)

A = TypeVar("A")


async def join(
    directory: NodeDirectory, invite: Invite, *, http: HttpClient, pool: Pool, url: str = ""
) -> tuple[Membership, m.Joined]:
    """Makes the node a member of the invite's network and pins its coordinator in ``network.json``.

    May be called again after a failure. Denied if the invite is not (or no longer) good, or the coordinator cannot
    prove that it made it; BadConfig for an invite of another role; Unavailable if no address answers.
    """
    if invite.role != "node":
        raise BadConfig(f"this invite is for a {invite.role}; a node needs one made by: holdfast invite node")
    record = directory.record
    capacity = record.capacity
    if capacity is None:
        capacity = (await pool.run(directory.files.space, directory.path)).free
    mine = directory.identity.id
    request = m.Join(
        invite=invite.id,
        role="node",
        proof=proof(invite.secret, "join", mine, invite.coordinator, "node"),
        node=m.NodeFacts(
            name=record.name,
            store=bytes.fromhex(record.store_id),
            url=url,
            domain=record.domain,
            capacity=capacity,
            always_on=record.always_on,
        ),
    )
    http.set_clock_source(invite.coordinator)
    joined, _ = await first_answer(
        (Target(invite.coordinator, found) for found in invite.urls),
        lambda target: http.call(target, routes.JOIN, request),
    )
    check_proof(joined.proof, invite.secret, "accept", mine, invite.coordinator, "node")
    if not joined.urls:
        joined = msgspec.structs.replace(joined, urls=list(invite.urls))
    membership = Membership.of(directory.path, files=directory.files, coordinator=invite.coordinator, joined=joined)
    await pool.run(membership.save)
    return membership, joined


class Heart:
    """Heartbeats. ``facts`` makes the message; ``unit`` is a worker's unit."""

    def __init__(
        self,
        membership: Membership,
        *,
        http: HttpClient,
        pool: Pool,
        facts: Callable[[], m.Heartbeat],
        interval: Callable[[float], None],
    ) -> None:
        """``interval`` is told the network's seconds between heartbeats after each answer."""
        self.state: m.NodeState | None = None
        """What the coordinator makes of this node, None before it has answered."""
        self.reason = ""
        """Why it is not ``up``, or why the coordinator does not answer."""
        self._known_url = ""
        self._one = asyncio.Lock()
        self._membership = membership
        self._http = http
        self._pool = pool
        self._facts = facts
        self._interval = interval

    async def unit(self) -> Progress:
        """One heartbeat; trouble is remembered in ``reason`` and tried again soon. Calls at once go one by one."""
        try:
            async with self._one:
                await self.beat(self._facts())
        except HoldfastError as error:
            if error.detail != self.reason:
                _log.warning("heartbeat_failed", reason=error.detail)
            self.reason = error.detail
            return Progress.THROTTLED
        return Progress.IDLE

    async def beat(self, message: m.Heartbeat, *, first_byte_s: float | None = None) -> None:
        """Sends ``message`` and takes over what is answered. StaleEpoch if the coordinator is an old one."""
        membership = self._membership
        if message.url == self._known_url:
            message = msgspec.structs.replace(message, url="")
        changed = False

        async def ask(target: Target) -> m.HeartbeatAnswer:
            nonlocal changed
            answer = await self._http.call(target, routes.HEARTBEAT, message, first_byte_s=first_byte_s, tries=1)
            if (answer.epoch, answer.commit) < (message.epoch, message.commit) and membership.position:
                # it came back from an old copy, and believes only what it has signed itself
                shown = msgspec.structs.replace(message, position=membership.position)
                answer = await self._http.call(target, routes.HEARTBEAT, shown, first_byte_s=first_byte_s, tries=1)
            changed = membership.adopt(answer)
            return answer

        answer, target = await first_answer(membership.targets, ask)
        membership.answered(target.url)
        if changed:
            await self._pool.run(membership.save)
        self._known_url = answer.url
        if answer.state != self.state:
            _log.info("node_state", state=answer.state, reason=answer.reason)
        self.state, self.reason = answer.state, answer.reason
        self._interval(answer.settings.heartbeat_interval)

    async def leave(self) -> None:
        """Tells the coordinator that this node goes, so that repair waits from now on; trouble is only logged."""
        try:
            await self.beat(msgspec.structs.replace(self._facts(), leaving=True), first_byte_s=LEAVING_S)
        except HoldfastError as error:
            _log.warning("leaving_unheard", reason=error.detail)


async def first_answer(targets: Iterable[Target], ask: Callable[[Target], Awaitable[A]]) -> tuple[A, Target]:
    """The first address that answers; a refusal is an answer and is raised, unless it comes from one that was overtaken
    by another, which may be at the next address."""
    silence: Unavailable | StaleEpoch | None = None
    for target in list(targets):
        try:
            return await ask(target), target
        except StaleEpoch as error:
            silence = error
        except Unavailable as error:
            silence = silence if isinstance(silence, StaleEpoch) else error
    raise silence or Unavailable("no address of the coordinator is known")
