"""The example of docs/outbox.md does what the page says, and the one in the docstring is the same."""

from __future__ import annotations

import asyncio
import re
import sys
import textwrap
from pathlib import Path

from tests.outbox.upstream import Upstream

from holdfast.outbox import Outbox

PAGE = Path(__file__).parents[2] / "docs" / "outbox.md"


def example() -> str:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


async def run(directory: Path, url: str) -> list[str]:
    code = example().replace("https://dav.example.org", url)
    assert url in code
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=directory, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert child.returncode == 0
    return out.decode().splitlines()


async def test_the_example_runs(tmp_path: Path) -> None:
    async with Upstream() as up:
        assert await run(tmp_path, up.url) == ["1 delivered, 0 wait"]
        assert up.files == {"/notes/today.txt": b"bought milk"}
        up.files["/notes/today.txt"] = b"somebody else's"
        first = await run(tmp_path, up.url)
        assert first == ["0 delivered, 0 wait", f"{up.url}/notes/today.txt somebody else changed it"]
        assert up.files == {"/notes/today.txt": b"somebody else's"}
        assert (await run(tmp_path, up.url))[0] == "2 delivered, 0 wait", "mine, and the same once more"
        assert up.files == {"/notes/today.txt": b"bought milk"}


def test_the_example_is_short_and_stands_in_the_docstring_too() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 20
    shown = textwrap.dedent((Outbox.__doc__ or "").partition("::\n")[2])
    assert [line for line in shown.splitlines() if line.strip()] == lines
