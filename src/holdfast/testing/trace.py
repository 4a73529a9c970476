"""What happened in a simulation, in order: a digest that two runs of one seed share, and the last lines."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

LINES_KEPT = 2000


class Trace:
    """Records events with their virtual time. Values must print the same in every run: no ``id()``, no sets."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._hash = hashlib.sha256()
        self.count = 0
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self.sink: Callable[[str], object] | None = None
        """Gets every line, without its end: set it to look for the first line in which two runs differ."""

    def record(self, kind: str, *values: object) -> None:
        """One event: ``seconds kind value value ...``."""
        line = f"{self._time():.9f} {kind} {' '.join(map(str, values))}"
        self._hash.update(line.encode("utf-8") + b"\n")
        self.count += 1
        self.lines.append(line)
        if self.sink is not None:
            self.sink(line)

    def digest(self) -> str:
        """SHA-256 of all lines so far, in hex."""
        return self._hash.hexdigest()
