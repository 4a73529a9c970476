"""A coordinator's directory: made once, opened at each start (docs/formats.md, Files on disk)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.auth.identity import SEED_BYTES, Id, Identity
from holdfast.auth.invites import INVITE_ID_BYTES, SECRET_BYTES, Invite, Role, to_line
from holdfast.clock import Clock, Randomness
from holdfast.coordinator.settings import DAY_S
from holdfast.errors import BadConfig
from holdfast.files import Files, read_file, write_file
from holdfast.metadata import queries_members
from holdfast.metadata.database import Database
from holdfast.pool import Pool
from holdfast.wire.http import checked_url

KEY_FILE = "identity.key"
DATABASE_FILE = "coordinator.db"
LOCK_FILE = "lock"
NODE_USES = 10
SURVIVE_DEFAULT = 4

_KEY_FILE_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class CoordinatorMade:
    """``invites``: one line for nodes, and one for the first user, whose device becomes the operator's."""

    id: Id
    name: str
    url: str
    survive: int
    invites: dict[str, str]


def database_path(directory: Path) -> Path:
    """Where the SQLite database lies."""
    return directory / DATABASE_FILE


def make_database_file(directory: Path, files: Files) -> None:
    """An empty file, if there is none: private, and the log beside it gets the same mode. Blocks."""
    if files.size(database_path(directory)) is None:
        files.close(files.create(database_path(directory)))


async def open_database(directory: Path, url: str, pool: Pool) -> Database:
    """The PostgreSQL at ``url``, else SQLite in ``directory``; see ``Database``."""
    return await (Database.connect(url, pool) if url else Database.open(database_path(directory), pool))


def lock(directory: Path, files: Files) -> AbstractContextManager[None]:
    """Holds the directory for one process; BadConfig if another has it or there is none."""
    if files.size(directory / KEY_FILE) is None:
        raise _missing(directory)
    return files.lock(directory / LOCK_FILE)


def load_identity(directory: Path, files: Files) -> Identity:
    """The key in ``identity.key``; BadConfig if there is none or it is damaged. Blocks."""
    path = directory / KEY_FILE
    try:
        data = read_file(files, path, _KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise BadConfig(f"{path} cannot be read: {error.strerror or error}") from error
    if data is None:
        raise _missing(directory)
    try:
        seed = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise BadConfig(f"{path} is damaged: {SEED_BYTES} bytes in hex belong there")
    return Identity(seed)


def _missing(directory: Path) -> BadConfig:
    return BadConfig(f"there is no coordinator in {directory}: make one with: holdfast coordinator init")


async def init_coordinator(
    directory: Path,
    *,
    name: str,
    advertise: Sequence[str],
    files: Files,
    clock: Clock,
    randomness: Randomness,
    pool: Pool,
    survive: int = SURVIVE_DEFAULT,
    node_uses: int = NODE_USES,
    again: bool = False,
    database_url: str = "",
) -> CoordinatorMade:
    """Makes key and database in ``directory``, and the invites to begin with, good for a day.

    ``database_url``: the PostgreSQL that is to be the database, which must be empty or hold this coordinator's already.

    The coordinator's own key may do what an operator may; so may the device that joins with the ``operator`` line.
    ``again``: a coordinator that is there already is left as it is and only gets fresh invites, instead of BadConfig.
    An initialisation that was cut short is continued. ``pool`` has one worker, for the database.
    """
    urls = [checked_url(url) for url in advertise]
    if not urls:
        raise BadConfig("a coordinator needs an address at which it is reached: --advertise http://HOST:PORT")
    try:
        identity = await pool.run(_make_identity, directory, files, randomness, not database_url)
        with files.lock(directory / LOCK_FILE):
            database = await open_database(directory, database_url, pool)
            try:
                facts = await database.run(queries_members.network_facts)
                if facts is not None and facts.coordinator != identity.id:
                    raise BadConfig("this database belongs to another coordinator: name another one")
                if facts is not None and not again:
                    raise BadConfig(f"{directory} holds a coordinator already; run it, or name another directory")
                if facts is None:
                    await database.run(_create, identity.id, name, urls, survive, clock.now())
                else:
                    name, urls, survive = facts.name, facts.urls.split(), facts.survive
                lines = await first_invites(database, identity.id, urls, node_uses, clock, randomness)
            finally:
                await database.close()
    except OSError as error:
        raise BadConfig(f"no coordinator can be made in {directory}: {error.strerror or error}") from error
    return CoordinatorMade(identity.id, name, urls[0], survive, lines)


async def first_invites(
    database: Database, coordinator: Id, urls: Sequence[str], node_uses: int, clock: Clock, randomness: Randomness
) -> dict[str, str]:
    """One line for nodes and one for an operator's device, good for a day."""
    roles: tuple[tuple[Role, int], ...] = (("node", node_uses), ("operator", 1))
    expires = clock.now() + DAY_S
    return {
        role: await database.run(_invite, coordinator, list(urls), role, uses, expires, randomness)
        for role, uses in roles
    }


def take_identity(source: Path, directory: Path, files: Files) -> Identity:
    """Makes ``directory`` a second home of the coordinator whose first is ``source``. Blocks; may be run again.

    BadConfig if there is none, or ``directory`` holds another one's key.
    """
    identity = load_identity(source, files)
    files.make_directory(directory)
    if files.size(directory / KEY_FILE) is None:
        write_file(files, directory / KEY_FILE, identity.seed().hex().encode() + b"\n", replace=False)
    if load_identity(directory, files).id != identity.id:
        raise BadConfig(f"{directory} holds the key of another coordinator than {source}")
    return identity


def _make_identity(directory: Path, files: Files, randomness: Randomness, database: bool) -> Identity:
    files.make_directory(directory)
    if files.size(directory / KEY_FILE) is None:
        write_file(files, directory / KEY_FILE, randomness.bytes(SEED_BYTES).hex().encode() + b"\n", replace=False)
    if database:
        make_database_file(directory, files)
    return load_identity(directory, files)


def _create(connection: Any, coordinator: Id, name: str, urls: list[str], survive: int, now: float) -> None:
    queries_members.create_network(
        connection,
        {
            "coordinator": coordinator, "name": name, "urls": "\n".join(urls), "epoch": 1, "commit_number": 0,
            "heard_epoch": 0, "heard_commit": 0, "slow_elapsed": 0.0, "slow_wall": now, "survive": survive,
            "policy_version": 1, "revocations": 0,
        },
    )  # fmt: skip


def _invite(
    connection: Any, coordinator: Id, urls: list[str], role: Role, uses: int, expires: float, randomness: Randomness
) -> str:
    invite = Invite(
        id=randomness.bytes(INVITE_ID_BYTES), coordinator=coordinator, urls=tuple(urls), role=role,
        secret=randomness.bytes(SECRET_BYTES), uses=uses, expires=int(expires),
    )  # fmt: skip
    queries_members.add_invite(
        connection,
        {
            "id": invite.id, "role": role, "operator": role == "operator", "secret": invite.secret, "uses": uses,
            "expires": invite.expires, "quota": None, "asked_by": coordinator, "sealing_key": randomness.bytes(32),
        },
    )  # fmt: skip
    return to_line(invite)
