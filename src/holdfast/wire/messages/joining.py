"""Joining a network: invites, devices, and who is no longer trusted."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from holdfast.auth.documents import Count
from holdfast.auth.identity import Id
from holdfast.auth.invites import Role
from holdfast.wire.messages.form import Answer, Name, Request


class NodeFacts(Request, frozen=True, kw_only=True):
    """What a node says of itself. ``store``: 16 bytes; ``url``: where others reach it, empty until it first runs."""

    name: Name
    store: bytes
    url: str = ""
    domain: Name
    capacity: Count
    always_on: bool = False


class Join(Request, frozen=True, kw_only=True):
    """A newcomer, who signs the request with its own key, and its proof that it holds the invite."""

    invite: bytes
    role: Role
    proof: bytes
    node: NodeFacts | None = None
    certificate: bytes | None = None


class Settings(Answer, frozen=True, kw_only=True):
    """What the network's members adopt."""

    heartbeat_interval: float
    offline_after: int
    survive: int
    floor: int


class Joined(Answer, frozen=True, kw_only=True):
    """``proof``: the coordinator's HMAC; ``certificate``: a device's certificate, countersigned."""

    proof: bytes
    name: str
    urls: list[str]
    settings: Settings
    epoch: int
    commit: int
    certificate: bytes | None = None


class InviteRequest(Request, frozen=True, kw_only=True):
    """``sealing_key``: a one-time X25519 key; ``expires``: seconds from now; ``quota``: of a user, None no limit."""

    role: Role
    uses: Annotated[int, Meta(ge=1, le=10_000)]
    expires: Annotated[int, Meta(ge=1, le=366 * 86400)]
    quota: Count | None = None
    sealing_key: bytes


class InviteAnswer(Answer, frozen=True, kw_only=True):
    """All of an invite but its secret, which is sealed to the asker's key."""

    id: bytes
    urls: list[str]
    sealed_secret: bytes
    expires: int


class DeviceRequest(Request, frozen=True, kw_only=True):
    """Another device of the caller's vault."""

    certificate: bytes


class DeviceAnswer(Answer, frozen=True, kw_only=True):
    certificate: bytes
    serial: int


class RevocationRequest(Request, frozen=True, kw_only=True):
    """A device of the caller's vault (or, by an operator, any device or node invite) that is no longer trusted."""

    device: Id | None = None
    invite: bytes | None = None
