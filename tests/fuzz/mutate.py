"""Changes to valid bytes that a parser must bear: flips, cuts, splices, repeats, and numbers at their bounds.

Knows nothing of the format but its seeds and a few words of it. The same random source gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

NUMBERS = sorted(
    {
        (base + step) % (1 << 64)
        for base in (0, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 24, 1 << 31, 1 << 32, 1 << 62, 1 << 63)
        for step in (-1, 0, 1)
    }
    | {64, 188, 65_536, 69_904, 1 << 20, (16 << 20) + 16, 64 << 20}
)
"""Bounds of integers, and of the formats themselves."""

SCRAPS = (
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b"\x1b[2J",
    b"/",
    b"..",
    b"%2e%2e",
    b"\xc0\xae",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x92\xa9",
    b"e\xcc\x81",
    b"-1",
    b"9" * 20,
    b"9" * 5000,
    b"1e400",
    b"NaN",
    b"null",
    b"{}",
    b"[",
    b'"',
    b"\\ud800",
    b"=",
    b",",
    b";",
    b"\xbf",
    b"\x9f",
    b"\x5f",
    b"\xfb\x7f\xf0\0\0\0\0\0\0",
    b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xc2\x41\x01",
    b"\x80" * 40,
    b"\x81" * 2000,
    b"[" * 3000,
    b'{"a":' * 1500,
)
"""Pieces that upset parsers: of text, JSON, CBOR (lengths without bytes, deep nesting, big numbers) and paths."""


def mutated(random: Random, seeds: Sequence[bytes], words: Sequence[bytes], bytes_max: int) -> bytes:
    """One of ``seeds``, changed in one to five places; ``words`` of its format are put in now and then."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3, 5))):
        _change(random, data, seeds, words)
    return bytes(data[:bytes_max])


def _change(random: Random, data: bytearray, seeds: Sequence[bytes], words: Sequence[bytes]) -> None:
    at = random.randrange(len(data)) if data else 0
    match random.randrange(12 if data else 1):
        case 0:  # a word of the format, or a scrap
            data[at:at] = random.choice(words) if words and random.random() < 0.7 else random.choice(SCRAPS)
        case 1 | 2:
            data[at] ^= 1 << random.randrange(8)
        case 3:
            data[at] = random.randrange(256)
        case 4:
            del data[at:]
        case 5:
            del data[at : at + random.choice((1, 1, 2, 4, 8, 32, 64))]
        case 6:  # a number in place of bytes: a length field, maybe
            width = random.choice((1, 2, 4, 4, 8))
            number = random.choice(NUMBERS) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, random.choice(("big", "big", "little")))
        case 7:  # a number a little off
            width = random.choice((1, 2, 4, 8))
            number = int.from_bytes(data[at : at + width], "big") + random.choice((-16, -2, -1, 1, 2, 16))
            data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "big")
        case 8:  # a part of another one
            other = random.choice(seeds)
            start = random.randrange(len(other)) if other else 0
            length = random.choice((1, 4, 16, 32, 64, 256))
            data[at : at + random.choice((0, length))] = other[start : start + length]
        case 9:  # a part of itself again
            length = random.choice((1, 2, 4, 16, 32, 41, 60, 188))
            data[at:at] = data[at : at + length] * random.choice((1, 1, 2, 8))
        case 10:  # two parts change places
            length = random.choice((1, 2, 4, 16, 32))
            to = random.randrange(len(data))
            one, other = bytes(data[at : at + length]), bytes(data[to : to + length])
            data[at : at + length], data[to : to + length] = other, one
        case 11:  # a decimal number in a text
            data[at : at + random.randrange(3)] = str(random.choice(NUMBERS) - random.choice((0, 0, 1 << 63))).encode()
