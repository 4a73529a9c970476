"""What a commit does, decided without I/O: a view of packs and refs goes in, results and a changed view come out.

These are the rules of docs/design.md, 6, Life of a pack. A view is a stack of layers: each commit, and in it each
group, works on a layer of its own, which is kept if it stands and thrown away if it falls.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from holdfast.blob import Digest
from holdfast.coordinator.settings import DAY_S, enough_when_degraded
from holdfast.errors import BadRequest, Denied, PacksGone, QuotaExceeded
from holdfast.metadata.tables import PackState
from holdfast.wire.messages import RefResult

COMMITTED = RefResult(state="committed")
NOT_DONE = RefResult(state="not-done")

Tag: TypeAlias = tuple[int, bytes]
"""(vault's number, name tag)."""

Keep: TypeAlias = tuple[int, Digest]
"""(vault's number, digest of a keep list)."""

_HOLDING = (PackState.LEASED, PackState.LIVE, PackState.RELEASED)


@dataclass(frozen=True, slots=True)
class Pack:
    """``places``: node number -> write sequence; ``lease_until``: slow seconds; ``number`` None until it is written."""

    digest: Digest
    vault: int
    size: int
    state: PackState
    target: int
    lease_until: int | None
    places: Mapping[int, int]
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """A present ref or one that is asked for; ``previous`` and ``ancestor`` matter only for the latter.

    A present one without a record is a tombstone of which only version and etag are left.
    """

    tag: bytes
    parent: bytes
    kind: int
    survive: int
    version: int
    previous: bytes | None
    etag: bytes
    record: bytes
    keep: Digest
    committed: float = 0.0
    ancestor: bool = False


@dataclass(frozen=True, slots=True)
class NewPack:
    """A pack with its checked receipts: node number -> write sequence."""

    digest: Digest
    size: int
    receipts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One commit, or with ``lease`` one registration of packs whose refs follow. ``keeps``: the lists sent with it.

    ``again``: refs that a device found in packs after a recovery. Their packs were durable when they were first
    committed, so one live copy is enough; repair makes the others.
    """

    vault: int
    quota: int | None
    packs: Sequence[NewPack] = ()
    known: Sequence[Digest] = ()
    keeps: Mapping[Digest, tuple[Digest, ...]] = field(default_factory=dict)
    groups: Sequence[Sequence[Ref]] = ()
    allow_degraded: bool = False
    copies: int = 1
    lease: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds at this moment. ``live``, ``counted``: see ``registry``; ``stores``: node number -> store id."""

    slow: float
    wall: float
    lease_s: float
    history_s: float
    survive: int
    floor: int
    live: frozenset[int]
    counted: frozenset[int]
    stores: Mapping[int, bytes]
    directory: int  # the kind of a directory ref
    tombstones_s: float = 90 * DAY_S

    def copies(self, asked: int = 1) -> int:
        """Copies a pack must have when ``asked`` are asked for: never fewer than the policy says."""
        return max(self.survive + 1, asked)


@dataclass(slots=True)
class View:
    """State as a transaction has read it and as the changes so far have left it."""

    packs: ChainMap[Digest, Pack]
    refs: ChainMap[Tag, Ref]
    keeps: ChainMap[Keep, tuple[Digest, ...]]
    past: ChainMap[Tag, Mapping[bytes, int]]  # kept versions: etag -> version
    used: ChainMap[int, int]
    replaced: list[tuple[int, Ref]] = field(default_factory=list)  # (vault, ref) that goes to history, in order

    def layer(self) -> View:
        return View(
            self.packs.new_child(),
            self.refs.new_child(),
            self.keeps.new_child(),
            self.past.new_child(),
            self.used.new_child(),
        )

    def take(self, layer: View) -> None:
        """Keeps what ``layer``, made by ``self.layer()``, has changed."""
        self.packs.maps[0].update(layer.packs.maps[0])
        self.refs.maps[0].update(layer.refs.maps[0])
        self.keeps.maps[0].update(layer.keeps.maps[0])
        self.past.maps[0].update(layer.past.maps[0])
        self.used.maps[0].update(layer.used.maps[0])
        self.replaced += layer.replaced

    @property
    def changed(self) -> bool:
        return bool(self.packs.maps[0] or self.refs.maps[0])


def decide(change: Change, view: View, terms: Terms) -> list[list[RefResult]]:
    """Applies ``change`` to ``view``; a result for each ref, in groups as asked.

    QuotaExceeded, Denied, BadRequest, and PacksGone for a registration with too few receipts, leave the view as it was.
    """
    layer = view.layer()
    too_few = _take_packs(change, layer, terms)
    if change.lease and too_few:
        needed = _needed(change, terms, change.copies)
        raise PacksGone(
            f"{len(too_few)} packs have receipts of fewer than {needed} nodes that count: send them again",
            packs=[str(digest) for digest in too_few],
        )
    _renew(change, layer, terms)
    for digest, packs in change.keeps.items():
        if (change.vault, digest) not in layer.keeps:
            layer.keeps[change.vault, digest] = packs
    results = [_apply_group(group, change, layer, terms) for group in change.groups]
    view.take(layer)
    return results


def _needed(change: Change, terms: Terms, asked: int) -> int:
    copies = 1 if change.again else terms.copies(asked)
    return enough_when_degraded(copies, terms.floor) if change.allow_degraded else copies


def holders(pack: Pack, nodes: frozenset[int], terms: Terms) -> int:
    """Distinct stores among those of ``nodes`` that hold the pack."""
    return len({terms.stores[number] for number in pack.places if number in nodes})


def has_enough(pack: Pack, needed: int, terms: Terms) -> bool:
    """May something be built on this pack, if ``needed`` copies are asked for?

    So many must be on record on nodes that are not out: each was durable when it was acknowledged. And as many as the
    floor asks must be live now; a node that is silent for a moment does not make everything be sent again.
    """
    return holders(pack, terms.counted, terms) >= needed and holders(pack, terms.live, terms) >= min(
        needed, enough_when_degraded(needed, terms.floor)
    )


def is_there(pack: Pack | None, vault: int, needed: int, terms: Terms) -> bool:
    """Is the pack the vault's, not on its way out, and on enough nodes?"""
    return pack is not None and pack.vault == vault and pack.state in _HOLDING and has_enough(pack, needed, terms)


def _take_packs(change: Change, view: View, terms: Terms) -> list[Digest]:
    """Takes new packs as leased; those with too few copies are left out and returned."""
    too_few: list[Digest] = []
    needed = _needed(change, terms, change.copies)
    lease_until = int(terms.slow + terms.lease_s)
    used = view.used[change.vault]
    for new in change.packs:
        old = view.packs.get(new.digest)
        if old is not None and old.vault != change.vault:
            raise Denied(f"pack {new.digest} belongs to another vault")
        if old is not None and old.size != new.size:
            raise BadRequest(f"pack {new.digest} has {old.size} bytes, not {new.size}")
        counted = old is not None and old.state in _HOLDING
        receipts = new.receipts
        if old is not None and not counted:  # a grant may be out to delete what is on record: only newer copies count
            receipts = {node: sequence for node, sequence in receipts.items() if sequence > old.places.get(node, -1)}
        pack = Pack(
            digest=new.digest,
            vault=change.vault,
            size=new.size,
            state=PackState.LIVE if old is not None and old.state is PackState.LIVE else PackState.LEASED,
            target=max(terms.copies(change.copies), old.target if old is not None and counted else 0),
            lease_until=max(lease_until, (old.lease_until if old is not None else None) or 0),
            places=_merged(old.places if old is not None and counted else {}, receipts, terms),
            number=None if old is None else old.number,
        )
        if not has_enough(pack, needed, terms):
            too_few.append(new.digest)
            continue
        view.packs[new.digest] = pack
        if not counted:
            used += new.size
    if used > view.used[change.vault]:
        if change.quota is not None and used > change.quota:
            raise QuotaExceeded(
                f"this vault may hold {change.quota} bytes of packs and would hold {used}: delete something, "
                "or ask the network's operator for more",
                quota=change.quota,
                used=view.used[change.vault],
            )
        view.used[change.vault] = used
    return too_few


def _merged(old: Mapping[int, int], new: Mapping[int, int], terms: Terms) -> dict[int, int]:
    """Places with their newest sequences, one for each store: the newest receipts say who has it."""
    places: dict[int, int] = {}
    by_store: dict[bytes, int] = {}
    for number, sequence in (*old.items(), *new.items()):
        store = terms.stores[number]
        other = by_store.get(store)
        if other is not None and other != number:
            del places[other]
        by_store[store] = number
        places[number] = max(sequence, places.get(number, 0))
    return places


def _renew(change: Change, view: View, terms: Terms) -> None:
    """Packs that are said to be known are leased anew, so that the refs which follow find them."""
    lease_until = int(terms.slow + terms.lease_s)
    for digest in change.known:
        pack = view.packs.get(digest)
        if pack is None or pack.vault != change.vault or pack.state not in (PackState.LEASED, PackState.RELEASED):
            continue
        if has_enough(pack, _needed(change, terms, change.copies), terms):
            view.packs[digest] = replace(pack, state=PackState.LEASED, lease_until=lease_until)


def _apply_group(group: Sequence[Ref], change: Change, view: View, terms: Terms) -> list[RefResult]:
    layer = view.layer()
    results = [_apply(ref, change, layer, terms) for ref in group]
    if all(result is COMMITTED for result in results):
        view.take(layer)
        return results
    return [NOT_DONE if result is COMMITTED else result for result in results]


def _apply(ref: Ref, change: Change, view: View, terms: Terms) -> RefResult:
    """One ref by compare-and-set; on success its packs are live and what it replaces is history."""
    key = (change.vault, ref.tag)
    present = view.refs.get(key)
    if (present is not None and present.etag == ref.etag) or ref.etag in view.past.get(key, {}):
        return COMMITTED
    if change.again:
        fits = True
    elif present is None:
        fits = ref.version == 1 and ref.previous is None
    else:
        fits = ref.version == present.version + 1 and ref.previous == present.etag
    if not fits:
        if ref.ancestor and present is not None and present.kind == terms.directory:
            return COMMITTED
        if present is not None and not present.record:
            return RefResult(state="conflict", version=present.version, etag=Digest(present.etag))
        return RefResult(state="conflict", record=None if present is None else present.record)
    newer = present if change.again and present is not None and ref.version <= present.version else None
    if newer is not None and (not newer.record or ref.version in view.past.get(key, {}).values()):
        return COMMITTED  # deleted long ago; or its pack is of a write that was never committed, or that lost
    keep = view.keeps.get((change.vault, ref.keep))
    if keep is None:
        return RefResult(state="packs-gone")
    asked = terms.copies(ref.survive + 1)
    needed = _needed(change, terms, asked)
    found = {digest: view.packs.get(digest) for digest in keep}
    gone = [digest for digest, pack in found.items() if not is_there(pack, change.vault, needed, terms)]
    if gone:
        return RefResult(state="packs-gone", packs=gone)
    for digest, pack in found.items():
        assert pack is not None
        if pack.state is not PackState.LIVE or pack.target < asked or pack.lease_until is not None:
            view.packs[digest] = replace(pack, state=PackState.LIVE, target=max(pack.target, asked), lease_until=None)
    new, old = replace(ref, committed=terms.wall), present
    if newer is not None:
        new, old = newer, new  # it was replaced since: it belongs to the history
    if old is not None and old.record:
        view.replaced.append((change.vault, old))
        view.past[key] = {**view.past.get(key, {}), old.etag: old.version}
    view.refs[key] = new
    return COMMITTED
