"""What a node is believed to hold: read page by page beside changes, and kept over a clean stop."""

from __future__ import annotations

import random

import pytest

from holdfast.blob import Digest
from holdfast.coordinator.inventory.belief import Belief, Beliefs, Reading, Stranger
from holdfast.coordinator.transaction import Moves
from holdfast.inventory import Roots

NODE = 1


def digest(number: int) -> Digest:
    return Digest.of(b"pack %d" % number)


@pytest.mark.parametrize("seed", range(20))
def test_pages_beside_changes_sum_to_what_is_there_at_the_end(seed: int) -> None:
    chance = random.Random(seed)
    table = {pack: pack for pack in range(1, 60) if chance.random() < 0.7}
    beliefs, reading = Beliefs(), Reading()
    beliefs.reading[NODE] = reading
    after, sequence = 0, 100
    while page := [(pack, digest(pack), table[pack]) for pack in sorted(table) if pack > after][:7]:
        after = page[-1][0]
        reading.page(page)
        for _ in range(chance.randrange(6)):
            pack, sequence = chance.randrange(1, 80), sequence + 1
            if pack in table and chance.random() < 0.6:
                del table[pack]
                beliefs.take(Moves(gone=[(NODE, digest(pack))]))
            else:
                beliefs.take(Moves(placed=[(NODE, digest(pack), sequence, pack not in table)]))
                table[pack] = sequence
            beliefs.take(Moves(placed=[(NODE + 1, digest(99), 1, True)]))
    belief = reading.end()
    assert reading.placed == {digest(pack): at for pack, at in table.items()}
    assert belief.roots.root == Roots(map(digest, table)).root
    assert belief.roots.count == len(table)


def test_a_clean_stop_keeps_what_is_on_record_and_no_strangers() -> None:
    belief = Belief(Roots(map(digest, range(100))), 77)
    belief.see(digest(500), Stranger(1, 90, None, 0.0))
    again = Belief.decode(belief.encode())
    assert again == Belief(again.roots, 90)
    assert again.roots.root == Roots(map(digest, range(100))).root
    assert belief.roots.count == 101
    with pytest.raises(ValueError, match="sums"):
        Belief.decode(b"other")
