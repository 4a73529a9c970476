"""A batch of commits as one database transaction: read what they touch, decide in memory, write what changed."""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy import Connection

from holdfast.blob import DIGEST_BYTES, Digest
from holdfast.codec.refs import RefKind
from holdfast.coordinator.commit import Change, Keep, Pack, Ref, Tag, Terms, View, decide
from holdfast.errors import HoldfastError
from holdfast.metadata import queries_members, queries_packs, queries_refs
from holdfast.metadata.queries_packs import portions
from holdfast.metadata.tables import PackState
from holdfast.metadata.together import ask
from holdfast.wire.messages import RefResult

_NOTHING = Digest(bytes(DIGEST_BYTES))

Results: TypeAlias = list[list[RefResult]]

_RefRows: TypeAlias = dict[int, tuple[list[Any], list[Any]]]
"""By vault: rows of refs, and of tombstones that are all that is left of a name."""


@dataclass(slots=True)
class Moves:
    """What a transaction did to placements, for those who keep sums of them.

    ``placed``: (node, digest, write sequence, whether the node had no copy on record); ``gone``: (node, digest);
    ``short``: numbers of packs that now have fewer copies than they should have.
    """

    placed: list[tuple[int, Digest, int, bool]] = field(default_factory=list)
    gone: list[tuple[int, Digest]] = field(default_factory=list)
    short: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Batch:
    """``outcomes``: for each change its results, or why it was refused; ``commit``: the commit number reached."""

    outcomes: list[Results | HoldfastError]
    commit: int
    moves: Moves = field(default_factory=Moves)


def run_batch(connection: Connection, changes: Sequence[Change], terms: Terms, commit: int) -> Batch:
    """All ``changes`` in order; each that changes something raises the commit number, from ``commit``, by one."""
    loaded, view, keep_numbers = _load(connection, changes)
    outcomes: list[Results | HoldfastError] = []
    for change in changes:
        layer = view.layer()
        try:
            outcomes.append(decide(change, layer, terms))
        except HoldfastError as error:
            outcomes.append(error)
            continue
        if layer.changed:
            commit += 1
            view.take(layer)
    moves = Moves()
    if view.changed:
        _write(connection, view, loaded, keep_numbers, terms, commit, moves)
    return Batch(outcomes, commit, moves)


# --- reading ----------------------------------------------------------------------------------------------------------


def load_packs(connection: Connection, rows: Iterable[Any]) -> dict[int, Pack]:
    """Rows of ``queries_packs`` with their places, by number."""
    found = list(rows)
    return _packs(found, queries_packs.places(connection, (row.number for row in found)))


def _packs(rows: Iterable[Any], places: Mapping[int, Mapping[int, int]]) -> dict[int, Pack]:
    return {
        row.number: Pack(
            digest=Digest(row.digest),
            vault=row.vault,
            size=row.size,
            state=PackState(row.state),
            target=row.target,
            lease_until=row.lease_until,
            places=places.get(row.number, {}),
            number=row.number,
        )
        for row in rows
    }


def _load(connection: Connection, changes: Sequence[Change]) -> tuple[dict[Digest, Pack], View, dict[Keep, int]]:
    digests: set[Digest] = set()
    wanted_keeps: defaultdict[int, set[Digest]] = defaultdict(set)
    wanted_refs: defaultdict[int, dict[bytes, int]] = defaultdict(dict)
    for change in changes:
        digests.update(pack.digest for pack in change.packs)
        digests.update(change.known)
        for kept_packs in change.keeps.values():
            digests.update(kept_packs)
        wanted_keeps[change.vault].update(change.keeps)
        refs = wanted_refs[change.vault]
        for group in change.groups:
            for ref in group:
                wanted_keeps[change.vault].add(ref.keep)
                refs[ref.tag] = min(ref.version, refs.get(ref.tag, ref.version))
    vaults = sorted({change.vault for change in changes})
    keep_numbers, kept, packs, found, used = _ask(connection, vaults, digests, wanted_keeps, wanted_refs)
    more = {number for numbers in kept.values() for number in numbers} - packs.keys()
    if more:
        packs |= load_packs(connection, queries_packs.packs_by_number(connection, more))
    by_digest = {pack.digest: pack for pack in packs.values()}
    keeps: dict[Keep, tuple[Digest, ...]] = {
        keep: tuple(sorted(packs[pack].digest for pack in kept.get(number, ())))
        for keep, number in keep_numbers.items()
    }
    refs_found, past = _known_refs(connection, wanted_refs, found, keep_numbers)
    view = View(
        ChainMap({}, by_digest), ChainMap({}, refs_found), ChainMap({}, keeps), ChainMap({}, past), ChainMap({}, used)
    )
    return by_digest, view, keep_numbers


