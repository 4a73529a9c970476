"""``make fuzz``: schemathesis against real servers: what docs/openapi.json says is what they do, and nothing is a 500.

    python -m tests.fuzz.contract [KIND...] [--examples 200] [--seed 1]

Requests that fit the document and such that do not, signed by the server's own key (which may do everything), by a
stranger, or not at all. Every answer must have a documented status, content type and schema. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import requests  # type: ignore[import-untyped,unused-ignore]
import schemathesis
from hypothesis import strategies as st
from requests.auth import AuthBase  # type: ignore[import-untyped,unused-ignore]
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks
from tests.fuzz.servers import KINDS, Server, serving

from holdfast.auth import signing
from holdfast.auth.identity import Identity
from holdfast.clock import SeededRandomness

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
STRANGER = Identity.generate(SeededRandomness(99))
WAIT_S_MAX = 0.05
CHECKS: list[Any] = [
    checks.status_code_conformance, checks.content_type_conformance, checks.response_headers_conformance,
    checks.response_schema_conformance,
]  # fmt: skip


@dataclass(slots=True)
class Report:
    """What one server answered. ``wrong``: what it should not have, once for each route and reason."""

    kind: str
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    wrong: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        counted = ", ".join(f"{status} {count}" for status, count in sorted(self.statuses.items()))
        return f"{self.kind}: answers {counted}; wrong: {len(self.wrong)}"


class Signed(AuthBase):
    """Signs what is sent, as the profile has it."""

    def __init__(self, server: Server, signer: Identity) -> None:
        self._server = server
        self._signer = signer

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        assert isinstance(body, bytes)
        request.headers["Holdfast-To"] = str(self._server.id)
        request.headers["Content-Length"] = str(len(body))
        if body or request.method in ("POST", "PUT"):
            request.headers["Content-Digest"] = signing.body_digest(body)
        known = {
            name.lower(): value.decode("latin-1") if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        target = f"http://{self._server.host}:{self._server.port}{request.path_url}"
        request.headers.update(signing.sign_request(self._signer, str(request.method), target, known, time.time()))
        return request


def explore(server: Server, examples: int, seed: int) -> Report:
    """``examples`` for each route and way of making them."""
    load_all_checks()
    report, session = Report(server.kind), requests.Session()
    role = "coordinator" if server.kind == "coordinator" else "node"
    signers = st.sampled_from([Signed(server, server.identity)] * 4 + [Signed(server, STRANGER), None])
    schema = schemathesis.openapi.from_path(str(DOCUMENT))
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found.err()
        operation = found.ok()
        if role not in operation.definition.raw["tags"]:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _explore(server, session, operation, operation.as_strategy(mode), signers, examples, seed, report)
    session.close()
    for line in server.complaints()[:10]:
        report.wrong[f"log {len(report.wrong)}"] = line
    return report


def _explore(
    server: Server,
    session: requests.Session,
    operation: Any,
    cases: st.SearchStrategy[Any],
    signers: st.SearchStrategy[Signed | None],
    examples: int,
    seed: int,
    report: Report,
) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=cases, signer=signers)
    def one(case: Any, signer: Signed | None) -> None:
        for given in (case.query, case.body):
            if isinstance(given, dict) and "wait" in given:
                given["wait"] = WAIT_S_MAX
        try:
            response = case.call(base_url=server.url, session=session, auth=signer or _unsigned, timeout=60)
        except (requests.exceptions.InvalidHeader, UnicodeEncodeError):
            return  # this client refuses to send it
        report.statuses[response.status_code] += 1
        label = f"{operation.method.upper()} {operation.path}"
        if response.status_code == 500:
            report.wrong.setdefault(f"{label} 500", f"{response.text[:200]} to {case.as_curl_command()[:1500]}")
        try:
            case.validate_response(response, checks=CHECKS)
        except (Failure, FailureGroup) as error:
            reasons = error.exceptions if isinstance(error, FailureGroup) else [error]
            for reason in reasons:
                key = f"{label} {type(reason).__name__} {response.status_code}"
                report.wrong.setdefault(key, f"{reason}"[:1500])

    try:
        one()
    except hypothesis.errors.Unsatisfiable:
        return  # nothing does not fit: a route without anything to say


def _unsigned(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def main() -> int:
    parser = argparse.ArgumentParser(description="schemathesis against real servers.")
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS])
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as path, serving(Path(path), given.kinds or KINDS) as servers:
        for server in servers:
            report = explore(server, given.examples, given.seed)
            print(report.text(), flush=True)
            for label, why in report.wrong.items():
                print(f"  WRONG {label}: {why}", flush=True)
            wrong += len(report.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
