"""The one form of a commit as a device sends it, online or from the outbox."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from holdfast.auth.identity import Id, Identity
from holdfast.blob import Digest
from holdfast.client.writing.shards import Sent
from holdfast.codec import refs
from holdfast.wire import messages as m


def commit_request(
    vault: Id,
    device: Identity,
    groups: Sequence[Sequence[m.RefChange]],
    *,
    new: Sequence[m.PackReceipts],
    known: Sequence[Digest],
    keeps: Sequence[bytes],
    allow_degraded: bool,
    heard: tuple[int, int],
) -> m.CommitRequest:
    """Signed by the device over all etags in their order. ``heard``: the highest epoch and commit number known."""
    etags = b"".join([refs.etag(change.record) for group in groups for change in group])
    epoch, commit = heard
    return m.CommitRequest(
        vault=vault,
        packs=list(new),
        known=sorted(known)[: m.HAS_DIGESTS_MAX],
        keeps=list(keeps),
        groups=[list(group) for group in groups],
        allow_degraded=allow_degraded,
        signature=device.sign(hashlib.sha256(etags).digest()),
        epoch=epoch,
        commit=commit,
    )


def receipts_of(sent: Sent) -> m.PackReceipts:
    """A pack with what its nodes have signed."""
    return m.PackReceipts(digest=sent.digest, size=sent.size, receipts=list(sent.receipts))
