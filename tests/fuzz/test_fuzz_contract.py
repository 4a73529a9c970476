"""Real servers do what docs/openapi.json says, also when they are asked for what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fuzz.servers import KINDS, serving

contract = pytest.importorskip("tests.fuzz.contract", reason="needs schemathesis")


@pytest.mark.rig
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_servers_answer_as_the_document_says(tmp_path: Path, kind: str) -> None:
    with serving(tmp_path, [kind]) as (server,):
        report = contract.explore(server, 3, seed=5)
    assert report.wrong == {}
    assert report.statuses[200]
    assert report.statuses[400]
    assert report.statuses[401]


@pytest.mark.rig
@pytest.mark.timeout(600)
def test_an_answer_that_is_not_in_the_document_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(contract.DOCUMENT.read_text())
    document["paths"] = {"/v1/health": document["paths"]["/v1/health"]}
    document["components"]["schemas"]["Health"]["properties"]["status"] = {"type": "integer"}
    changed = tmp_path / "openapi.json"
    changed.write_text(json.dumps(document))
    monkeypatch.setattr(contract, "DOCUMENT", changed)
    with serving(tmp_path, ["gateway"]) as (server,):
        report = contract.explore(server, 3, seed=5)
    assert any("JsonSchemaError" in label for label in report.wrong), report.wrong
