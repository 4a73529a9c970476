"""The checked-in OpenAPI document is the one that routes and messages make."""

from __future__ import annotations

from pathlib import Path

from holdfast.wire import openapi


def test_the_document_is_up_to_date() -> None:
    kept = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert kept.read_text() == openapi.text(), "run: python -m holdfast.wire.openapi > docs/openapi.json"
