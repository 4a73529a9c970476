"""Device certificates: the vault's owner names a device, the coordinator countersigns, nodes accept only both.

Revocation counts on serials: heartbeat answers carry the revocation serial, and the list when it rose.
"""

from __future__ import annotations

from holdfast.auth.documents import Count, Document, open_signed, read
from holdfast.auth.identity import Id, verify
from holdfast.errors import BadRequest, Denied

READ, WRITE, DELETE = 1, 2, 4
ALL_RIGHTS = READ | WRITE | DELETE


class Certificate(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signed by the vault's key. ``rights`` is a sum of READ, WRITE, DELETE; ``not_after`` seconds since 1970."""

    KIND = "certificate"

    vault: Id
    device: Id
    rights: Count
    not_after: Count


class Countersigned(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A certificate's envelope with the coordinator's serial number (from 1, rising)."""

    KIND = "countersigned"

    certificate: bytes
    serial: Count


def open_certificate(envelope: bytes) -> Certificate:
    """A certificate signed by the vault it names; BadRequest or Denied if it is not."""
    document, body, signature = read(Certificate, envelope)
    if not 0 < document.rights <= ALL_RIGHTS:
        raise BadRequest("certificate: unknown rights")
    if not verify(document.vault, signature, body):
        raise Denied("this certificate was not signed by its vault")
    return document


def open_countersigned(envelope: bytes, coordinator: Id) -> tuple[Certificate, int]:
    """(certificate, serial), both signatures checked; whether it is revoked or expired is for the caller to see."""
    outer = open_signed(Countersigned, envelope, coordinator)
    if outer.serial < 1:
        raise BadRequest("countersigned: serials begin at 1")
    return open_certificate(outer.certificate), outer.serial
