"""How fast each node answers, from what this process has seen: for hedged reads and for the order of asking."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.auth.identity import Id

_WEIGHT = 0.2  # of the newest sample
_REST_S = 30.0


@dataclass(slots=True)
class _Node:
    first_byte_s: float = 0.0  # EWMA, 0: nothing seen yet
    failed_at: float = -1e9
    under_way: int = 0


class Latency:
    """Book-keeping per node; one event loop. Times are monotonic seconds, given by the caller."""

    def __init__(self) -> None:
        self._nodes: dict[Id, _Node] = {}

    def began(self, node: Id) -> None:
        """A request was sent; ``ended`` follows in every case."""
        self._of(node).under_way += 1

    def ended(self, node: Id) -> None:
        self._of(node).under_way -= 1

    def first_byte(self, node: Id, seconds: float) -> None:
        """An answer began after ``seconds``."""
        found = self._of(node)
        found.first_byte_s += _WEIGHT * (seconds - found.first_byte_s) if found.first_byte_s else seconds
        found.failed_at = -1e9

    def at_least(self, node: Id, seconds: float) -> None:
        """An answer had not begun after ``seconds``, when it was given up."""
        if seconds > self.usual(node):
            self.first_byte(node, seconds)

    def failed(self, node: Id, now: float) -> None:
        """No useful answer: the node rests at the end of every order for 30 s."""
        self._of(node).failed_at = now

    def usual(self, node: Id) -> float:
        """Seconds to the first byte as they usually are, 0 if nothing is known."""
        found = self._nodes.get(node)
        return found.first_byte_s if found else 0.0

    def patience(self, node: Id, least: float) -> float:
        """Seconds after which another holder is worth asking beside ``node``."""
        return max(least, 3 * self.usual(node))

    def order(self, nodes: Sequence[Id], now: float) -> list[Id]:
        """Likeliest and fastest first; nodes with fewer requests under way before busier ones of the same speed.

        Nodes of which nothing is known keep their place among the fast, so that they become known.
        """

        def rank(node: Id) -> tuple[bool, float]:
            found = self._nodes.get(node)
            if found is None:
                return False, 0.0
            return now - found.failed_at < _REST_S, (found.first_byte_s + 1e-3) * (1 + found.under_way)

        return sorted(nodes, key=rank)

    def resting(self, nodes: Iterable[Id], now: float) -> list[Id]:
        """Those that failed lately: for ``avoid`` in plans."""
        return [node for node in nodes if node in self._nodes and now - self._nodes[node].failed_at < _REST_S]

    def _of(self, node: Id) -> _Node:
        found = self._nodes.get(node)
        if found is None:
            found = self._nodes[node] = _Node()
        return found