def _ask(
    connection: Connection,
    vaults: list[int],
    digests: Iterable[Digest],
    keeps: Mapping[int, Iterable[Digest]],
    tags: Mapping[int, Iterable[bytes]],
) -> tuple[dict[Keep, int], dict[int, list[int]], dict[int, Pack], _RefRows, dict[int, int]]:
    """All that can be asked before anything is answered: numbers of keep lists, the packs of each, packs by number,
    refs, bytes used."""
    questions = [queries_members.question_of_bytes_used(vaults)]
    told: list[Callable[[list[Any]], object]] = []
    keep_numbers: dict[Keep, int] = {}
    kept: dict[int, list[int]] = {}
    rows: list[Any] = []
    places: dict[int, dict[int, int]] = {}
    found: _RefRows = {vault: ([], []) for vault in tags}

    def tell_keeps(vault: int, some: list[Any]) -> None:
        for digest, number, pack in some:
            keep_numbers[vault, Digest(digest)] = number
            if pack is not None:
                kept.setdefault(number, []).append(pack)

    def tell_places(some: list[Any]) -> None:
        for pack, node, sequence in some:
            places.setdefault(pack, {})[node] = sequence

    for some in portions(digests):
        questions += queries_packs.questions_by_digest(some)
        told += [rows.extend, tell_places]
    for vault, wanted in keeps.items():
        for some in portions(wanted):
            questions.append(queries_packs.question_of_keeps(vault, some))
            told.append(partial(tell_keeps, vault))
    for vault, named in tags.items():
        for some_tags in portions(named):
            questions += queries_refs.questions_of_tags(vault, some_tags)
            told += [found[vault][0].extend, found[vault][1].extend]
    used, *answers = ask(connection, questions)
    for tell, answer in zip(told, answers, strict=True):
        tell(answer)
    return keep_numbers, kept, _packs(rows, places), found, {row.number: row.used for row in used}


def _known_refs(
    connection: Connection,
    wanted: dict[int, dict[bytes, int]],
    rows: _RefRows,
    keep_numbers: dict[Keep, int],
) -> tuple[dict[Tag, Ref], dict[Tag, Mapping[bytes, int]]]:
    """Present refs, and the kept versions of those tags whose change may be one that was made before."""
    found: dict[Tag, Ref] = {}
    past: dict[Tag, Mapping[bytes, int]] = {}
    for vault, tags in wanted.items():
        old: list[bytes] = []
        present, shrunk = rows[vault]
        for row in present:
            keep = Digest(row.keep_digest)
            keep_numbers[vault, keep] = row.keep
            found[vault, row.tag] = Ref(
                tag=row.tag, parent=row.parent, kind=row.kind, survive=0, version=row.version, previous=None,
                etag=row.etag, record=row.record, keep=keep, committed=row.committed,
            )  # fmt: skip
            if tags[row.tag] <= row.version:
                old.append(row.tag)
        for row in shrunk:
            found.setdefault(
                (vault, row.tag),
                Ref(
                    tag=row.tag, parent=b"", kind=RefKind.TOMBSTONE, survive=0, version=row.version, previous=None,
                    etag=row.etag, record=b"", keep=_NOTHING,
                ),
            )  # fmt: skip
        for tag, versions in queries_refs.past_etags(connection, vault, old).items():
            past[vault, tag] = versions
    return found, past


# --- writing ----------------------------------------------------------------------------------------------------------


