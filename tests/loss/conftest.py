"""Every story of loss is told on both databases."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def on_both(below: None) -> None:
    pass
