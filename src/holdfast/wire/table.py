"""The routes of one service: which handler answers which method of which path, and how often it did."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast import errors
from holdfast.telemetry import RouteMetrics
from holdfast.wire.routes import Route

if TYPE_CHECKING:
    from holdfast.wire.call import Call

Handler: TypeAlias = "Callable[[Call, Any], Awaitable[Any]]"
_Names: TypeAlias = tuple[tuple[int, str], ...]


class Served:
    """A route with its handler. ``always``: answered also while the service refuses all else."""

    __slots__ = ("always", "handler", "metrics", "route")

    def __init__(self, route: Route[Any, Any], handler: Handler, always: bool, metrics: RouteMetrics) -> None:
        self.route = route
        self.handler = handler
        self.always = always
        self.metrics = metrics


class Table:
    """Routes by method and path. ``{name}`` in a path matches one segment that is not empty."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Served]] = {}
        self._open: dict[int, dict[_Names, dict[str, dict[str, Served]]]] = {}
        """By number of segments, by the variable ones, and by the path with nothing in their places."""

    def add(self, served: Served) -> None:
        parts = served.route.path.split("/")
        names = tuple((number, part[1:-1]) for number, part in enumerate(parts) if part[:1] == "{")
        if names:
            paths = self._open.setdefault(len(parts), {}).setdefault(names, {})
            paths.setdefault(_without(parts, names), {})[served.route.method] = served
        else:
            self._exact.setdefault(served.route.path, {})[served.route.method] = served

    def find(self, method: str, path: str) -> tuple[Served, dict[str, str]]:
        """The route and the variable segments; NotFound for an unknown path, BadRequest for a method it has not."""
        methods, found = self._exact.get(path), dict[str, str]()
        if methods is None:
            parts = path.split("/")
            for names, paths in self._open.get(len(parts), {}).items():
                methods = paths.get(_without(parts, names))
                if methods is not None:
                    found = {name: parts[number] for number, name in names}
                    break
        if methods is None or not all(found.values()):
            raise errors.NotFound(f"no route {path[:200]!r}")
        served = methods.get(method)
        if served is None:
            raise errors.BadRequest(f"{method[:16]} is not a method of this route")
        return served, found


def _without(parts: list[str], names: _Names) -> str:
    fixed = parts.copy()
    for number, _ in names:
        fixed[number] = ""
    return "/".join(fixed)
