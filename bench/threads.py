"""Threads side by side whose first failure is raised, not printed."""

from __future__ import annotations

import threading
from collections.abc import Callable


def side_by_side(count: int, work: Callable[[int], None]) -> None:
    """Calls ``work`` with each number below ``count`` in a thread of its own; returns when all have ended."""
    failures: list[Exception] = []

    def run(number: int) -> None:
        try:
            work(number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
