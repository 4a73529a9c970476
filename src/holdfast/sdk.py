"""``holdfast.Vault``: the client's vault, opened from a home with everything it needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from holdfast import assemble


class Vault(assemble.OpenVault):
    """A vault of this machine's user. Open it with ``open`` and close it, or use ``async with await Vault.open()``."""

    @classmethod
    async def open(
        cls, home: str | Path | None = None, *, passphrase: str | None = None, coordinator: str | None = None
    ) -> Self:
        """The vault of ``home`` (default: HOLDFAST_HOME, else the user's data directory).

        ``passphrase`` opens a sealed key file (default: HOLDFAST_PASSPHRASE). ``coordinator`` is an address to try
        before those that the home knows. Nothing is sent yet: a network that is down shows with the first call.
        NotFound without a home, WrongPassphrase, BadConfig. May be opened any number of times, by any number of
        processes.
        """
        return await assemble.open_vault(
            Path(home) if home is not None else None,
            ask=lambda: passphrase or os.environ.get("HOLDFAST_PASSPHRASE"),
            coordinator=coordinator,
            kind=cls,
        )
