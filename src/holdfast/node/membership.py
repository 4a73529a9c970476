"""Which network a node belongs to: the pinned coordinator, its settings, the highest epoch heard, what is revoked.

Kept in ``network.json`` in the node's directory. A node refuses whoever speaks for a lower epoch, so of two
coordinators with one key only one can act (docs/design.md, Epochs).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from holdfast.auth.identity import Id
from holdfast.errors import BadConfig, BadRequest, StaleEpoch
from holdfast.files import Files, read_file, write_file
from holdfast.wire import messages as m
from holdfast.wire.http import Target

_VERSION = 1
_BYTES_MAX = 16 << 20
URLS_MAX = 8


class _Saved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``network.json``."""

    version: int = _VERSION
    coordinator: Id
    urls: list[str]
    settings: m.Settings
    epoch: int
    commit: int
    position: bytes = b""
    revocations: int = 0
    revoked: list[int] = []


class Membership:
    """One node's membership. Changed in the event loop; ``save`` blocks and may run in a pool."""

    def __init__(
        self,
        path: Path,
        *,
        files: Files,
        coordinator: Id,
        urls: Iterable[str],
        settings: m.Settings,
        epoch: tuple[int, int],
        position: bytes = b"",
        revocations: int = 0,
        revoked: Iterable[int] = (),
    ) -> None:
        self.coordinator = coordinator
        self.urls = list(urls)
        self.settings = settings
        self.epoch = epoch
        """The highest (epoch, commit number) heard."""
        self.position = position
        """The coordinator's signed word for ``epoch``; empty if it was only told."""
        self.revocations = revocations
        self.revoked = frozenset(revoked)
        """Serials of certificates that count no more."""
        self._saved: tuple[tuple[int, int], bytes, m.Settings, int, list[str]] | None = None
        self._path = path
        self._files = files

    @classmethod
    def load(cls, directory: Path, *, files: Files) -> Membership:
        """As saved in ``directory``; BadConfig if the node has not joined yet, or the file is damaged."""
        path = directory / "network.json"
        try:
            data = read_file(files, path, _BYTES_MAX)
        except OSError as error:
            raise BadConfig(f"{path} cannot be read: {error.strerror or error}") from error
        if data is None:
            raise BadConfig(f"the node in {directory} belongs to no network yet: holdfast node init --join INVITE")
        try:
            saved = m.decode(data, _Saved)
        except BadRequest as error:
            raise BadConfig(f"{path} is damaged: {error.detail}") from error
        if saved.version != _VERSION or not saved.urls:
            raise BadConfig(f"{path}: not of version {_VERSION}, or without a coordinator's URL")
        return cls(
            path,
            files=files,
            coordinator=saved.coordinator,
            urls=saved.urls,
            settings=saved.settings,
            epoch=(saved.epoch, saved.commit),
            position=saved.position,
            revocations=saved.revocations,
            revoked=saved.revoked,
        )

    @classmethod
    def alone(cls, directory: Path, *, files: Files, me: Id) -> Membership:
        """Of a node without a coordinator: it is its own, so no grant and no certificate counts but its own."""
        settings = m.Settings(heartbeat_interval=30.0, offline_after=3, survive=0, floor=0)
        return cls(directory / "network.json", files=files, coordinator=me, urls=[], settings=settings, epoch=(0, 0))

    @property
    def is_alone(self) -> bool:
        return not self.urls

    @classmethod
    def of(cls, directory: Path, *, files: Files, coordinator: Id, joined: m.Joined) -> Membership:
        """From the coordinator's answer to a join; not saved yet."""
        return cls(
            directory / "network.json",
            files=files,
            coordinator=coordinator,
            urls=joined.urls,
            settings=joined.settings,
            epoch=(joined.epoch, joined.commit),
        )

    @property
    def targets(self) -> list[Target]:
        """The coordinator's addresses, the last one that answered first."""
        return [Target(self.coordinator, url) for url in self.urls]

    def answered(self, url: str) -> None:
        """``url`` is asked first from now on."""
        self.urls.sort(key=lambda other: other != url)

    def hear(self, epoch: int, commit: int, position: bytes) -> None:
        """Keeps the highest, and the word for it; StaleEpoch for a lower epoch than one heard before."""
        if epoch < self.epoch[0]:
            raise StaleEpoch(
                f"epoch {epoch} is over: this node has heard of {self.epoch[0]}. "
                "An older coordinator must be recovered before it may act: holdfast coordinator recover"
            )
        if (epoch, commit) > self.epoch or ((epoch, commit) == self.epoch and not self.position):
            self.epoch, self.position = (epoch, commit), position

    def adopt(self, answer: m.HeartbeatAnswer) -> bool:
        """Takes over what a heartbeat's answer says; True if something is not saved yet. StaleEpoch."""
        self.hear(answer.epoch, answer.commit, answer.position)
        self.settings = answer.settings
        if answer.revoked is not None:
            self.revoked = frozenset(answer.revoked)
            self.revocations = answer.revocations
        if answer.urls:  # and behind them those by which it was reached, which may be others' names for the same
            self.urls += [url for url in answer.urls[:URLS_MAX] if url not in self.urls]
            self.urls = [url for url in self.urls if url in answer.urls] + [
                url for url in self.urls if url not in answer.urls
            ][:URLS_MAX]
        return self._saved != self._present()

    def _present(self) -> tuple[tuple[int, int], bytes, m.Settings, int, list[str]]:
        return self.epoch, self.position, self.settings, self.revocations, sorted(self.urls)

    def save(self) -> None:
        """Durably; BadConfig if the disk refuses. A node alone has nothing to save."""
        if self.is_alone:
            return
        kept = self._present()
        saved = _Saved(
            coordinator=self.coordinator,
            urls=list(self.urls),
            settings=self.settings,
            epoch=self.epoch[0],
            commit=self.epoch[1],
            position=self.position,
            revocations=self.revocations,
            revoked=sorted(self.revoked),
        )
        try:
            write_file(self._files, self._path, m.encode(saved) + b"\n")
        except OSError as error:
            raise BadConfig(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._saved = kept
