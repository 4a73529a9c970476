"""Directories: put, compared, got and deleted as wholes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
import pytest_asyncio
from tests.client.fleet import Fleet

from holdfast.client.vault import Progress, Vault
from holdfast.errors import BadRequest, Conflict, Denied, Exists, NotFound, PartlyDone
from holdfast.files import AnyPath, OsFiles

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def vault(fleet: Fleet) -> Vault:
    return await fleet.vault()


def make_tree(top: Path) -> None:
    (top / "deep" / "deeper").mkdir(parents=True)
    (top / "empty").mkdir()
    for number in range(40):
        (top / f"file{number}").write_bytes(f"content {number}".encode() * number)
    (top / "deep" / "deeper" / "big").write_bytes(os.urandom(700_000))
    (top / "deep" / "émigré").write_bytes(b"accents")
    (top / "link").symlink_to("deep/deeper/big")
    (top / "dangling").symlink_to("/nowhere/at all")
    (top / "script").write_bytes(b"#!/bin/sh\n")
    (top / "script").chmod(0o755)
    (top / "deep").chmod(0o750)
    os.utime(top / "file3", ns=(10**18, 1_234_567_890_123_456_789))


def shape(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        name, state = str(path.relative_to(top)), path.lstat()
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("directory", state.st_mode & 0o777, state.st_mtime_ns)
        else:
            found[name] = ("file", state.st_mode & 0o777, state.st_mtime_ns, path.read_bytes())
    return found


async def settle() -> None:
    """Change times of what was just written become old enough to be trusted."""
    await asyncio.sleep(0.03)


async def test_a_tree_comes_back_as_it_was(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "Photos"
    make_tree(source)
    summary = await vault.put_tree([source])
    assert (summary.files, summary.links, summary.directories, summary.failed) == (43, 2, 4, [])
    entry = await vault.get("Photos", tmp_path / "back")
    assert entry.kind == "directory"
    assert shape(tmp_path / "back") == shape(source)
    names = [entry.name async for entry in vault.list("Photos", recursive=True)]
    assert len(names) == 48
    assert "Photos/deep/deeper/big" in names
    assert [entry.name async for entry in vault.list()] == ["Photos"]


async def test_an_unchanged_tree_is_found_so(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    make_tree(source)
    await settle()
    await vault.put_tree([source])
    again = await vault.put_tree([source])
    assert (again.unchanged, again.files, again.bytes, again.new_bytes) == (49, 0, 0, 0)
    (source / "file7").write_bytes(b"other")
    (source / "script").chmod(0o700)
    await settle()
    third = await vault.put_tree([source])
    assert third.files == 2
    assert third.bytes == 5 + 10  # a new mode is a new change time: it was looked at, but nothing was sent for it
    os.remove(source / "file8")
    os.utime(source / "file9")
    await settle()
    fourth = await vault.put_tree([source])
    assert (fourth.files, fourth.directories) == (1, 1)
    assert await vault.read("tree/file7") == b"other"


async def test_what_another_device_deleted_is_put_again(fleet: Fleet, vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    make_tree(source)
    await settle()
    await vault.put_tree([source])
    other = fleet.open(fleet.home_of(vault))
    await other.delete("tree/file5")
    again = await vault.put_tree([source])
    assert (again.files, again.unchanged) == (1, 48)
    assert await vault.read("tree/file5") == b"content 5" * 5


async def test_excludes_and_dry_run(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    make_tree(source)
    dry = await vault.put_tree([source], dry_run=True, exclude=["file*", "deep/", "link"])
    assert (dry.files, dry.directories, dry.links) == (1, 2, 1)
    with pytest.raises(NotFound):
        await vault.stat("tree")
    wet = await vault.put_tree([source], exclude=["file*", "deep/", "link"])
    assert (wet.files, wet.directories, wet.links) == (1, 2, 1)
    names = sorted([entry.name async for entry in vault.list("tree")])
    assert names == ["tree/dangling", "tree/empty", "tree/script"]


async def test_several_sources_and_names(vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"c")
    await vault.put_tree([tmp_path / "a", tmp_path / "b"], "in/here")
    assert sorted([entry.name async for entry in vault.list("in", recursive=True)]) == [
        "in/here", "in/here/a", "in/here/b", "in/here/b/c",
    ]  # fmt: skip
    await vault.put_tree([tmp_path / "a"], "renamed")
    assert await vault.read("renamed") == b"a"
    with pytest.raises(Conflict):
        await vault.put_tree([tmp_path / "a", tmp_path / "." / "a"])
    with pytest.raises(BadRequest):
        await vault.put_tree([])


async def test_what_cannot_be_stored_is_listed_and_the_rest_is_done(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "odd"
    source.mkdir()
    (source / "fine").write_bytes(b"fine")
    os.mkfifo(source / "pipe")
    Path(os.fsdecode(os.fsencode(source) + b"/bad\xff")).write_bytes(b"x")
    (source / "line\nbreak").write_bytes(b"x")
    summary = await vault.put_tree([source])
    assert summary.files == 1
    assert len(summary.failed) == 3
    assert {type(error) for _, error in summary.failed} == {BadRequest}
    missing = await vault.put_tree([tmp_path / "not there"])
    assert isinstance(missing.failed[0][1], NotFound)


class Refusing(OsFiles):
    """Opens all but one file: what a file of somebody else is to a plain user."""

    def open(self, path: AnyPath) -> int:
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return super().open(path)


@pytest.mark.parametrize("size", [10, 3 << 20])
async def test_a_file_that_may_not_be_read_is_listed(vault: Vault, tmp_path: Path, size: int) -> None:
    source = tmp_path / f"mixed {size}"
    source.mkdir()
    (source / "private").write_bytes(bytes(size))
    (source / "public").write_bytes(b"public")
    kept, vault._files = vault._files, Refusing()
    try:
        summary = await vault.put_tree([source])
    finally:
        vault._files = kept
    assert summary.files == 1
    ((name, error),) = summary.failed
    assert name == f"{source.name}/private"
    assert isinstance(error, Denied)
    assert error.detail == f"{source}/private: permission denied"
    assert await vault.read(f"{source.name}/public") == b"public"


async def test_a_large_file_that_changes_while_it_is_read_is_listed(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "busy"
    source.mkdir()
    (source / "log").write_bytes(os.urandom(2 << 20))
    (source / "still").write_bytes(b"still")

    def append(progress: Progress) -> None:
        if progress.name == "busy/log":
            with (source / "log").open("ab") as file:
                file.write(b"one more line")

    summary = await vault.put_tree([source], progress=append)
    ((name, error),) = summary.failed
    assert name == "busy/log"
    assert "changed while it was read, twice; it was not stored" in str(error)
    assert sorted([entry.name async for entry in vault.list("busy")]) == ["busy/still"]
    summary = await vault.put_tree([source])
    assert not summary.failed
    assert await vault.read("busy/log") == (source / "log").read_bytes()


async def test_a_directory_where_the_vault_has_a_file_is_left_out_with_all_in_it(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "swap"
    (source / "turned" / "deep").mkdir(parents=True)
    (source / "turned" / "deep" / "file").write_bytes(b"below")
    (source / "other").write_bytes(b"other")
    await vault.put(b"a file once", "swap/turned")
    summary = await vault.put_tree([source])
    ((name, error),) = summary.failed
    assert (name, type(error)) == ("swap/turned", Exists)
    assert error.detail == (
        "swap/turned is a file in the vault and a directory here; remove it first (holdfast rm), "
        "or store this under another name"
    )
    assert [entry.name async for entry in vault.list("swap", recursive=True)] == ["swap/other", "swap/turned"]
    with pytest.raises(NotFound):
        await vault.stat("swap/turned/deep/file")
    await vault.delete("swap/turned")
    assert not (await vault.put_tree([source])).failed
    assert await vault.read("swap/turned/deep/file") == b"below"

    (tmp_path / "plain").write_bytes(b"a file now")
    summary = await vault.put_tree([tmp_path / "plain"], "swap/turned")
    ((name, error),) = summary.failed
    assert error.detail.startswith("swap/turned is a directory in the vault and a file here; remove it first")
    assert "rm -r" in error.detail


async def test_nothing_is_stored_below_a_file(vault: Vault, tmp_path: Path) -> None:
    await vault.put(b"a file", "taken/name")
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"x")
    for target in ("taken/name", "taken/name/below", "taken/name/far/below"):
        summary = await vault.put_tree([source], target)
        assert summary.files == 0
        ((name, error),) = summary.failed
        assert name == target
        assert isinstance(error, Conflict)
        assert "taken/name is a file" in error.detail
    summary = await vault.put_tree([source / "deep" / "file", source], "taken/name")
    assert {name for name, _ in summary.failed} == {"taken/name/file", "taken/name/source"}
    assert [entry.name async for entry in vault.list("taken", recursive=True)] == ["taken/name"]
    for name in ("taken/name/file", "taken/name/deep", "taken/name/below", "taken/name/source/deep/file"):
        with pytest.raises(NotFound):
            await vault.stat(name)


async def test_the_command_lists_each_failure_and_ends_with_3(fleet: Fleet, tmp_path: Path) -> None:
    home = await fleet.home()
    source = tmp_path / "odd"
    source.mkdir()
    (source / "fine").write_bytes(b"fine")
    os.mkfifo(source / "pipe")
    (source / "line\nbreak").write_bytes(b"x")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    for json_wanted in (False, True):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "holdfast", "--home", str(home.path), *(["--json"] if json_wanted else []),
            "put", str(source), env=environment, stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        out, err = (text.decode() for text in await child.communicate())
        assert child.returncode == 3, err
        assert "Traceback" not in err
        if json_wanted:
            lines = [json.loads(line) for line in out.splitlines()]
            assert {line["name"] for line in lines if line["event"] == "failed"} == {"odd/pipe", "odd/line\nbreak"}
            assert lines[-1]["event"] == "summary"
            assert lines[-1]["failed"] == 2
            assert json.loads(err.splitlines()[-1])["error"]["exit"] == 3
        else:
            assert "odd/pipe: " in err
            assert "neither file, directory nor link" in err
            assert "2 items failed" in err


async def test_no_clobber_in_a_tree(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "a").write_bytes(b"1")
    await vault.put_tree([source])
    (source / "a").write_bytes(b"2")
    (source / "b").write_bytes(b"2")
    summary = await vault.put_tree([source], no_clobber=True)
    assert summary.files == 1
    assert [(name, type(error)) for name, error in summary.failed] == [("tree/a", Exists)]
    assert await vault.read("tree/a") == b"1"


async def test_getting_into_what_is_there_goes_on_and_replaces_nothing(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    make_tree(source)
    await vault.put_tree([source])
    target = tmp_path / "target"
    await vault.get("tree", target)
    os.remove(target / "file4")
    (target / "file6").write_bytes(b"mine")
    with pytest.raises(PartlyDone) as caught:
        await vault.get("tree", target)
    assert len(caught.value.extra["failed"]) == 1
    assert (target / "file4").exists()
    assert (target / "file6").read_bytes() == b"mine"
    await vault.get("tree", target, force=True)
    assert shape(target) == shape(source)


async def test_a_link_on_this_machine_is_not_followed_by_a_get(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file").write_bytes(b"x")
    await vault.put_tree([source])
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "inner").symlink_to(outside)
    with pytest.raises(PartlyDone):
        await vault.get("tree", target, force=True)
    assert list(outside.iterdir()) == []


async def test_delete_a_tree(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    make_tree(source)
    await vault.put_tree([source])
    with pytest.raises(Conflict):
        await vault.delete("tree")
    assert await vault.delete("tree", recursive=True) == 49
    assert [entry async for entry in vault.list()] == []
    with pytest.raises(NotFound):
        [entry async for entry in vault.list("tree")]
    back = await vault.put_tree([source])
    assert back.files == 43
    await vault.get("tree", tmp_path / "back")
    assert shape(tmp_path / "back") == shape(source)


async def test_many_files_are_few_requests(vault: Vault, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1500):
        (source / f"{number}").write_bytes(f"{number}".encode())
    began = time.monotonic()
    summary = await vault.put_tree([source])
    assert (summary.files, summary.failed) == (1500, [])
    await vault.get("many", tmp_path / "back")
    assert len(list((tmp_path / "back").iterdir())) == 1500
    assert (tmp_path / "back" / "777").read_bytes() == b"777"
    assert time.monotonic() - began < 60


async def test_two_devices_of_one_vault(fleet: Fleet, vault: Vault, tmp_path: Path) -> None:
    await vault.put(b"from the first", "shared/file")
    second = fleet.open(await fleet.home(root=fleet.home_of(vault).root))
    assert second.id == vault.id
    assert await second.read("shared/file") == b"from the first"
    await second.put(b"from the second", "shared/file")
    assert await vault.read("shared/file") == b"from the second"
    stranger = await fleet.vault()
    with pytest.raises(NotFound):
        await stranger.read("shared/file")
