"""Grants (a coordinator lets somebody do something on one node) and receipts (a node's word that a blob is durable)."""

from __future__ import annotations

from typing import Literal

from holdfast.auth.documents import Count, Document
from holdfast.auth.identity import Id
from holdfast.blob import Digest

GRANT_LIFE_S_MAX = 3600
STORE_ID_BYTES = 16


class Grant(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Permission on one node, signed by its coordinator.

    A put grant is a budget of bytes, reusable until spent. A get grant names digests. Delete and trim name one digest
    and the write sequence of the copy that may go. ``expires`` is seconds since 1970, at most an hour ahead.
    """

    KIND = "grant"

    kind: Literal["put", "get", "delete", "trim"]
    node: Id
    store: bytes
    vault: Id
    subject: Id
    digests: tuple[Digest, ...] = ()
    budget: Count = 0
    sequence: Count = 0
    epoch: Count
    commit: Count
    expires: Count


class Receipt(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``node`` holds ``digest`` durably in ``store``; ``sequence`` is the copy's write sequence, ``time`` seconds."""

    KIND = "receipt"

    node: Id
    store: bytes
    digest: Digest
    size: Count
    sequence: Count
    time: Count
