"""restic's backup of one file into a repository of its own: cut, sealed and deduplicated like ours, one copy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench.peers.environment import program


class Restic:
    """A new repository in ``directory``; its cache lies beside it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._environment = {
            **os.environ,
            "RESTIC_PASSWORD": "of a benchmark",
            "RESTIC_REPOSITORY": str(directory / "repository"),
            "RESTIC_CACHE_DIR": str(directory / "cache"),
        }
        self._do("init")

    def put(self, source: Path) -> None:
        self._do("backup", "--quiet", str(source))

    def get(self, source: Path, target: Path) -> Path:
        """Restores what was last put from ``source`` below ``target``; where the file is then."""
        self._do("restore", "latest", "--quiet", "--target", str(target), "--path", str(source))
        return target / source.relative_to("/")

    def _do(self, *arguments: str) -> None:
        command = [str(program("restic")), *arguments]
        subprocess.run(command, env=self._environment, check=True, capture_output=True)
