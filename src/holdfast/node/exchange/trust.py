"""Who may use the exchange between nodes: authorized keys, peers, members of the network, or everybody who asks.

``authorized_keys`` in the node's directory: one id (52 digits) to a line, then its rights, ``read``, ``write``,
``delete`` or ``peer`` joined by commas, then a comment. What a vault owns is never reached by any of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.errors import BadConfig, BadRequest, Denied, Unauthorized
from holdfast.files import Files, read_file, write_file
from holdfast.node.membership import Membership
from holdfast.node.permits import Permits, Reader
from holdfast.wire.serve import Call

FILE_NAME = "authorized_keys"
RIGHTS = frozenset({"read", "write", "delete", "peer"})
_BYTES_MAX = 4 << 20
_HEAD = b"# One id to a line, then what it may: read,write,delete,peer - then a comment.\n"

_log = logs.get_logger(__name__)


class AuthorizedKeys:
    """The file, as last read. ``load`` blocks."""

    def __init__(self, directory: Path, *, files: Files) -> None:
        self.path = directory / FILE_NAME
        self._files = files
        self._rights: Mapping[Id, frozenset[str]] = {}

    @property
    def exists(self) -> bool:
        return self._files.size(self.path) is not None

    def create(self) -> None:
        """An empty one, unless there is one."""
        if not self.exists:
            write_file(self._files, self.path, _HEAD)

    def load(self) -> None:
        """Reads it again; none is an empty one. BadConfig for a line that says nothing clear: then nothing changes."""
        try:
            data = read_file(self._files, self.path, _BYTES_MAX)
        except OSError as error:
            raise BadConfig(f"{self.path} cannot be read: {error.strerror or error}") from error
        self._rights = _parse(data or b"", self.path)

    def reload(self) -> None:
        """As ``load``, but a mistake in the file is only logged."""
        try:
            self.load()
        except BadConfig as error:
            _log.warning("authorized_keys_refused", reason=error.detail)

    def of(self, id_: Id) -> frozenset[str]:
        return self._rights.get(id_, frozenset())


def _parse(data: bytes, path: Path) -> dict[Id, frozenset[str]]:
    found: dict[Id, frozenset[str]] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        rights = frozenset(words[1].split(",")) if len(words) > 1 else frozenset()
        try:
            id_ = Id.parse(words[0])
        except BadRequest as error:
            raise BadConfig(f"{path}, line {number}: {error.detail}") from error
        if not rights or not rights <= RIGHTS:
            raise BadConfig(f"{path}, line {number}: after the id its rights are needed: read,write,delete or peer")
        found[id_] = found.get(id_, frozenset()) | rights
    return found


@dataclass(frozen=True, slots=True)
class Allowed:
    """What one caller may do in the exchange. ``reader`` also holds what its credential gives it."""

    reader: Reader
    write: bool = False
    delete: bool = False


class Trust:
    """Judges callers. Plain state; never blocks."""

    def __init__(
        self,
        *,
        me: Id,
        membership: Membership,
        permits: Permits,
        keys: AuthorizedKeys,
        is_peer: Callable[[Id], bool],
        open_read: bool,
        stranger: Callable[[], None] = lambda: None,
    ) -> None:
        """``is_peer``: ids that the coordinator's registry names as nodes. ``stranger`` is called when somebody unknown
        asks, who may be a node that joined a moment ago."""
        self._me = me
        self._membership = membership
        self._permits = permits
        self._keys = keys
        self._is_peer = is_peer
        self._open_read = open_read
        self._stranger = stranger

    def allowed(self, call: Call) -> Allowed:
        """What whoever sent ``call`` may do; Unauthorized or Denied without a right of any kind.

        ``Cache-Control`` narrows where a missing blob is looked for: ``only-if-cached`` nowhere, ``no-peers`` only at
        the origin. Other nodes may ask for no more than that.
        """
        caller = call.caller
        control = {word.strip().lower() for word in call.headers.get("cache-control", "").split(",")}
        if caller is None:
            if not self._open_read:
                raise Unauthorized("this request needs a signature of the holdfast profile")
            return Allowed(Reader(shared=True, pulls=_pulls(control, "all")))
        if caller == self._me:
            return Allowed(Reader(everything=True, shared=True, pulls=_pulls(control, "all")), True, True)
        rights = self._keys.of(caller)
        peer = "peer" in rights or self._is_peer(caller)
        may_pull = "all" if "read" in rights or self._open_read else "origin" if peer else "no"
        shared = peer or "read" in rights or self._open_read
        if call.grant is not None or caller == self._membership.coordinator:
            reader = self._permits.reader(call.grant, caller)
            if reader.vault is not None and reader.digests is None:  # a device of the network
                shared, may_pull = True, "all"
            reader = Reader(
                everything=reader.everything,
                vault=reader.vault,
                digests=reader.digests,
                shared=shared,
                pulls=_pulls(control, may_pull),
            )
        elif shared:
            reader = Reader(shared=True, pulls=_pulls(control, may_pull))
        elif rights:
            reader = Reader()
        else:
            self._stranger()
            reader = self._permits.reader(None, caller)
        return Allowed(reader, "write" in rights, "delete" in rights)

    def reader(self, call: Call) -> Reader:
        """What the caller may read; Unauthorized, Denied."""
        return self.allowed(call).reader

    def require_shared(self, call: Call) -> Reader:
        """Denied unless the caller may read what no vault owns."""
        reader = self.reader(call)
        if not reader.shared and not reader.everything:
            raise Denied("this needs the right to read what nodes exchange: see authorized_keys")
        return reader

    def require_peer(self, call: Call) -> None:
        """Denied unless the caller is a node that is trusted as one."""
        caller = call.caller
        if caller is None or not ("peer" in self._keys.of(caller) or self._is_peer(caller)):
            raise Denied("this is for peers: see authorized_keys")

    def require_write(self, call: Call) -> None:
        if not self.allowed(call).write:
            raise Denied(f"this needs the right write in this node's {FILE_NAME}")

    def require_delete(self, call: Call) -> None:
        if not self.allowed(call).delete:
            raise Denied(f"this needs the right delete in this node's {FILE_NAME}")


def _pulls(control: set[str], may: str) -> Literal["no", "origin", "all"]:
    if "only-if-cached" in control or may == "no":
        return "no"
    if "no-peers" in control or may == "origin":
        return "origin" if may == "all" or "no-peers" in control else "no"
    return "all"
