"""Invites, joining, devices, revocations, and what a coordinator's directory holds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.coordinator.hall import Device, FakeNode, Hall

from holdfast.auth.certificates import open_countersigned
from holdfast.auth.invites import Invite, SecretRequest, from_line, proof
from holdfast.clock import SeededRandomness, SystemClock
from holdfast.coordinator.setup import init_coordinator, load_identity, lock
from holdfast.errors import BadConfig, BadRequest, Denied, NotFound, Unauthorized
from holdfast.files import OsFiles
from holdfast.metadata import queries_members
from holdfast.metadata.database import Database
from holdfast.pool import ThreadPool
from holdfast.wire import messages as m
from holdfast.wire import routes


def new_node(hall: Hall, name: str = "new") -> FakeNode:
    return FakeNode(hall, hall.identity(), name, name, hall.randomness.bytes(16))


async def node_invite(hall: Hall, uses: int) -> Invite:
    return await hall.owner.invite("node", uses=uses)


# --- invites ----------------------------------------------------------------------------------------------------------


async def test_an_invite_admits_as_many_as_it_says_and_the_same_one_again(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    invite = await node_invite(bare_hall, 2)
    first, second, third = (new_node(bare_hall, name) for name in "abc")
    await first.join(invite)
    await first.join(invite)
    await second.join(invite)
    with pytest.raises(Denied, match="used up"):
        await third.join(invite)
    await first.join(invite)
    assert len((await bare_hall.owner.ask(routes.NODES)).nodes) == 2


async def test_uses_at_the_same_moment_are_counted_one_by_one(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    invite = await node_invite(bare_hall, 3)
    newcomers = [new_node(bare_hall, str(number)) for number in range(8)]
    results = await asyncio.gather(*(newcomer.join(invite) for newcomer in newcomers), return_exceptions=True)
    assert sum(isinstance(result, m.Joined) for result in results) == 3
    assert all(isinstance(result, m.Joined | Denied) for result in results)
    row = await bare_hall.run(queries_members.invite, invite.id)
    assert (row.used, row.uses) == (3, 3)


async def test_an_invite_expires_by_the_coordinators_clock(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    invite = await node_invite(bare_hall, 5)
    early, late = new_node(bare_hall, "early"), new_node(bare_hall, "late")
    await early.join(invite)
    bare_hall.clock.skip(86401)
    with pytest.raises(Denied, match="expired"):
        await late.join(invite)
    await early.join(invite)  # its answer was lost, say


async def test_a_revoked_invite_admits_nobody(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    invite = await node_invite(bare_hall, 5)
    await bare_hall.owner.ask(routes.REVOCATIONS, m.RevocationRequest(invite=invite.id))
    with pytest.raises(Denied, match="revoked"):
        await new_node(bare_hall).join(invite)
    with pytest.raises(NotFound):
        await bare_hall.owner.ask(routes.REVOCATIONS, m.RevocationRequest(invite=bytes(8)))


@pytest.mark.parametrize("part", ["secret", "newcomer", "coordinator", "role", "id"])
async def test_a_wrong_proof_is_refused_and_not_counted(bare_hall: Hall, part: str) -> None:
    await bare_hall.make(nodes=0)
    invite = await node_invite(bare_hall, 1)
    node = new_node(bare_hall)
    other = bare_hall.identity().id
    given = proof(
        bytes(16) if part == "secret" else invite.secret,
        "join",
        other if part == "newcomer" else node.id,
        other if part == "coordinator" else invite.coordinator,
        "user" if part == "role" else "node",
    )
    facts = m.NodeFacts(name="n", store=bytes(16), domain="d", capacity=1)
    id_ = bytes(8) if part == "id" else invite.id
    with pytest.raises(Denied):
        await node.ask(routes.JOIN, m.Join(invite=id_, role="node", proof=given, node=facts))
    await node.join(invite)


async def test_an_invite_is_good_for_its_role_only(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    invite = await node_invite(bare_hall, 1)
    device = Device(bare_hall, bare_hall.identity(), bare_hall.identity())
    with pytest.raises(Denied, match="for a node"):
        await device.ask(
            routes.JOIN,
            m.Join(
                invite=invite.id,
                role="user",
                proof=proof(invite.secret, "join", device.id, invite.coordinator, "user"),
                certificate=device.certificate(),
            ),
        )


async def test_the_same_question_gets_the_same_invite(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    request = SecretRequest(bare_hall.randomness)
    message = m.InviteRequest(role="node", uses=1, expires=60, sealing_key=request.public)
    first = await bare_hall.owner.ask(routes.INVITES, message)
    second = await bare_hall.owner.ask(routes.INVITES, message)
    assert first.id == second.id
    assert request.open(first.sealed_secret) == request.open(second.sealed_secret)


async def test_only_operators_invite(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=1)
    user = Device(bare_hall, bare_hall.identity(), bare_hall.identity())
    await user.join(await bare_hall.owner.invite("user"))
    for caller in (user, bare_hall.nodes[0]):
        with pytest.raises(Denied, match="operator"):
            await caller.ask(
                routes.INVITES, m.InviteRequest(role="node", uses=1, expires=60, sealing_key=bytes(31) + b"\x09")
            )
    operator = Device(bare_hall, bare_hall.identity(), bare_hall.identity())
    await operator.join(await bare_hall.owner.invite("operator"))
    await operator.invite("user")
    bad: list[dict[str, Any]] = [{"role": "user", "uses": 2}, {"role": "node", "quota": 5}, {"sealing_key": b"short"}]
    for changes in bad:
        with pytest.raises(BadRequest):
            await operator.invite(**({"role": "user"} | changes))


async def test_the_coordinators_own_key_is_an_operator(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    itself = Device(bare_hall, load_identity(bare_hall.directory, OsFiles()), bare_hall.identity())
    await itself.invite("node")
    await itself.ask(routes.STATUS)


# --- devices ----------------------------------------------------------------------------------------------------------


async def test_a_device_gets_its_certificate_countersigned(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    owner = bare_hall.owner
    second = Device(bare_hall, bare_hall.identity(), owner.vault)
    request = m.DeviceRequest(certificate=second.certificate())
    with pytest.raises(Unauthorized):
        await second.ask(routes.DEVICES, request)
    answer = await owner.ask(routes.DEVICES, request)
    assert await owner.ask(routes.DEVICES, request) == answer
    certificate, serial = open_countersigned(answer.certificate, bare_hall.made.id)
    assert (certificate.device, certificate.vault, serial) == (second.id, owner.vault.id, answer.serial)
    third = Device(bare_hall, bare_hall.identity(), owner.vault)
    assert (await second.ask(routes.DEVICES, m.DeviceRequest(certificate=third.certificate()))).serial == serial + 1


async def test_certificates_of_others_and_expired_ones_are_refused(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    owner = bare_hall.owner
    stranger = Device(bare_hall, bare_hall.identity(), bare_hall.identity())
    with pytest.raises(Denied, match="does not belong"):
        await owner.ask(routes.DEVICES, m.DeviceRequest(certificate=stranger.certificate()))
    expired = Device(bare_hall, bare_hall.identity(), owner.vault)
    with pytest.raises(Denied, match="expired"):
        await owner.ask(routes.DEVICES, m.DeviceRequest(certificate=expired.certificate(not_after=1)))
    forged = Device(bare_hall, bare_hall.identity(), bare_hall.identity())
    with pytest.raises(Denied, match="not signed by its vault"):
        await owner.ask(routes.DEVICES, m.DeviceRequest(certificate=forged.certificate(vault=owner.vault.id)))
    invite = await owner.invite("user")
    with pytest.raises(Denied, match="another device"):
        await stranger.ask(
            routes.JOIN,
            m.Join(
                invite=invite.id,
                role="user",
                proof=proof(invite.secret, "join", stranger.id, invite.coordinator, "user"),
                certificate=forged.certificate(),
            ),
        )


async def test_a_certificate_that_runs_out_is_refused_from_then_on(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    bare_hall.clock.skip(86500)
    with pytest.raises(Denied, match="expired"):
        await bare_hall.owner.ask(routes.REFS, m.RefQuery(), bare_hall.owner.path())


async def test_a_revoked_device_is_out_for_good_and_nodes_hear_of_it(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=1)
    owner, node = bare_hall.owner, bare_hall.nodes[0]
    lost = Device(bare_hall, bare_hall.identity(), owner.vault)
    serial = (await owner.ask(routes.DEVICES, m.DeviceRequest(certificate=lost.certificate()))).serial
    assert (await node.beat()).revoked is None
    await owner.ask(routes.REVOCATIONS, m.RevocationRequest(device=lost.id))
    await owner.ask(routes.REVOCATIONS, m.RevocationRequest(device=lost.id))
    answer = await node.beat()
    assert (answer.revocations, answer.revoked) == (1, [serial])
    assert (await node.beat(revocations=1)).revoked is None
    await bare_hall.restart()
    with pytest.raises(Denied, match="revoked"):
        await lost.ask(routes.REFS, m.RefQuery(), owner.path())
    with pytest.raises(Denied, match="revoked"):
        await owner.ask(routes.DEVICES, m.DeviceRequest(certificate=lost.certificate()))
    assert (await node.beat()).revoked == [serial]


async def test_only_the_vault_or_an_operator_revokes(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=0)
    owner = bare_hall.owner
    user = Device(bare_hall, bare_hall.identity(), bare_hall.identity())
    await user.join(await owner.invite("user"))
    for request in (m.RevocationRequest(device=owner.id), m.RevocationRequest(invite=bytes(8))):
        with pytest.raises(Denied, match="operator"):
            await user.ask(routes.REVOCATIONS, request)
    with pytest.raises(BadRequest):
        await owner.ask(routes.REVOCATIONS, m.RevocationRequest())
    with pytest.raises(NotFound):
        await owner.ask(routes.REVOCATIONS, m.RevocationRequest(device=bare_hall.identity().id))
    await owner.ask(routes.REVOCATIONS, m.RevocationRequest(device=user.id))
    with pytest.raises(Unauthorized):
        await user.ask(routes.STATUS)


async def test_a_node_keeps_its_store(bare_hall: Hall) -> None:
    await bare_hall.make(nodes=1)
    node = bare_hall.nodes[0]
    with pytest.raises(Denied, match="store"):
        await node.beat(store=bytes(16))
    node.store = bytes(16)
    with pytest.raises(Denied, match="new node"):
        await node.join(from_line(bare_hall.made.invites["node"]))
    with pytest.raises(Unauthorized, match="not a member"):
        await new_node(bare_hall).beat()


# --- the directory ----------------------------------------------------------------------------------------------------


async def make(directory: Path, pool: ThreadPool, **changes: Any) -> Any:
    facts: dict[str, Any] = {
        "name": "c", "advertise": ["http://127.0.0.1:1"], "files": OsFiles(), "clock": SystemClock(),
        "randomness": SeededRandomness(1), "pool": pool,
    }  # fmt: skip
    return await init_coordinator(directory, **(facts | changes))


async def test_a_coordinator_is_made_once_and_its_files_are_private(tmp_path: Path) -> None:
    pool = ThreadPool(1)
    directory = tmp_path / "c"
    made = await make(directory, pool, survive=2)
    node, operator = from_line(made.invites["node"]), from_line(made.invites["operator"])
    assert (node.role, node.uses, operator.role, operator.uses) == ("node", 10, "operator", 1)
    assert node.urls == ("http://127.0.0.1:1",)
    assert (directory / "identity.key").stat().st_mode & 0o777 == 0o600
    assert (directory / "coordinator.db").stat().st_mode & 0o077 == 0
    assert directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(BadConfig, match="already"):
        await make(directory, pool)
    again = await make(directory, pool, again=True, survive=4, randomness=SeededRandomness(2))
    assert (again.id, again.survive) == (made.id, 2)
    assert again.invites != made.invites
    pool.close()


async def test_a_directory_that_is_none_or_damaged_or_in_use_says_so(tmp_path: Path) -> None:
    pool = ThreadPool(1)
    files = OsFiles()
    with pytest.raises(BadConfig, match="coordinator init"):
        load_identity(tmp_path, files)
    with pytest.raises(BadConfig, match="coordinator init"):
        lock(tmp_path, files)
    with pytest.raises(BadConfig, match="advertise"):
        await make(tmp_path, pool, advertise=[])
    with pytest.raises(BadConfig, match="URL"):
        await make(tmp_path, pool, advertise=["nonsense"])
    await make(tmp_path, pool)
    with lock(tmp_path, files), pytest.raises(BadConfig, match="in use"):
        await make(tmp_path, pool, again=True)
    (tmp_path / "identity.key").write_text("zz")
    with pytest.raises(BadConfig, match="damaged"):
        load_identity(tmp_path, files)
    pool.close()


async def test_a_database_of_another_coordinator_is_refused(bare_hall: Hall, tmp_path: Path) -> None:
    await bare_hall.make(nodes=0)
    state = bare_hall.coordinator.state
    facts: dict[str, Any] = {
        "http": state.http, "settings": state.settings, "clock": state.clock, "randomness": state.randomness,
        "pool": state.pool,
    }  # fmt: skip
    with pytest.raises(BadConfig, match="another coordinator"):
        await type(state).load(identity=bare_hall.identity(), database=state.database, **facts)
    pool = ThreadPool(1)
    empty = await Database.open(tmp_path / "empty.db", pool)
    with pytest.raises(BadConfig, match="no network in this database"):
        await type(state).load(identity=state.identity, database=empty, **facts)
    await empty.close()
    pool.close()
