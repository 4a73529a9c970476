"""Where packs go: plans, registrations and commits as they are asked over the wire."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from sqlalchemy import Connection

from holdfast.auth.certificates import DELETE, WRITE
from holdfast.auth.identity import Id, verify
from holdfast.blob import Digest
from holdfast.codec import refs as codec
from holdfast.codec.refs import RefKind
from holdfast.coordinator.access import VaultRow
from holdfast.coordinator.commit import Change, NewPack, Ref, is_there
from holdfast.coordinator.placement import Site, Sites, choose
from holdfast.coordinator.receipts import check_receipts
from holdfast.coordinator.settings import enough_when_degraded
from holdfast.coordinator.state import State
from holdfast.coordinator.transaction import load_packs
from holdfast.errors import BadRequest, Denied, NoSpace, QuotaExceeded, TooFewNodes, Unavailable
from holdfast.metadata import queries_members, queries_packs, queries_reflog
from holdfast.wire import messages as m
from holdfast.wire.serve import Call

RECEIPT_SHARE = 2 / 3
"""Receipts count for this share of a lease. A pack whose lease is over may be deleted, and the wall clock that receipts
are compared by may be wrong by hours, in either direction: the rest of the lease makes up for it."""

INLINE_CHECKS_MAX = 16
"""Signatures and records that are checked without leaving the event loop: about two milliseconds."""


class Packs:
    """Handlers."""

    def __init__(self, state: State) -> None:
        self._state = state

    # --- plans ---

    async def plan(self, call: Call, request: m.PlanRequest) -> m.Plan:
        """Candidates for packs and put grants for them: as many as the policy wants and some to spare, also where fewer
        copies will do.

        TooFewNodes when fewer nodes are registered than copies are needed, Unavailable when enough are but do not
        answer, NoSpace when they have no room, QuotaExceeded.
        """
        state = self._state
        vault = state.access.require(call.caller, request.vault, WRITE)
        assert call.caller is not None
        state.position.check(request.epoch, request.commit)
        wanted = least = max(state.policy.survive + 1, request.copies or 1)
        if request.allow_degraded:
            least = enough_when_degraded(wanted, state.settings.floor)
        have = await self._have(vault, request, least)
        await self._check_quota(vault, request, have)
        sites = Sites(self._sites(least))
        avoid = frozenset(node.number for id_ in request.avoid if (node := state.registry.get(id_)) is not None)
        slots: list[m.PlanSlot] = []
        numbers: dict[int, int] = {}
        planned: Counter[int] = Counter()
        for item in request.items:
            if item.digest in have:
                slots.append(m.PlanSlot(have=True))
                continue
            chosen = self._choose(sites, item.size, wanted, avoid)
            if len(chosen) < wanted:  # not every plan is used: what nodes say themselves decides
                sites = Sites(state.registry.sites(less_planned=False))
                chosen = self._choose(sites, item.size, wanted, avoid)
            if len(chosen) < least:
                raise NoSpace(
                    f"{len(chosen)} of the {len(sites.all)} nodes that are up have room for {item.size} bytes, "
                    f"{least} copies are asked: add nodes or delete something"
                )
            for site in chosen:
                planned[site.number] += item.size
            slots.append(m.PlanSlot(candidates=[numbers.setdefault(site.number, len(numbers)) for site in chosen]))
        until = int(state.clock.now() + state.settings.plan_life)
        return m.Plan(
            items=slots,
            nodes=[self._plan_node(number, planned[number], vault.id, call.caller, until) for number in numbers],
            wanted=wanted,
            least=least,
            expires=until,
            epoch=state.position.epoch,
            commit=state.position.commit,
            urls=state.urls,
            unread=vault.number in state.unread,
        )

    def _choose(self, sites: Sites, size: int, wanted: int, avoid: frozenset[int]) -> list[Site]:
        return choose(
            sites, wanted, self._state.settings.candidates_more, self._state.randomness,
            lambda site: site.free >= size, lambda site: site.number in avoid,
        )  # fmt: skip

    async def _have(self, vault: VaultRow, request: m.PlanRequest, copies: int) -> set[Digest | None]:
        digests = {item.digest for item in request.items if item.digest is not None}
        if not digests:
            return set()
        rows = await self._state.database.run(
            lambda connection: load_packs(connection, queries_packs.packs_by_digest(connection, digests))
        )
        terms = self._state.terms()
        return {pack.digest for pack in rows.values() if is_there(pack, vault.number, copies, terms)}

    async def _check_quota(self, vault: VaultRow, request: m.PlanRequest, have: set[Digest | None]) -> None:
        if vault.quota is None:
            return
        used = (await self._state.database.run(queries_members.bytes_used, [vault.number]))[vault.number]
        asked = sum(item.size for item in request.items if item.digest is None or item.digest not in have)
        if used + asked > vault.quota:
            raise QuotaExceeded(
                f"this vault may hold {vault.quota} bytes of packs and holds {used}: delete something, "
                "or ask the network's operator for more",
                quota=vault.quota,
                used=used,
            )

    def _sites(self, copies: int) -> list[Site]:
        registry = self._state.registry
        registered = registry.registered_stores()
        if registered < copies:
            raise TooFewNodes(
                f"{copies} copies are asked but only {registered} nodes with a disk of their own are registered: "
                f"add nodes (holdfast invite node), or ask for less: holdfast policy survive {max(registered - 1, 0)}",
                registered=registered,
                copies=copies,
            )
        sites = registry.sites()
        up = len({site.store for site in sites})
        if up < copies:
            raise Unavailable(
                f"{copies} copies are asked and {registered} nodes are registered, but only {up} are up now",
                up=up,
                registered=registered,
                copies=copies,
            )
        return sites

    def _plan_node(self, number: int, size: int, vault: Id, device: Id, until: int) -> m.PlanNode:
        state = self._state
        node = state.registry.number(number)
        state.registry.plan(number, size)
        grant = state.grants.grant(node, vault, device, size, state.clock.now(), until, state.position.current)
        return m.PlanNode(id=node.id, name=node.name, url=node.url, grant=grant)

    # --- registrations and commits ---

    async def register(self, call: Call, request: m.RegisterRequest) -> m.Registered:
        """A lease for packs whose refs follow later. PacksGone (424) names those with too few receipts."""
        state = self._state
        vault = state.access.require(call.caller, request.vault, WRITE)
        await state.heard_all.wait()
        lease_until = state.clock.now() + state.settings.lease
        await state.queue.submit(
            Change(
                vault=vault.number,
                quota=vault.quota,
                packs=await self._checked(request.packs),
                allow_degraded=request.allow_degraded,
                copies=request.copies or 1,
                lease=True,
            )
        )
        return m.Registered(lease_until=lease_until)

    async def commit(self, call: Call, request: m.CommitRequest) -> m.Committed:
        """One transaction (docs/design.md, 6); its results come once they are durable."""
        state = self._state
        vault = state.access.require(call.caller, request.vault, WRITE | DELETE)
        assert call.caller is not None
        await state.heard_all.wait()
        state.position.check(request.epoch, request.commit)
        if request.again and vault.number not in state.unread:
            raise Denied("nothing of this vault waits to be committed again")
        count = sum(map(len, request.groups))
        if count > m.COMMIT_REFS_MAX:
            raise BadRequest(f"a commit has at most {m.COMMIT_REFS_MAX} refs, not {count}")
        if count + len(request.keeps) > INLINE_CHECKS_MAX:
            groups, keeps = await state.pool.run(_parsed, request, call.caller)
        else:
            groups, keeps = _parsed(request, call.caller)
        kinds = {ref.kind for group in groups for ref in group}
        if RefKind.TOMBSTONE in kinds:
            state.access.require(call.caller, request.vault, DELETE)
        if request.packs or not kinds or kinds != {RefKind.TOMBSTONE}:
            state.access.require(call.caller, request.vault, WRITE)
        results = await state.queue.submit(
            Change(
                vault=vault.number,
                quota=vault.quota,
                packs=await self._checked(request.packs),
                known=request.known,
                keeps=keeps,
                groups=groups,
                allow_degraded=request.allow_degraded,
                again=request.again,
            )
        )
        return m.Committed(groups=results, epoch=state.position.epoch, commit=state.position.commit)

    async def read(self, call: Call, request: m.PacksRead) -> m.Empty:
        """A device has read these adopted packs and committed again what refs it found in them."""
        state = self._state
        vault = state.access.require(call.caller, Id.parse(call.path["vault"]), WRITE)
        state.position.check()
        state.unread = await state.database.run(_mark_read, vault.number, request.digests)
        return m.Empty()

    async def _checked(self, packs: list[m.PackReceipts]) -> list[NewPack]:
        state = self._state
        oldest = state.clock.now() - state.settings.lease * RECEIPT_SHARE

        def check(some: Iterable[m.PackReceipts]) -> list[NewPack]:
            return [
                NewPack(
                    pack.digest,
                    pack.size,
                    check_receipts(pack.digest, pack.size, pack.receipts, state.registry.get, oldest),
                )
                for pack in some
            ]

        if len({pack.digest for pack in packs}) != len(packs):
            raise BadRequest("a pack is named twice")
        if sum(len(pack.receipts) for pack in packs) > INLINE_CHECKS_MAX:
            return await state.pool.run(check, packs)
        return check(packs)


def _parsed(request: m.CommitRequest, author: Id) -> tuple[list[list[Ref]], dict[Digest, tuple[Digest, ...]]]:
    """The refs of a commit, each checked, and its keep lists; BadRequest or Denied."""
    keeps = {Digest.of(data): tuple(codec.parse_keep_list(data)) for data in request.keeps}
    writer = None if request.again else author
    groups = [[_ref(change, request.vault, writer) for change in group] for group in request.groups]
    etags = b"".join(ref.etag for group in groups for ref in group)
    if not verify(author, request.signature, hashlib.sha256(etags).digest()):
        raise Denied("the commit's signature is not its device's over exactly these refs")
    return groups, keeps


def _mark_read(connection: Connection, vault: int, digests: list[Digest]) -> set[int]:
    """Marks them as read, lets go of those that nothing holds; the vaults that still have unread ones."""
    found = queries_reflog.mark_read(connection, vault, digests)
    queries_packs.release_unheld(connection, found)
    return queries_reflog.unread_vaults(connection)


def _ref(change: m.RefChange, vault: Id, author: Id | None) -> Ref:
    """The ref in one record; ``author`` None: whichever device of the vault has written it."""
    parsed = codec.parse_record(change.record)
    clear = parsed.clear
    if clear.vault != vault:
        raise Denied("a ref of another vault")
    if author is not None and clear.author != author:
        raise Denied("a ref that another device has written")
    if change.ancestor and clear.kind is not RefKind.DIRECTORY:
        raise BadRequest("only directories are ancestors")
    return Ref(
        tag=clear.name_tag,
        parent=clear.parent_tag,
        kind=clear.kind,
        survive=clear.survive,
        version=clear.version,
        previous=clear.previous,
        etag=codec.etag(change.record),
        record=change.record,
        keep=parsed.keep,
        ancestor=change.ancestor,
    )
