"""One request as its handler sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.parse import parse_qsl

from holdfast import errors
from holdfast.auth.documents import from_text
from holdfast.auth.identity import Id
from holdfast.blob import Buffer
from holdfast.wire.channel import BODY_BYTES_PER_S_MIN
from holdfast.wire.connection import Connection
from holdfast.wire.request_head import RequestHead

QUERY_FIELDS_MAX = 100


class Call:
    """One request under way. ``caller`` has signed it for us; on unsigned routes it is None.

    ``headers``: by lower-case names; ``path``: the variable segments; ``size``: bytes of the body, if one is announced.
    """

    __slots__ = ("_connection", "caller", "grant", "head", "headers", "path", "size")

    def __init__(self, head: RequestHead, connection: Connection, path: Mapping[str, str]) -> None:
        self._connection = connection
        self.head = head
        self.headers = head.headers
        self.path = path
        self.caller: Id | None = None
        grant = head.headers.get("holdfast-grant")
        self.grant: bytes | None = None if grant is None else from_text(grant)
        self.size = head.size

    def query(self) -> dict[str, str]:
        """The fields of the query; BadRequest for one that comes twice."""
        try:
            pairs = parse_qsl(self.head.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError as error:
            raise errors.BadRequest("too many fields in the query") from error
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise errors.BadRequest("a field of the query comes twice")
        return fields

    def body(self, bytes_per_s_min: float = BODY_BYTES_PER_S_MIN) -> AsyncIterator[Buffer]:
        """Exactly ``size`` bytes as they come, else BadRequest; asks for them if the client waits to be asked.

        Buffers of at most 1 MiB, each of which is only valid until the next. A body slower than ``bytes_per_s_min``
        after its first 10 seconds, or silent for 30, is TimedOut. Once.
        """
        return self._connection.body(bytes_per_s_min)
