"""The names in a bucket: which blobs are there, and which chunks nobody names."""

from __future__ import annotations

import json

from holdfast.blob import Digest
from holdfast.clock import Clock
from holdfast.stores.nats.layout import Bucket
from holdfast.stores.nats.link import NatsLink, Refused
from holdfast.stores.nats.write import purge


async def blobs(link: NatsLink, bucket: Bucket) -> list[Digest]:
    """Every blob, ascending; objects that no digest names are left out. One request for each 100,000."""
    found = (bucket.digest(subject) for subject in await _subjects(link, bucket, bucket.all_meta))
    return sorted(digest for digest in found if digest is not None)


async def sweep(link: NatsLink, bucket: Bucket, older_than_s: float, clock: Clock) -> int:
    """Deletes chunks that no meta message names and that are older than that; how many puts' they were."""
    puts = {subject.rpartition(".")[2] for subject in await _subjects(link, bucket, bucket.all_chunks)}
    for subject in await _subjects(link, bucket, bucket.all_meta):
        found = await link.stored(bucket.stream, {"last_by_subj": subject})
        if found is not None:
            puts.discard(_nuid(found.data))
    swept = 0
    for nuid in sorted(puts):
        last = await link.stored(bucket.stream, {"last_by_subj": bucket.chunks(nuid)})
        if last is not None and clock.now() - last.time > older_than_s:
            await purge(link, bucket, bucket.chunks(nuid))
            swept += 1
    return swept


async def _subjects(link: NatsLink, bucket: Bucket, filter_: str) -> list[str]:
    found: list[str] = []
    while True:
        try:
            answer = await link.ask(f"STREAM.INFO.{bucket.stream}", {"subjects_filter": filter_, "offset": len(found)})
        except Refused as error:
            raise error.translated("listing the bucket") from error
        page = list(answer["state"].get("subjects") or {})
        found += page
        if not page or len(found) >= int(answer.get("total", 0)):
            return found


def _nuid(data: bytes) -> str:
    try:
        return str(json.loads(data).get("nuid"))
    except (ValueError, AttributeError):
        return ""