def _write(
    connection: Connection,
    view: View,
    loaded: dict[Digest, Pack],
    keep_numbers: dict[Keep, int],
    terms: Terms,
    commit: int,
    moves: Moves,
) -> None:
    refs = {name: ref for name, ref in view.refs.maps[0].items() if ref.record}
    named = {(vault, ref.keep) for (vault, _), ref in refs.items()}
    named.update((vault, ref.keep) for vault, ref in view.replaced)
    fresh = sorted(named - keep_numbers.keys())
    changed = view.packs.maps[0]
    packs_made = queries_packs.add_packs(
        connection,
        [
            {"digest": pack.digest, "vault": pack.vault, "size": pack.size, "state": pack.state,
             "target": pack.target, "lease_until": pack.lease_until}
            for pack in changed.values()
            if pack.number is None
        ],
    )  # fmt: skip
    made = queries_packs.add_keep_lists(connection, [{"vault": vault, "digest": keep} for vault, keep in fresh])
    numbers = _write_packs(connection, changed, {Digest(d): n for d, n in packs_made.items()}, loaded, moves)

    def pack_number(digest: Digest) -> int:
        number = numbers.get(digest)
        return number if number is not None else _number(loaded[digest])

    def keep_number(vault: int, keep: Digest) -> int:
        number = keep_numbers.get((vault, keep))
        return number if number is not None else made[vault, keep]

    queries_packs.add_keep_packs(
        connection,
        [{"keep": made[keep], "pack": pack_number(digest)} for keep in fresh for digest in view.keeps[keep]],
    )
    queries_refs.add_history(
        connection,
        [
            {
                "vault": vault, "tag": ref.tag, "version": ref.version, "etag": ref.etag, "record": ref.record,
                "keep": keep_number(vault, ref.keep), "committed": ref.committed,
                "until": terms.slow + terms.history_s, "commit_number": commit,
            }
            for vault, ref in view.replaced
        ],
    )  # fmt: skip
    queries_refs.put_refs(
        connection,
        [
            {
                "vault": vault, "tag": ref.tag, "parent": ref.parent, "kind": ref.kind, "version": ref.version,
                "etag": ref.etag, "record": ref.record, "keep": keep_number(vault, ref.keep),
                "commit_number": commit, "committed": ref.committed,
            }
            for (vault, _), ref in refs.items()
        ],
    )  # fmt: skip
    deleted = [name for name, ref in refs.items() if ref.kind == RefKind.TOMBSTONE]
    queries_refs.put_tombstones(
        connection,
        [
            {"vault": vault, "tag": tag, "version": refs[vault, tag].version, "etag": refs[vault, tag].etag,
             "due": terms.slow + terms.tombstones_s}
            for vault, tag in deleted
        ],
    )  # fmt: skip
    queries_refs.end_tombstones(
        connection, [name for name, ref in refs.items() if ref.kind != RefKind.TOMBSTONE and ref.version > 1]
    )
    queries_members.change_bytes_used(connection, view.used.maps[0])
    queries_members.reach_commit(connection, commit)


def _number(pack: Pack) -> int:
    assert pack.number is not None, "a loaded pack has its number"
    return pack.number


def _write_packs(
    connection: Connection,
    changed: Mapping[Digest, Pack],
    numbers: dict[Digest, int],
    loaded: dict[Digest, Pack],
    moves: Moves,
) -> dict[Digest, int]:
    """Writes what has changed of packs, and their places; ``numbers``, those of new ones, which are returned."""
    moved: list[dict[str, int]] = []
    gone: list[tuple[int, int]] = []
    states: list[dict[str, Any]] = []
    for digest, pack in changed.items():
        old = loaded.get(digest)
        number = numbers[digest] if old is None else _number(old)
        places = {} if old is None else old.places
        moved += (
            {"pack": number, "node": node, "sequence": sequence}
            for node, sequence in pack.places.items()
            if places.get(node) != sequence
        )
        gone += ((number, node) for node in places if node not in pack.places)
        moves.placed += (
            (node, digest, sequence, node not in places)
            for node, sequence in pack.places.items()
            if places.get(node) != sequence
        )
        moves.gone += ((node, digest) for node in places if node not in pack.places)
        if len(pack.places) < pack.target:
            moves.short.add(number)
        if old is not None and (old.state, old.target, old.lease_until) != (pack.state, pack.target, pack.lease_until):
            states.append(
                {"number_": number, "state_": pack.state, "target_": pack.target, "lease_until_": pack.lease_until}
            )
    queries_packs.change_packs(connection, states)
    queries_packs.unplace(connection, gone)
    queries_packs.place(connection, moved)
    return numbers
