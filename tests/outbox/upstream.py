"""A web server that is not holdfast: keeps files, knows ETags, and misbehaves when told to. Real TCP on loopback.

``rules`` maps a path to what it does instead, taken in turn; the last one stays if ``forever``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

Rule = Callable[[web.Request, bytes], Awaitable[web.StreamResponse | None]]


@dataclass
class Effect:
    """A write that the server carried out."""

    method: str
    path: str
    body: bytes


@dataclass
class Upstream:
    """Start with ``async with``."""

    files: dict[str, bytes] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    everywhere: Rule | None = None
    ignores_conditions: bool = False
    validators: bool = True
    url: str = ""
    _runner: web.ServerRunner | None = None
    _port: int = 0

    async def __aenter__(self) -> Upstream:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """At the same port as before, if there was one."""
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def etag(self, path: str) -> str:
        return '"' + hashlib.sha256(self.files[path]).hexdigest()[:16] + '"'

    def rule(self, path: str, *rules: Rule) -> None:
        """The next requests for writing ``path`` are answered so."""
        self.rules.setdefault(path, []).extend(rules)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        path, method = request.path, request.method
        self.requests.append((method, path, {name.lower(): value for name, value in request.headers.items()}))
        body = await request.content.read()
        if self.everywhere is not None:
            found = await self.everywhere(request, body)  # type: ignore[arg-type]
            if found is not None:
                return found
        if method in ("PUT", "DELETE") and self.rules.get(path):
            found = await self.rules[path].pop(0)(request, body)  # type: ignore[arg-type]
            if found is not None:
                return found
        return self.plain(request, body)

    def plain(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """What an honest server does."""
        path, method = request.path, request.method
        if method in ("GET", "HEAD"):
            if path not in self.files:
                return web.Response(status=404)
            headers = {"ETag": self.etag(path)} if self.validators else {}
            return web.Response(body=self.files[path], headers=headers)
        if not self.ignores_conditions:
            present = self.etag(path) if path in self.files else None
            wanted = request.headers.get("If-Match")
            if (wanted is not None and wanted != present) or (
                request.headers.get("If-None-Match") == "*" and present is not None
            ):
                return web.Response(status=412)
        if method == "PUT":
            new = path not in self.files
            self.files[path] = body
            self.effects.append(Effect(method, path, body))
            return web.Response(status=201 if new else 204)
        if method == "DELETE":
            if path not in self.files:
                return web.Response(status=404)
            del self.files[path]
            self.effects.append(Effect(method, path, b""))
            return web.Response(status=204)
        return web.Response(status=405)


def status(code: int, **headers: str) -> Rule:
    """Answers a code and does nothing."""

    async def rule(request: web.Request, body: bytes) -> web.StreamResponse:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return rule


async def reset(request: web.Request, body: bytes) -> web.StreamResponse:
    """The connection breaks before anything was done."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def lost(upstream: Upstream) -> Rule:
    """It is done, and the answer never comes."""

    async def rule(request: web.Request, body: bytes) -> web.StreamResponse:
        upstream.plain(request, body)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return rule


async def half(request: web.Request, body: bytes) -> web.StreamResponse:
    """The answer breaks off in the middle."""
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    request.transport.abort()
    return web.Response()


async def hang(request: web.Request, body: bytes) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def portal(request: web.Request, body: bytes) -> web.StreamResponse:
    """A captive portal: its own page for everything."""
    return web.Response(text="<html>please log in</html>", content_type="text/html")
