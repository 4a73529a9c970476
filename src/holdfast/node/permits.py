"""Who may do what on this node: opens grants and certificates, once each, and compares every field.

A credential comes in ``Holdfast-Grant``. Whoever brings none, or a wrong one, is Denied before anything is looked up,
so nobody learns from a refusal whether a blob is here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from holdfast.auth.certificates import READ, Certificate, open_countersigned
from holdfast.auth.documents import open_signed, uncanonical
from holdfast.auth.grants import GRANT_LIFE_S_MAX, Grant
from holdfast.auth.identity import Id
from holdfast.auth.signing import SKEW_S
from holdfast.blob import Digest
from holdfast.errors import BadRequest, Denied
from holdfast.node.ledger.rows import SHARED, Entry
from holdfast.node.membership import Membership

OPENED_MAX = 4096
"""Credentials whose signatures were checked and that are remembered."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What one caller may read: everything, a vault's blobs, some digests of a vault, or what no vault owns.

    ``pulls``: whether a blob that is not here is looked for: nowhere, at the origin, or at peers too.
    """

    everything: bool = False
    vault: Id | None = None
    digests: frozenset[Digest] | None = None
    shared: bool = False
    pulls: Literal["no", "origin", "all"] = "no"

    def allows(self, entry: Entry) -> bool:
        if self.everything or (self.shared and entry.kept in SHARED):
            return True
        if self.vault is None or entry.vault != self.vault:
            return False
        return self.digests is None or entry.digest in self.digests


class Permits:
    """Judges credentials for one node and store. ``now`` is the coordinator's time."""

    def __init__(self, *, node: Id, store: bytes, membership: Membership, now: Callable[[], float]) -> None:
        self._node = node
        self._store = store
        self._membership = membership
        self._now = now
        self._opened: OrderedDict[bytes, Grant | tuple[Certificate, int]] = OrderedDict()

    def put(self, envelope: bytes | None, caller: Id) -> Grant:
        """The put grant in ``envelope``; Denied or BadRequest if it does not let ``caller`` put here now."""
        return self._grant(envelope, caller, ("put",))

    def delete(self, envelope: bytes | None, caller: Id, digest: Digest) -> Grant:
        """The delete or trim grant for ``digest``."""
        grant = self._grant(envelope, caller, ("delete", "trim"))
        if grant.digests != (digest,):
            raise Denied("this grant names another blob")
        return grant

    def reader(self, envelope: bytes | None, caller: Id) -> Reader:
        """What ``caller`` may read; Denied without a right of any kind."""
        if caller == self._membership.coordinator:
            return Reader(everything=True)
        if envelope is None:
            raise Denied("reading needs a device's certificate or a get grant in Holdfast-Grant")
        known = self._recall(envelope)
        if isinstance(known, Grant) or (known is None and _kind(envelope) == "holdfast/grant"):
            grant = self._grant(envelope, caller, ("get",))
            return Reader(vault=grant.vault, digests=frozenset(grant.digests))
        return Reader(vault=self._certificate(envelope, caller).vault)

    def only_coordinator(self, caller: Id) -> None:
        """Denied unless ``caller`` is the coordinator."""
        if caller != self._membership.coordinator:
            raise Denied("only this node's coordinator may ask that")

    def _grant(
        self, envelope: bytes | None, caller: Id, kinds: tuple[Literal["put", "get", "delete", "trim"], ...]
    ) -> Grant:
        if envelope is None:
            raise Denied(f"this needs a {kinds[0]} grant in Holdfast-Grant")
        grant = self._recall(envelope)
        if grant is None:
            grant = open_signed(Grant, envelope, self._membership.coordinator)
            self._remember(envelope, grant)
        if not isinstance(grant, Grant) or grant.kind not in kinds:
            raise Denied(f"this needs a {kinds[0]} grant, and another credential came")
        if grant.node != self._node:
            raise Denied("this grant is for another node")
        if grant.store != self._store:
            raise Denied("this grant is for another store than this node serves now")
        if grant.subject != caller:
            raise Denied("this grant was given to somebody else")
        now = self._now()
        if now > grant.expires:
            raise Denied("this grant has expired; ask for a new one")
        if grant.expires > now + GRANT_LIFE_S_MAX + SKEW_S:
            raise Denied("this grant would live too long; check both clocks (holdfast doctor)")
        if grant.epoch < self._membership.epoch[0]:
            raise Denied(
                f"this grant is of epoch {grant.epoch}, which is over; ask for a new one", reason="stale-epoch"
            )
        self._membership.hear(grant.epoch, grant.commit, envelope)
        return grant

    def _certificate(self, envelope: bytes, caller: Id) -> Certificate:
        opened = self._recall(envelope)
        if opened is None:
            opened = open_countersigned(envelope, self._membership.coordinator)
            self._remember(envelope, opened)
        if isinstance(opened, Grant):
            raise Denied("this needs a certificate")
        certificate, serial = opened
        if certificate.device != caller:
            raise Denied("this certificate belongs to another device")
        if not certificate.rights & READ:
            raise Denied("this device may not read")
        if self._now() > certificate.not_after:
            raise Denied("this device's certificate has expired")
        if serial in self._membership.revoked:
            raise Denied("this device was revoked")
        return certificate

    def _recall(self, envelope: bytes) -> Grant | tuple[Certificate, int] | None:
        found = self._opened.get(envelope)
        if found is not None:
            self._opened.move_to_end(envelope)
        return found

    def _remember(self, envelope: bytes, opened: Grant | tuple[Certificate, int]) -> None:
        self._opened[envelope] = opened
        if len(self._opened) > OPENED_MAX:
            self._opened.popitem(last=False)


def _kind(envelope: bytes) -> str:
    """What an envelope says it is; its signature is still to be checked."""
    parts = uncanonical(envelope, "credential")
    if isinstance(parts, list) and len(parts) == 2 and isinstance(parts[0], bytes):
        content = uncanonical(parts[0], "credential")
        if isinstance(content, list) and content and isinstance(content[0], str):
            return content[0]
    raise BadRequest("Holdfast-Grant: neither a grant nor a certificate")
