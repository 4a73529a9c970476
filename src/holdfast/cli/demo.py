"""``holdfast demo``: a real file on seven real node processes; two are killed, the rest make it whole, two more go."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.demo_files import contains, equal, make_file, measure, packs_on
from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, size_words
from holdfast.errors import Corrupt, Interrupted, NoSpace, NotFound, TimedOut

if TYPE_CHECKING:
    from holdfast.cli.local_network import LocalNetwork, Member
    from holdfast.clock import Clock, Randomness
    from holdfast.pool import Pool

NODES = 7
SURVIVE = 4
FILE_BYTES = 64 << 20
TABLE_PACKS_MAX = 32
COPIES = SURVIVE + 1
SPACE_TIMES = COPIES + 5  # the copies, those made anew, the file, what was read and room to breathe
HEARTBEAT_S, OUT_S = 1, 6
SETTINGS = {"heartbeat_interval": f"{HEARTBEAT_S}s", "out_after": f"{OUT_S}s", "repair_interval": "500ms"}
"""A story cannot wait four hours; nothing else is shortened."""
POLL_S = 0.2
STUCK_S = 60.0
"""Without a new copy for so long, healing does not work."""
TEXT = b"A machine that comes and goes is still a good machine, if you own a few of them.\n" * 16


@click.command("demo", cls=Verb)
@click.option("--file", "path", type=click.Path(path_type=Path), help="Your own file [default: 64 MiB made for this].")
@current
def command(invocation: Invocation, path: Path | None) -> None:
    """Store a file on seven node processes of this machine and kill -9 two of them; it is read back, the others make
    every pack whole again, two more are killed, and it is read back again.

    Exit code 0 only if every byte was the same. Leaves nothing behind.
    """
    if path is not None and not path.is_file():
        raise NotFound(f"{path}: there is no such file")
    invocation.run(_run(invocation, path))


async def _run(invocation: Invocation, path: Path | None) -> None:
    task = asyncio.current_task()
    assert task is not None
    ended: list[int] = []

    def end() -> None:
        ended.append(signal.SIGTERM)
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    try:
        async with _workplace(path) as (directory, pool):
            await _Story(invocation, directory, pool).tell(path)
    except asyncio.CancelledError:
        if ended:
            raise Interrupted("Ended by SIGTERM; everything was cleaned up.") from None
        raise


@asynccontextmanager
async def _workplace(path: Path | None) -> AsyncIterator[tuple[Path, Pool]]:
    """A directory with room for the story, gone afterwards, and a pool."""
    from holdfast.pool import ThreadPool

    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    pool = ThreadPool(name="demo")
    try:
        needed = (path.stat().st_size if path else FILE_BYTES) * SPACE_TIMES
        free = shutil.disk_usage(directory).free
        if free < needed:
            raise NoSpace(
                f"This needs {size_words(needed)} in {directory.parent}, {size_words(free)} are free; "
                "take a smaller --file, or set TMPDIR to a larger place."
            )
        yield directory, pool
    finally:
        pool.close()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Item:
    """A file of the story: its name in the vault, where it lies here, and what it must be."""

    name: str
    path: Path
    size: int
    digest: str


class _Story:
    def __init__(self, invocation: Invocation, directory: Path, pool: Pool) -> None:
        from holdfast.clock import SystemClock, SystemRandomness

        self._invocation = invocation
        self._directory = directory
        self._pool = pool
        self._clock: Clock = SystemClock()
        self._randomness: Randomness = SystemRandomness()
        self._steps = 0
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        self._marks = {"here": "●", "lost": "×", "none": "·"} if utf8 else {"here": "#", "lost": "x", "none": "."}

    async def tell(self, path: Path | None) -> None:
        from holdfast.cli.local_network import LocalNetwork

        if not self._invocation.json:
            self._line(click.style(f"holdfast demo: {NODES} nodes, any {SURVIVE} of them may die", bold=True))
        began = self._clock.monotonic()
        network = LocalNetwork(self._directory / "network", nodes=NODES, survive=SURVIVE, settings=SETTINGS)
        async with network:
            spent = self._clock.monotonic() - began
            self._step(
                f"A coordinator and {NODES} nodes run on this machine, real processes, ready after {spent:.1f} s.",
                event="started", members=[member.row() for member in network.members], seconds=spent,
            )  # fmt: skip
            items = await self._items(path)
            what = " and ".join(f"{item.name} ({size_words(item.size)})" for item in items)
            self._step(f"To be kept: {what}.", event="files", files=[[i.name, i.size, i.digest] for i in items])
            await self._put(network, items)
            packs = await self._pool.run(packs_on, network.nodes)
            self._table(network, packs)
            await self._search(network)
            await self._kill(network, 2)
            self._table(network, packs)
            await self._read_back(network, items)
            packs = await self._heal(network, packs)
            self._table(network, packs)
            await self._kill(network, 2)
            self._table(network, packs)
            await self._read_back(network, items)
            dead = sum(not node.running for node in network.nodes)
        verdict = f"{dead} of {NODES} machines died without a word. Every byte came back."
        if self._invocation.json:
            self._invocation.document({"event": "summary", "equal": True, "killed": dead, "nodes": NODES})
        else:
            self._line("\n" + click.style(verdict, fg="green", bold=True))

    async def _items(self, path: Path | None) -> list[_Item]:
        text = self._directory / "a short text.txt"
        text.write_bytes(TEXT)
        big = path
        if big is None:
            big = self._directory / "a big file.bin"
            await self._pool.run(make_file, big, FILE_BYTES, self._randomness)
        found = []
        for item in (big, text):
            size, digest = await self._pool.run(measure, item)
            found.append(_Item(item.name, item, size, digest))
        return found

    async def _put(self, network: LocalNetwork, items: Sequence[_Item]) -> None:
        from holdfast.cli.progress import progress
        from holdfast.sdk import Vault

        began = self._clock.monotonic()
        size = sum(item.size for item in items)
        async with await Vault.open(network.home) as vault:
            with progress(self._invocation, "   put") as show:
                for item in items:
                    await vault.put(item.path, item.name, progress=show)
        spent = self._clock.monotonic() - began
        self._step(
            f"put: encrypted here, then written and synced on {SURVIVE + 1} nodes each, in {spent:.1f} s "
            f"({size_words(size / spent)}/s). The packs lie like this:",
            event="put", bytes=size, seconds=spent,
        )  # fmt: skip

    async def _search(self, network: LocalNetwork) -> None:
        found, packs = await self._pool.run(contains, network.nodes, TEXT[:40])
        if found:
            raise Corrupt("A sentence of the text lies readable on a node: this must not be.")
        self._step(
            f"Looked through all {packs} packs that the nodes keep: no word of the text can be read there.",
            event="searched", packs=packs,
        )  # fmt: skip

    async def _kill(self, network: LocalNetwork, count: int) -> None:
        from holdfast.clock import shuffled

        victims = shuffled([node for node in network.nodes if node.running], self._randomness)[:count]
        victims.sort(key=lambda node: node.name)
        for node in victims:
            await network.kill(node)
        left = sum(node.running for node in network.nodes)
        names = " and ".join(f"{node.name} (pid {node.pid})" for node in victims)
        self._step(
            f"kill -9 {names}: {count_words(left, 'node')} left.",
            event="killed", nodes=[node.name for node in victims], left=left,
        )  # fmt: skip

    async def _heal(self, network: LocalNetwork, packs: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        """Waits until every pack lies on five nodes that run and the coordinator says so too; where they lie then."""
        from holdfast import assemble
        from holdfast.cli.progress import progress
        from holdfast.client.names.entries import Progress

        living = [node for node in network.nodes if node.running]
        sizes = {digest: size for digest, holders in packs.items() for size in holders.values()}
        here = await self._pool.run(packs_on, living)
        lost = {digest: COPIES - len(here.get(digest, ())) for digest in packs}
        size = sum(copies * sizes[digest] for digest, copies in lost.items())
        total = sum(lost.values())
        self._step(
            f"{count_words(total, 'copy is', 'copies are')} gone ({size_words(size)}). In earnest the others wait four "
            f"hours for a silent node, ten minutes for one that is always on; here {OUT_S} s. Then they copy:",
            event="healing", copies=total, bytes=size, out_after=OUT_S, heartbeat_interval=HEARTBEAT_S,
        )  # fmt: skip
        began = moved = self._clock.monotonic()
        made = 0
        async with await assemble.open_network(network.home) as view:
            with progress(self._invocation, "   heal") as show:
                while True:
                    here = await self._pool.run(packs_on, living)
                    missing = {digest: max(COPIES - len(here.get(digest, ())), 0) for digest in packs}
                    counts = (await view.status()).packs
                    if not any(missing.values()) and counts.healthy == counts.total:
                        break
                    now, before, made = self._clock.monotonic(), made, total - sum(missing.values())
                    if made != before:
                        moved = now
                    if now - moved > STUCK_S:
                        raise TimedOut(f"{total - made} copies are still missing and none was made for {STUCK_S:g} s")
                    if show is not None:
                        done = size - sum(copies * sizes[digest] for digest, copies in missing.items())
                        show(Progress(made, total, done, size, f"{made} of {count_words(total, 'copy', 'copies')}"))
                    await self._clock.sleep(POLL_S)
        spent = self._clock.monotonic() - began
        self._step(
            f"Whole again after {spent:.1f} s: every pack lies on {COPIES} living nodes.",
            event="healed", copies=total, bytes=size, seconds=spent,
        )  # fmt: skip
        return await self._pool.run(packs_on, network.nodes)

    async def _read_back(self, network: LocalNetwork, items: Sequence[_Item]) -> None:
        from holdfast.cli.progress import progress
        from holdfast.sdk import Vault

        began = self._clock.monotonic()
        size = sum(item.size for item in items)
        targets = [self._directory / f"read {self._steps} {item.name}" for item in items]
        async with await Vault.open(network.home) as vault:
            with progress(self._invocation, "   get") as show:
                for item, target in zip(items, targets, strict=True):
                    await vault.get(item.name, target, progress=show)
        spent = self._clock.monotonic() - began
        for item, target in zip(items, targets, strict=True):
            if await self._pool.run(measure, target) != (item.size, item.digest) or not await self._pool.run(
                equal, item.path, target
            ):
                raise Corrupt(f"{item.name} came back with other bytes.")
            target.unlink()
        self._step(
            f"get: {size_words(size)} in {spent:.1f} s ({size_words(size / spent)}/s), compared: the same bytes.",
            event="get", bytes=size, seconds=spent, equal=True,
        )  # fmt: skip

    def _table(self, network: LocalNetwork, packs: dict[str, dict[str, int]]) -> None:
        """Nodes down, packs across, as they lie on the disks."""
        if self._invocation.json:
            places = {digest: sorted(holders) for digest, holders in packs.items()}
            self._invocation.document({"event": "places", "packs": places})
            return
        shown = sorted(packs)[:TABLE_PACKS_MAX]
        self._line("")
        for node in network.nodes:
            self._line("     " + self._row(node, shown, packs))
        if len(packs) > len(shown):
            self._line(f"     ... and {count_words(len(packs) - len(shown), 'pack')} more")

    def _row(self, node: Member, shown: Sequence[str], packs: dict[str, dict[str, int]]) -> str:
        held = "here" if node.running else "lost"
        marks = " ".join(self._marks[held if node.name in packs[digest] else "none"] for digest in shown)
        text = f"{node.name}   {marks}"
        return text if node.running else click.style(f"{text}   killed", fg="red")

    def _step(self, text: str, **fields: Any) -> None:
        self._steps += 1
        if self._invocation.json:
            self._invocation.document(fields)
        else:
            self._line(f"\n{click.style(f'{self._steps:2}', fg='cyan')}  {text}")

    def _line(self, text: str) -> None:
        click.echo(text)
        sys.stdout.flush()
