"""Which version of a followed manifest a node takes: a pure decision over what it and its peers hold.

Who follows takes what a client put somewhere, never what another follower has just as a copy. Versions have no order
of their own and clocks are not asked: new is what a peer did not have when this node last agreed with it. What clients
of this node changed is never overwritten, and what vanishes elsewhere stays here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from holdfast.auth.identity import Id
from holdfast.blob import Digest


@dataclass(frozen=True, slots=True)
class Copy:
    """One peer's manifest. ``followed``: it took it by following, too, so it says nothing about what is new."""

    peer: Id
    etag: Digest
    followed: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What a node remembers of a name. ``agreed``: the version that it last had in common with a client's somewhere
    else; ``taken``: it came by following; ``seen``: what each such peer had then."""

    agreed: Digest | None = None
    taken: bool = False
    seen: Mapping[Id, Digest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Take:
    """Bring ``etag`` here, in place of what was agreed on."""

    etag: Digest


@dataclass(frozen=True, slots=True)
class Agree:
    """What is here is what clients put elsewhere: nothing to bring."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A person has to choose; ours is kept."""

    reason: str


Step: TypeAlias = Take | Agree | Conflict | None


def decide(ours: Digest | None, known: Known, copies: Sequence[Copy]) -> Step:
    """``ours``: what is here, None for nothing; ``copies``: of the peers that answered."""
    new = {one.etag for one in copies if not one.followed and known.seen.get(one.peer) != one.etag}
    if not new and ours is None:
        new = {one.etag for one in copies}  # whoever put it is away, or has deleted it since
    if not new:
        return None
    if new == {ours}:
        return Agree()
    if len(new) > 1:
        return Conflict("nodes keep different ones")
    if ours is not None and ours != known.agreed:
        return Conflict("it was changed here, and elsewhere")
    return Take(new.pop())


def agreed(known: Known, etag: Digest, copies: Sequence[Copy], *, taken: bool) -> Known:
    """What is remembered once ``etag`` is here. Peers that did not answer are remembered as they were."""
    now = {one.peer: one.etag for one in copies if not one.followed}
    return Known(etag, taken or (known.taken and known.agreed == etag), {**known.seen, **now})
