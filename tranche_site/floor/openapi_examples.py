"""An example for every body in the OpenAPI document, and the headers that every view has alike.

Examples follow from the schemas: a field's value by its name and what it belongs to, else by its format and kind. So none can be
forgotten, and a test holds each against its schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

AT = "2026-03-05T10:00:00Z"
BY_NAME: Mapping[str, Any] = {
    "name": "shop", "hostname": "www.example.com", "host": "www.example.com", "address": "shop.cdn.example",
    "email": "ops@example.com",     "billing_email": "billing@example.com", "alert_email": "noc@example.com", "url": "https://hooks.example.com/tranche",
    "probe_path": "/healthz", "uncacheable_path": "/healthz?fresh=1", "expected_statuses": "200-399", "body_marker": "ok",
    "probe_headers": {"X-Probe": "a word that your firewall knows"}, "challenge": "token=6f1c", "prefix": "trk_1a2b3c4d",
    "key": "trk_1a2b3c4d_…", "secret": "whsec_…", "currency": "USD", "time_zone": "Europe/Berlin", "number": "INV-000042",
    "reason": "the primary is down while the origin answers past it", "description": "production", "slug": "cloudflare",
    "cdn": "cloudflare", "region": "eu-west", "regions": ["eu-west"], "network": "AS64500", "zone": "example.com",
    "weights": {"17": 0, "18": 100}, "previous_weights": {"17": 100, "18": 0}, "kinds": ["storm.*", "weights.observed"],
    "scopes": ["read", "write"], "id": 42, "service": 7, "domain": 12, "path": 17, "target": 17, "storm": 42, "invoice": 5,
    "line": 31, "amount": "12.50", "total": "929.19", "subtotal": "979.90", "threshold_avail": "0.9000", "availability": 0.982,
    "port": 443, "rank": 1, "status": 200, "type": "about:blank", "title": "Not Found", "code": "not_found",
    "detail": "There is no such row.", "request_id": "8f0c2e6b1d5a4c7e", "pointer": "/name", "parameter": "limit",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "local_time": "02:30:00", "window_start": "02:00", "window_end": "05:00",
    "weekdays": ["sunday"], "summary": "A storm began.", "error": "", "bytes": 1_234_567_890, "requests": 4321,
    "percent": 2, "minutes": 15, "backup_percent": 30, "certificate_issuer": "C = US, O = Example CA",
}  # fmt: skip
BY_FORMAT: Mapping[str, Any] = {
    "date-time": AT, "date": "2026-03-05", "time": "10:00:00", "uri": "https://hooks.example.com/tranche",
    "email": "ops@example.com", "uuid": "0b0e2f6a-7a51-4c3e-9d38-0a4f8a3d5e11", "decimal": "12.50",
}  # fmt: skip
DEEPEST = 8

_TEXT = {"type": "string"}
HEADERS: Mapping[str, dict[str, Any]] = {
    "X-Request-Id": {"description": "What to tell us when you ask about this.", "schema": _TEXT},
    "RateLimit-Policy": {"description": "The quota that counts here, its size and its seconds.", "schema": _TEXT},
    "RateLimit": {
        "description": "What is left of it, and in how many seconds there is all of it again.",
        "schema": _TEXT,
    },
    "Retry-After": {"description": "In how many seconds to try again.", "schema": {"type": "integer", "minimum": 1}},
    "Link": {
        "description": "Where the next and the previous page are (RFC 8288): rel “next” and “prev”.",
        "schema": _TEXT,
    },
    "ETag": {
        "description": "The state that was sent: for If-None-Match, and for If-Match of a change.",
        "schema": _TEXT,
    },
    "Idempotent-Replayed": {"description": "“true” where this was answered before.", "schema": _TEXT},
}
PARAMETERS: Mapping[str, dict[str, Any]] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key", "in": "header", "required": False,
        "description": "Of your choice, kept for a day: the same request with the same key acts once and is answered alike; "
        "another request with it is refused (422).",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e ]+$"},
        "example": "order-4711",
    },
    "IfMatch": {
        "name": "If-Match", "in": "header", "required": False,
        "description": "The ETag of the state that you saw, or * for whatever it is: 428 without it where two may edit, and 412 "
        "where somebody was quicker.",
        "schema": _TEXT, "example": '"5d41402abc4b2a76"',
    },
    "IfNoneMatch": {
        "name": "If-None-Match", "in": "header", "required": False,
        "description": "The ETag of what you have: 304 while it is the same.",
        "schema": _TEXT, "example": '"5d41402abc4b2a76"',
    },
}  # fmt: skip


def describe(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A hook of drf-spectacular, after all others."""
    components = result["components"]
    components["headers"] = dict(HEADERS)
    components["parameters"] = dict(PARAMETERS)
    for operations in result["paths"].values():
        for verb, operation in operations.items():
            _parameters(verb, operation)
            if verb == "get":
                operation["responses"]["304"] = {"description": "It is still what If-None-Match says."}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _give_example(content, components["schemas"], "request")
            for status, response in operation["responses"].items():
                _headers(verb, status, response, components["schemas"])
                for content in response.get("content", {}).values():
                    _give_example(content, components["schemas"], "response", status)
    return result


