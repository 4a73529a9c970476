"""What attackers write into names, paths and addresses, and that none of it gets anywhere."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from tests.fuzz.targets_wire import REQUESTS, example

from holdfast import logs
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.cli.invocation import Invocation, error_document, json_line, sentence
from holdfast.client.device.local import make_directory
from holdfast.client.exchange.manifests import _place
from holdfast.codec import paths
from holdfast.errors import BadConfig, BadRequest, Exists, HoldfastError, Unavailable
from holdfast.files import OsFiles
from holdfast.gateway.build_cache import _KEY
from holdfast.peers import discovery, manifest
from holdfast.peers.origin import _is_public, system_resolve
from holdfast.shown import visible, visible_json, visible_lines
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.http import checked_url

TERMINAL = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x1b[8mhidden\x1b[0m",
    "\x9b31m",
    "\x9d0;x\x9c",
    "a\rb",
    "a\nfake: line",
    "a\bb",
    "\x7f",
    "\x00",
    "\x0e",
    "\x85",
    "\u2028",
    "\u2029",
    "\u202egnp.exe",
    "\u2066x",
    "\u200f",
    "\udc9b",
    "\x1bP+q\x1b\\",
    "\x1b[6n",
    "\x05",
    "a\tb\x0b\x0c",
    "\u061c",
)
TRAVERSAL = (
    "..",
    ".",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "//etc/passwd",
    "a//b",
    "a/",
    "\0",
    "a\0b",
    "a/\0",
    "./a",
    "a/./b",
    "",
    "../" * 50 + "etc/passwd",
    "a\n",
    "\x7f",
    "a" * 256,
    "a/" * 3000,
    "\udcff",
    "e\u0301" * 200,
)
ODD_BUT_NAMES = (
    "..\\..\\x",
    "C:\\x",
    "C:x",
    "CON",
    "nul.txt",
    "aux",
    "a:b",
    "a.",
    "a ",
    "%2e%2e",
    "%2e%2e%2fx",
    "..%2f",
    "..%c0%af",
    "\uff0e\uff0e",
    "\u2025",
    "\u2024\u2024",
    "\uff0fetc",
    "\u2215x",
    "~",
    "~root",
    "$HOME",
    "`id`",
    "$(id)",
    "a;b",
    "-rf",
    "--help",
    "|x",
    "*",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{7*7}}",
    "\u200b..",
)
PRIVATE = (
    "127.0.0.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "fe80::1",
    "fd00::1",
    "fec0::1",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:db8::1",
)
SPELLINGS = ("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0x7f.1", "017700000001", "localhost")
ADDRESSES = (
    "file:///etc/passwd",
    "gopher://x:70/",
    "ftp://x/",
    "dict://x:11211/",
    "data:text/html,x",
    "javascript:x",
    "//evil.example",
    "http:evil.example",
    "http://",
    "http:///x",
    "http://user@evil.example",
    "http://u:p@evil.example",
    "http://a@b@c",
    "http://evil.example/path",
    "http://evil.example/?q",
    "http://evil.example/#f",
    "http://evil.example\\@good.example",
    "http://a b",
    "http://\x1b[31mred",
    "http://a:99999",
    "http://a:x",
    "http://[::1",
    "http://evil.example:80:80",
    "http://<x>",
    "unix:///run/docker.sock",
    "http+unix://x",
    "",
    " ",
    "http://\u202eelpmaxe",
)


def is_safe(text: str) -> bool:
    return all(mark.isprintable() or mark in "\n\t" for mark in text)


@pytest.mark.parametrize("text", TERMINAL)
def test_nothing_that_is_shown_commands_a_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = Unavailable(f"{text} does not answer", name=text)
    assert visible(text).isprintable()
    for shown in (visible_lines(text), sentence(error), json_line({"name": text}), json_line(error_document(error))):
        assert is_safe(shown), shown
        shown.encode()
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text
    for invocation in (Invocation(), Invocation(json=True)):
        invocation.data(text)
        invocation.note(text)
        invocation.document({"name": text})
        invocation.marked("ok", "green", text)
    printed = capsys.readouterr()
    assert is_safe((printed.out + printed.err).replace("\x1b[32mok\x1b[0m", ""))


@pytest.mark.parametrize("text", TERMINAL)
def test_nothing_that_is_logged_commands_a_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (True, False):
        logs.configure(verbosity=1, json=as_json)
        try:
            logs.get_logger("x").warning("something", name=text)
        finally:
            logs.configure(verbosity=0)
        printed = capsys.readouterr().err
        assert "something" in printed
        assert text not in printed.replace("\x1b[0m", "")


@pytest.mark.parametrize(
    "text", [text for text in TERMINAL if ord(min(text)) < 32 or any("\x7f" <= c <= "\x9f" for c in text)]
)
def test_names_of_nodes_hold_no_control_characters(text: str) -> None:
    facts = {"name": "n1", "store": "AAAAAAAAAAAAAAAAAAAAAA==", "url": "", "domain": "home", "capacity": 1}
    assert m.decode(json.dumps(facts).encode(), m.NodeFacts)
    for field in ("name", "domain"):
        for value in (text, f"a{text}", f"{text}a"):
            with pytest.raises(BadRequest):
                m.decode(json.dumps({**facts, field: value}).encode(), m.NodeFacts)
    with pytest.raises(BadRequest):
        paths.normalise(text)


@pytest.mark.parametrize("text", TRAVERSAL)
def test_what_leads_elsewhere_is_no_name(text: str) -> None:
    for parse in (paths.normalise, manifest.checked_path, manifest.checked_name, Digest.parse, Id.parse):
        with pytest.raises(HoldfastError):
            parse(text)
    assert _KEY.fullmatch(text) is None or text in (".", ".."), "keys are never a part of a path"


@pytest.mark.parametrize("text", ODD_BUT_NAMES)
def test_odd_names_stay_below_their_directory(tmp_path: Path, text: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    for refused in (manifest.checked_name, Digest.parse, Id.parse):
        if not (refused is manifest.checked_name and text in ("nul.txt", "aux", "a.")):
            with pytest.raises(BadRequest):
                refused(text)
    for number, name in enumerate((text, f"sub/{text}", f"{text}/x")):
        try:
            found = _place(OsFiles(), inside / str(number), name)
        except BadRequest:
            continue
        make_directory(OsFiles(), found.parent)
        found.write_bytes(b"x")
        assert found.resolve().is_relative_to((inside / str(number)).resolve())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside"]


def test_a_link_that_was_planted_is_not_walked_through(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for path in (outside, inside):
        path.mkdir()
    (inside / "way").symlink_to(outside)
    (inside / "deep").mkdir()
    (inside / "deep" / "up").symlink_to("../..")
    for name in ("way/x", "way/sub/x", "deep/up/x", "deep/up/outside/x"):
        with pytest.raises(Exists):
            _place(OsFiles(), inside, name)
    with pytest.raises(Exists):
        make_directory(OsFiles(), inside / "way")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("text", ADDRESSES)
def test_what_is_no_address_of_a_server_is_refused(text: str) -> None:
    with pytest.raises(BadConfig):
        checked_url(text)
    with pytest.raises(BadConfig):
        discovery.parse_peer(f"{Id(bytes(32))}@{text}")


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_known_in_every_form(text: str) -> None:
    assert not _is_public(text)
    assert not _is_public(str(ipaddress.ip_address(text)))


def test_public_addresses_are_public() -> None:
    assert all(map(_is_public, ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822", "::ffff:93.184.216.34")))


@pytest.mark.parametrize("text", SPELLINGS)
async def test_other_spellings_of_this_machine_are_seen_through(text: str) -> None:
    try:
        found = await system_resolve(text)
    except OSError:
        return
    assert found
    assert not any(map(_is_public, found))


def test_no_task_and_no_request_but_those_about_themselves_names_an_address() -> None:
    def addresses(value: object) -> bool:
        if isinstance(value, dict):
            return any("url" in str(key) or addresses(held) for key, held in value.items())
        return any(map(addresses, value)) if isinstance(value, list) else False

    assert not addresses(example(m.Task))
    assert {kind.__name__ for kind in REQUESTS if addresses(example(kind))} == {"Heartbeat", "Join"}
    assert routes.TASKS.answer is m.TaskPage
