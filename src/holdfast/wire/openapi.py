"""The OpenAPI 3.1 document, made from routes and messages: ``python -m holdfast.wire.openapi > docs/openapi.json``."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import msgspec

import holdfast
from holdfast.auth.identity import Id
from holdfast.blob import Digest
from holdfast.wire import exchange_messages as x
from holdfast.wire import messages as m
from holdfast.wire import routes
from holdfast.wire.routes import Route

_TEXT_TYPES = {
    Digest: {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    Id: {"type": "string", "pattern": "^[a-z2-7]{52}$"},
}
_PATH_PARTS = {
    "digest": _TEXT_TYPES[Digest],
    "tag": _TEXT_TYPES[Digest],
    "vault": _TEXT_TYPES[Id],
    "id": _TEXT_TYPES[Id],
    "ref": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,127}$"},
    "task": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
}
_RAW: dict[type[Any], type[Any]] = {msgspec.Raw: x.ManifestDocument}
"""What the JSON that is handed on as bytes looks like."""
_BLOB = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_PROBLEM = {
    "description": "RFC 9457",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def _schema(kind: type[Any]) -> dict[str, Any]:
    if kind in _TEXT_TYPES:
        return dict(_TEXT_TYPES[kind])
    raise NotImplementedError(kind)


def _components(table: tuple[Route[Any, Any], ...]) -> dict[str, Any]:
    kinds = {m.Problem} | {route.answer for route in table} | {route.request for route in table if route.request}
    kinds = {_RAW.get(kind, kind) for kind in kinds}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(
        ordered, schema_hook=_schema, ref_template="#/components/schemas/{name}"
    )
    for component in components.values():
        if "description" in component:  # releases of msgspec differ in the indentation of docstrings
            component["description"] = inspect.cleandoc(component["description"])
    return dict(sorted(components.items()))


def _parameters(route: Route[Any, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_PARTS[name]}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.request is not None and route.method == "GET":
        schema = msgspec.json.schema(route.request, schema_hook=_schema)
        fields = schema["$defs"][route.request.__name__]["properties"]
        found += [{"name": name, "in": "query", "required": False, "schema": field} for name, field in fields.items()]
    return found


def _operation(route: Route[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": route.label, "responses": {}}
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.blob == "up":
        operation["requestBody"] = {"required": True, "content": _BLOB}
    elif route.request is not None and route.method in ("POST", "PUT"):
        reference = {"$ref": f"#/components/schemas/{_RAW.get(route.request, route.request).__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    kind = _RAW.get(route.answer, route.answer)
    answer = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
    operation["responses"]["2XX"] = {"description": "done", "content": _BLOB if route.blob == "down" else answer}
    operation["responses"]["default"] = _PROBLEM
    operation["security"] = ([{"holdfast": []}] if route.signed else []) + ([{}] if route.open else [])
    return operation


def document() -> dict[str, Any]:
    """Node and coordinator in one document; ``tags`` say whose a route is."""
    table: tuple[Route[Any, Any], ...] = tuple(dict.fromkeys(routes.COORDINATOR_ROUTES + routes.NODE_ROUTES))
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        operation = _operation(route)
        operation["tags"] = [
            role
            for role, held in (("coordinator", routes.COORDINATOR_ROUTES), ("node", routes.NODE_ROUTES))
            if route in held
        ]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    signature = {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "RFC 9421, the one profile of docs/formats.md, Requests",
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "holdfast", "version": holdfast.__version__, "license": {"name": "Apache-2.0"}},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _components(table), "securitySchemes": {"holdfast": signature}},
    }


def text() -> str:
    """The document as it is checked in."""
    return json.dumps(document(), indent=1, sort_keys=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
