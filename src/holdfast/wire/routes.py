"""Every route: path, what is asked and what is answered. Servers and the client read the same table.

``docs/openapi.json`` is made from it. ``body`` says what a request carries: nothing, a message, or a blob.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from holdfast.wire import exchange_messages as x
from holdfast.wire import messages as m

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True)
class Route(Generic[Q, A]):
    """One method of one path. ``{name}`` parts of the path are single segments, never empty.

    ``request`` is the message in the body (POST, PUT) or in the query (GET), None for none. ``signed``: who asks must
    sign. ``idempotent``: trying again after a lost answer has no second effect. ``open``: may come unsigned, and the
    handler decides. A ``msgspec.Raw`` is JSON that is handed on as the bytes it is; ``bytes_max``: of a request's body.
    """

    method: Literal["GET", "HEAD", "PUT", "POST", "DELETE"]
    path: str
    request: type[Q] | None
    answer: type[A]
    signed: bool = True
    idempotent: bool = True
    blob: Literal["no", "up", "down", "foreign"] = "no"
    """``foreign``: a body of any bytes, which the handler reads and judges."""
    first_byte_s: float = 10.0
    """How long the client waits for the first byte of the answer."""
    open: bool = False
    bytes_max: int = m.JSON_BYTES_MAX

    @property
    def label(self) -> str:
        """For metrics and logs: no ids in it."""
        return f"{self.method} {self.path}"

    def where(self, parts: Mapping[str, str], message: Any) -> str:
        """The path with its ``parts``, and with what is asked in the query if the route has no body."""
        where = self.path
        if parts:
            where = where.format_map({name: quote(value, safe="") for name, value in parts.items()})
        if message is not None and self.method not in ("POST", "PUT"):
            fields = msgspec.to_builtins(message, enc_hook=str)
            query = urlencode({name: str(value) for name, value in fields.items() if value is not None})
            where += f"?{query}" if query else ""  # a bare "?" would be signed, but not sent
        return where


COORDINATOR_FIRST_BYTE_S = 5.0


def _coordinator(
    method: Literal["GET", "PUT", "POST"], path: str, request: type[Q] | None, answer: type[A], idempotent: bool = True
) -> Route[Q, A]:
    return Route(method, path, request, answer, idempotent=idempotent, first_byte_s=COORDINATOR_FIRST_BYTE_S)


HEALTH: Route[None, m.Health] = Route("GET", "/v1/health", None, m.Health, signed=False)

JOIN = _coordinator("POST", "/v1/join", m.Join, m.Joined)
INVITES = _coordinator("POST", "/v1/invites", m.InviteRequest, m.InviteAnswer)
DEVICES = _coordinator("POST", "/v1/devices", m.DeviceRequest, m.DeviceAnswer)
REVOCATIONS = _coordinator("POST", "/v1/revocations", m.RevocationRequest, m.Empty)
NODES: Route[None, m.NodeList] = _coordinator("GET", "/v1/nodes", None, m.NodeList)
HEARTBEAT = _coordinator("POST", "/v1/nodes/heartbeat", m.Heartbeat, m.HeartbeatAnswer)
PLAN = _coordinator("POST", "/v1/shards/placement-plan", m.PlanRequest, m.Plan)
REGISTER = _coordinator("POST", "/v1/shards/register", m.RegisterRequest, m.Registered)
COMMIT = _coordinator("POST", "/v1/commit", m.CommitRequest, m.Committed)
REFS = _coordinator("GET", "/v1/refs/{vault}", m.RefQuery, m.RefPage)
REF: Route[None, m.RefAnswer] = _coordinator("GET", "/v1/refs/{vault}/{tag}", None, m.RefAnswer)
REFS_FIND = _coordinator("POST", "/v1/refs/{vault}", m.RefsQuestion, m.RefsAnswer)
REF_HISTORY: Route[None, m.RefHistory] = _coordinator("GET", "/v1/refs/{vault}/{tag}/history", None, m.RefHistory)
VAULT_PACKS = _coordinator("GET", "/v1/vaults/{vault}/packs", m.VaultPacksQuery, m.VaultPacks)
PACKS_READ = _coordinator("POST", "/v1/vaults/{vault}/packs/read", m.PacksRead, m.Empty)
POLICY: Route[None, m.Policy] = _coordinator("GET", "/v1/policy", None, m.Policy)
POLICY_CHANGE = _coordinator("PUT", "/v1/policy", m.PolicyChange, m.Policy)
ADDRESSES = _coordinator("PUT", "/v1/addresses", m.AddressChange, m.Addresses)
STATUS: Route[None, m.Status] = _coordinator("GET", "/v1/status", None, m.Status)
REPAIR = _coordinator("POST", "/v1/repair", m.RepairOrder, m.RepairState)
NODE_DRAIN = _coordinator("POST", "/v1/nodes/{id}/drain", m.DrainOrder, m.NodeInfo)
NODE_REMOVE = _coordinator("POST", "/v1/nodes/{id}/remove", m.RemoveOrder, m.Empty)
NODE_MAINTENANCE = _coordinator("POST", "/v1/nodes/{id}/maintenance", m.MaintenanceOrder, m.NodeInfo)
TASKS: Route[m.TaskQuery, m.TaskPage] = Route(
    # a lease that was given to a lost answer simply ends
    "GET", "/v1/replication-tasks", m.TaskQuery, m.TaskPage, first_byte_s=m.TASK_WAIT_S_MAX + COORDINATOR_FIRST_BYTE_S
)  # fmt: skip
TASK_COMPLETE = _coordinator("POST", "/v1/replication-tasks/{task}/complete", m.TaskDone, m.Empty)
TASK_RENEW = _coordinator("POST", "/v1/replication-tasks/{task}/renew", m.TaskRenewal, m.Empty)
TASK_FAIL = _coordinator("POST", "/v1/replication-tasks/{task}/fail", m.TaskFailure, m.Empty)

BLOB_GET: Route[None, m.Empty] = Route("GET", "/v1/blobs/{digest}", None, m.Empty, blob="down", open=True)
BLOB_HEAD: Route[None, m.Empty] = Route("HEAD", "/v1/blobs/{digest}", None, m.Empty, blob="down", open=True)
BLOB_PUT: Route[None, m.BlobStored] = Route("PUT", "/v1/blobs/{digest}", None, m.BlobStored, blob="up")
BLOB_DELETE: Route[None, m.Empty] = Route("DELETE", "/v1/blobs/{digest}", None, m.Empty)
BLOB_VERIFY: Route[None, m.Verified] = Route("POST", "/v1/blobs/{digest}/verify", None, m.Verified, first_byte_s=60.0)
HAS = Route("POST", "/v1/blobs/has", m.HasRequest, m.HasAnswer)
INVENTORY = Route("GET", "/v1/inventory", m.InventoryQuery, m.InventoryPage)
INFO: Route[None, m.NodeOverview] = Route("GET", "/v1/info", None, m.NodeOverview)

MANIFESTS = Route("GET", "/v1/manifests", x.ManifestQuery, x.ManifestList, open=True)
MANIFEST_GET = Route("GET", "/v1/manifests/{ref}", x.ManifestFrom, msgspec.Raw, open=True)
MANIFEST_HEAD: Route[None, m.Empty] = Route("HEAD", "/v1/manifests/{ref}", None, m.Empty, open=True)
MANIFEST_PUT = Route(
    "PUT", "/v1/manifests/{ref}", msgspec.Raw, x.ManifestSaved, bytes_max=x.MANIFEST_BYTES_MAX, first_byte_s=120.0
)
MANIFEST_DELETE: Route[None, m.Empty] = Route("DELETE", "/v1/manifests/{ref}", None, m.Empty)
HINT = Route("PUT", "/v1/hints/{ref}", x.Hint, m.Empty, bytes_max=1024)
PULL = Route("POST", "/v1/pulls", x.PullRequest, x.PullAnswer, first_byte_s=x.PULL_WAIT_S_MAX + 10.0)
WHERE: Route[None, x.BlobPlaces] = Route("GET", "/v1/blobs/{digest}/where", None, x.BlobPlaces)
PEERS: Route[None, x.PeerList] = Route("GET", "/v1/peers", None, x.PeerList)
STATS: Route[None, x.ExchangeStats] = Route("GET", "/v1/stats", None, x.ExchangeStats)

EXCHANGE_ROUTES = (
    MANIFESTS, MANIFEST_GET, MANIFEST_HEAD, MANIFEST_PUT, MANIFEST_DELETE, HINT, PULL, WHERE, PEERS, STATS,
)  # fmt: skip

COORDINATOR_ROUTES = (
    HEALTH, JOIN, INVITES, DEVICES, REVOCATIONS, NODES, HEARTBEAT, PLAN, REGISTER, COMMIT, REFS, REF, REFS_FIND,
    REF_HISTORY, VAULT_PACKS, PACKS_READ, POLICY, POLICY_CHANGE, ADDRESSES, STATUS, REPAIR, NODE_DRAIN, NODE_REMOVE,
    NODE_MAINTENANCE, TASKS, TASK_COMPLETE, TASK_RENEW, TASK_FAIL,
)  # fmt: skip
NODE_ROUTES = (
    HEALTH, BLOB_GET, BLOB_HEAD, BLOB_PUT, BLOB_DELETE, BLOB_VERIFY, HAS, INVENTORY, INFO, *EXCHANGE_ROUTES,
)  # fmt: skip