def _parameters(verb: str, operation: dict[str, Any]) -> None:
    names = {"post": ["IdempotencyKey"], "patch": ["IfMatch"], "delete": ["IfMatch"], "get": ["IfNoneMatch"]}.get(
        verb, []
    )
    operation.setdefault("parameters", []).extend({"$ref": f"#/components/parameters/{name}"} for name in names)


def _headers(verb: str, status: str, response: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    names = ["X-Request-Id", "RateLimit-Policy", "RateLimit"]
    content: dict[str, Any] = next(iter(response.get("content", {}).values()), {})
    if status == "429":
        names.append("Retry-After")
    if status in ("200", "201", "304") and verb in ("get", "post", "patch"):
        names.append("ETag")
    if verb == "get" and status == "200" and _resolved(content.get("schema", {}), schemas).get("type") == "array":
        names.append("Link")
    if verb == "post" and status < "300":
        names.append("Idempotent-Replayed")
    response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


# --- examples -------------------------------------------------------------------------------------------------------


def _give_example(content: dict[str, Any], schemas: Mapping[str, Any], side: str, status: str = "") -> None:
    schema = content.get("schema", {})
    if "example" in content or "examples" in content or not schema:
        return
    found = example(schema, schemas, side)
    if status >= "400" and isinstance(found, dict):
        found |= {"status": int(status), "title": _TITLES.get(status, "Refused"), "code": _CODES.get(status, "refused")}
    if isinstance(found, (dict, list)):
        content["example"] = found


_TITLES = {
    "400": "Bad Request", "401": "Unauthorized", "403": "Forbidden", "404": "Not Found", "406": "Not Acceptable",
    "409": "Conflict", "412": "Precondition Failed", "413": "Content Too Large", "415": "Unsupported Media Type",
    "422": "Unprocessable Content", "428": "Precondition Required", "429": "Too Many Requests",
}  # fmt: skip
_CODES = {
    "400": "invalid", "401": "not_authenticated", "403": "permission_denied", "404": "not_found", "412": "precondition_failed",
    "428": "precondition_required", "429": "throttled",
}  # fmt: skip


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return schema


def example(schema: Mapping[str, Any], schemas: Mapping[str, Any], side: str, name: str = "", depth: int = 0) -> Any:
    """A value that the schema allows: all of it in a response, and in a request what may be said."""
    schema = _resolved(schema, schemas)
    if "example" in schema:
        return schema["example"]
    for word in ("allOf", "oneOf", "anyOf"):
        if parts := schema.get(word):
            return example(parts[0], schemas, side, name, depth)
    if "enum" in schema:
        return next(value for value in schema["enum"] if value not in ("", None))
    if "const" in schema:
        return schema["const"]
    kinds = schema.get("type", "object" if "properties" in schema else None)
    kind = next((k for k in kinds if k != "null"), "null") if isinstance(kinds, list) else kinds
    if kind == "object":
        return _object(schema, schemas, side, name, depth)
    if kind == "array":
        if (
            name in BY_NAME
            and isinstance(BY_NAME[name], list)
            and "enum" not in _resolved(schema.get("items", {}), schemas)
        ):
            return BY_NAME[name]
        return (
            []
            if depth > DEEPEST
            else [example(schema.get("items", {}), schemas, side, name.removesuffix("s"), depth + 1)]
        )
    return _plain(schema, kind, name)


def _object(schema: Mapping[str, Any], schemas: Mapping[str, Any], side: str, name: str, depth: int) -> Any:
    properties = schema.get("properties", {})
    if not properties:
        known = BY_NAME.get(name)
        return known if isinstance(known, dict) else {}
    skipped = "readOnly" if side == "request" else "writeOnly"
    return {
        field: example(inner, schemas, side, field, depth + 1)
        for field, inner in properties.items()
        if not inner.get(skipped) and depth <= DEEPEST
    }


def _plain(schema: Mapping[str, Any], kind: str | None, name: str) -> Any:
    known = BY_NAME.get(name)
    match kind:
        case "boolean":
            return bool(schema.get("default", True))
        case "integer" | "number":
            value = (
                known if isinstance(known, (int, float)) and not isinstance(known, bool) else schema.get("default", 1)
            )
            value = 1 if value is None else value
            value = min(max(value, schema.get("minimum", value)), schema.get("maximum", value))
            return int(value) if kind == "integer" else float(value)
        case "string":
            return _string(schema, known, name)
        case None:
            return known if known is not None else {}
    return None


def _string(schema: Mapping[str, Any], known: Any, name: str) -> str:
    timely = BY_FORMAT.get(schema.get("format", ""))
    for choice in (timely, known, AT if name.endswith("_at") else None, schema.get("default"), "text", "1"):
        if isinstance(choice, str) and _suits(choice, schema):
            return choice
    return ""


def _suits(text: str, schema: Mapping[str, Any]) -> bool:
    fits = schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text))
    return fits and ("pattern" not in schema or re.search(schema["pattern"], text) is not None)
