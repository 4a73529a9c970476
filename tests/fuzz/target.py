"""What is fuzzed: a parser of bytes from outside, bytes that it takes, and what it may answer to others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.errors import HoldfastError


@dataclass(frozen=True, slots=True)
class Target:
    """``parse`` takes bytes and either raises one of ``refusals`` or returns the bytes that it makes of what it read.

    ``canonical``: what was taken comes back byte for byte; else ``parse`` must take what it made and make it again.
    None returned: nothing is compared. ``words``: pieces of the format, for the mutator. ``seconds_max``: processor
    time of one input of at most ``bytes_max`` bytes.
    """

    name: str
    seeds: Sequence[bytes]
    parse: Callable[[bytes], bytes | None]
    refusals: tuple[type[BaseException], ...] = (HoldfastError,)
    canonical: bool = False
    words: Sequence[bytes] = ()
    bytes_max: int = 8192
    seconds_max: float = 0.5


class Broken(AssertionError):
    """A property of a target that does not hold for ``data``."""

    def __init__(self, target: Target, data: bytes, why: str) -> None:
        super().__init__(f"{target.name}: {why}\n{data[:400]!r}")
        self.target = target
        self.data = data
        self.why = why


def check(target: Target, data: bytes) -> bool:
    """Was ``data`` taken? Broken if the parser answered in any way that it must not."""
    try:
        made = target.parse(data)
    except target.refusals:
        return False
    except Exception as error:
        raise Broken(target, data, f"{type(error).__name__}: {error}"[:300]) from error
    if made is None:
        return True
    if target.canonical:
        if made != data:
            raise Broken(target, data, f"taken, but its one form is {made[:300]!r}")
        return True
    try:
        again = target.parse(made)
    except Exception as error:
        raise Broken(target, data, f"what was made of it is refused: {type(error).__name__}: {error}"[:300]) from error
    if again != made:
        raise Broken(target, data, "what was made of it is read in another way")
    return True
