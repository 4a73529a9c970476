"""What makes a schema is tested here, so it is Alembic that does it."""

from __future__ import annotations

import pytest
from tests.metadata.quick_schema import by_alembic

from holdfast.metadata import database


@pytest.fixture(autouse=True)
def schema_by_alembic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "migrate", by_alembic)
