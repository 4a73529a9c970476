"""Checks nodes' receipts. What is false refuses the request; what no longer counts is left out."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.auth.documents import read
from holdfast.auth.grants import Receipt
from holdfast.auth.identity import Id, verify
from holdfast.blob import Digest
from holdfast.coordinator.registry import Node
from holdfast.errors import BadRequest, Denied


def check_receipts(
    digest: Digest, size: int, envelopes: list[bytes], node_of: Callable[[Id], Node | None], oldest: float
) -> dict[int, int]:
    """Node number -> write sequence, from receipts for exactly this pack.

    A receipt that its node did not sign is Denied, one for another digest or size a BadRequest. One of an unknown node,
    for a store that is not the node's, or older than ``oldest`` (seconds since 1970), does not count: the node may have
    been removed, got another disk, or cleaned up since.
    """
    found: dict[int, int] = {}
    for envelope in envelopes:
        receipt, body, signature = read(Receipt, envelope)
        if not verify(receipt.node, signature, body):
            raise Denied(f"a receipt was not signed by its node {receipt.node.short}")
        if receipt.digest != digest or receipt.size != size:
            raise BadRequest(f"a receipt for another blob was sent with pack {digest}")
        if receipt.sequence < 0:
            raise Denied("a receipt's write sequence is negative")
        node = node_of(receipt.node)
        if node is None or receipt.store != node.store or receipt.time < oldest:
            continue
        found[node.number] = max(receipt.sequence, found.get(node.number, 0))
    return found
