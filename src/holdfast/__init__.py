"""holdfast keeps encrypted files on machines that come and go.

The public names are loaded on first use, so that ``import holdfast`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from holdfast.blob import Digest as Digest
    from holdfast.client.vault import Defect as Defect
    from holdfast.client.vault import Entry as Entry
    from holdfast.client.vault import MoveSummary as MoveSummary
    from holdfast.client.vault import Progress as Progress
    from holdfast.client.vault import PutSummary as PutSummary
    from holdfast.client.vault import RestoreSummary as RestoreSummary
    from holdfast.client.vault import TrashEntry as TrashEntry
    from holdfast.client.vault import VerifySummary as VerifySummary
    from holdfast.client.vault import Version as Version
    from holdfast.errors import BadConfig as BadConfig
    from holdfast.errors import BadRequest as BadRequest
    from holdfast.errors import Conflict as Conflict
    from holdfast.errors import Corrupt as Corrupt
    from holdfast.errors import Denied as Denied
    from holdfast.errors import Exists as Exists
    from holdfast.errors import HoldfastError as HoldfastError
    from holdfast.errors import NoSpace as NoSpace
    from holdfast.errors import NotFound as NotFound
    from holdfast.errors import TimedOut as TimedOut
    from holdfast.errors import TooFewNodes as TooFewNodes
    from holdfast.errors import Unavailable as Unavailable
    from holdfast.errors import WrongPassphrase as WrongPassphrase
    from holdfast.sdk import Vault as Vault

_ERRORS = (
    "BadConfig", "BadRequest", "Conflict", "Corrupt", "Denied", "Exists", "HoldfastError", "NoSpace", "NotFound",
    "TimedOut", "TooFewNodes", "Unavailable", "WrongPassphrase",
)  # fmt: skip
_HOMES = {
    "Digest": "holdfast.blob",
    "Defect": "holdfast.client.vault",
    "Entry": "holdfast.client.vault",
    "MoveSummary": "holdfast.client.vault",
    "Progress": "holdfast.client.vault",
    "PutSummary": "holdfast.client.vault",
    "RestoreSummary": "holdfast.client.vault",
    "TrashEntry": "holdfast.client.vault",
    "Vault": "holdfast.sdk",
    "VerifySummary": "holdfast.client.vault",
    "Version": "holdfast.client.vault",
    **dict.fromkeys(_ERRORS, "holdfast.errors"),
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
