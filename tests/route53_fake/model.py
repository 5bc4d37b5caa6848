"""Amazon's own description of its API, as botocore carries it: here it is the schema of what a server takes and gives.

botocore checks lower bounds and required fields before it sends anything; upper bounds, patterns and enumerations it
leaves to the service, so they are checked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from botocore.loaders import Loader
from botocore.model import ServiceModel

from tests.route53_fake.errors import Refusal, invalid_input

NAMESPACE = "https://route53.amazonaws.com/doc/2013-04-01/"
_WHOLE = re.compile(r"[+-]?\d{1,19}")


@dataclass(slots=True)
class Schema:
    """One shape of the model: a structure's `members` by name, a list's `member`, or the bounds of a scalar."""

    kind: str
    name: str
    tag: str
    location: str = ""
    members: dict[str, Schema] = field(default_factory=dict)
    by_tag: dict[str, str] = field(default_factory=dict)
    """From the XML's element to the member's name, of those members that travel in the body."""
    required: frozenset[str] = frozenset()
    member: Schema | None = None
    minimum: int | None = None
    maximum: int | None = None
    enum: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    name: str
    method: str
    path: re.Pattern[str]
    status: int
    input: Schema
    output: Schema
    body: str
    """The root element of the request's body, or "" if it has none."""


class Api:
    """The operations of one service."""

    def __init__(self, service: str) -> None:
        self._model = ServiceModel(Loader().load_service_model(service, "service-2"), service)
        self._known: dict[str, Operation] = {}

    def operation(self, name: str) -> Operation:
        if name not in self._known:
            model = self._model.operation_model(name)
            uri = model.http["requestUri"].rstrip("/")
            path = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", uri)
            body = (model.input_shape.serialization if model.input_shape else {}).get("name", "")
            self._known[name] = Operation(
                name,
                model.http["method"],
                re.compile(f"{path}/?"),
                model.http.get("responseCode", 200),
                _schema(model.input_shape, name),
                _schema(model.output_shape, f"{name}Response"),
                body,
            )
        return self._known[name]

    def read(
        self, operation: Operation, path: Mapping[str, str], query: Mapping[str, str], body: bytes
    ) -> dict[str, Any]:
        """The parameters of a request, checked. Raises Refusal."""
        given: dict[str, Any] = {}
        if operation.body:
            given = _parsed(operation, body)
        for name, schema in operation.input.members.items():
            source = {"uri": path, "querystring": query}.get(schema.location, {})
            if schema.tag in source:
                given[name] = unquote(source[schema.tag]) if schema.location == "uri" else source[schema.tag]
        check(given, operation.input)
        return given


@cache
def route53() -> Api:
    return Api("route53")


@cache
def sts() -> Api:
    return Api("sts")


@cache
def change_schema() -> Schema:
    """That of one Change, for those who hand changes over in Python."""
    changes = route53().operation("ChangeResourceRecordSets").input.members["ChangeBatch"].members["Changes"]
    assert changes.member is not None
    return changes.member


def _schema(shape: Any, tag: str) -> Schema:
    if shape is None:
        return Schema("structure", tag, tag)
    facts = shape.metadata
    found = Schema(
        shape.type_name,
        shape.name,
        tag,
        shape.serialization.get("location", ""),
        minimum=facts.get("min"),
        maximum=facts.get("max"),
        enum=frozenset(facts.get("enum", ())),
        pattern=_pattern(facts.get("pattern", "")),
    )
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            found.members[name] = _schema(member, member.serialization.get("name", name))
        found.by_tag = {member.tag: name for name, member in found.members.items() if not member.location}
        found.required = frozenset(shape.required_members)
    elif shape.type_name == "list":
        found.member = _schema(shape.member, shape.member.serialization.get("name", "member"))
    return found


def _pattern(text: str) -> re.Pattern[str] | None:
    """Java's classes of Unicode letters, which only tags have, are unknown to Python: those pass unchecked."""
    return re.compile(text) if text and r"\p{" not in text else None


# --- reading --------------------------------------------------------------------------------------------------------


def _parsed(operation: Operation, body: bytes) -> dict[str, Any]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise Refusal("MalformedInput", f"Unable to parse request: {error}") from error
    if root.tag != f"{{{NAMESPACE}}}{operation.body}":
        raise invalid_input(
            f"Invalid XML ; cvc-elt.1: Cannot find the declaration of element '{root.tag.partition('}')[2] or root.tag}'."
        )
    found: dict[str, Any] = _value(root, operation.input)
    return found


def _value(node: ElementTree.Element, schema: Schema) -> Any:
    """What an element says, in the types of the model; anything that it has no place for is refused."""
    if schema.kind == "structure":
        found: dict[str, Any] = {}
        for child in node:
            name = schema.by_tag.get(child.tag.removeprefix(f"{{{NAMESPACE}}}"))
            if name is None or name in found:
                raise _unexpected(child)
            found[name] = _value(child, schema.members[name])
        return found
    if schema.kind == "list":
        assert schema.member is not None
        expected = f"{{{NAMESPACE}}}{schema.member.tag}"
        for child in node:
            if child.tag != expected:
                raise _unexpected(child)
        return [_value(child, schema.member) for child in node]
    text = node.text or ""
    if len(node):
        raise _unexpected(node[0])
    if schema.kind in ("integer", "long"):
        if not _WHOLE.fullmatch(text):
            raise invalid_input(f"Invalid XML ; cvc-datatype-valid.1.2.1: '{text}' is not a valid value for 'integer'.")
        return int(text)
    if schema.kind == "boolean":
        if text not in ("true", "false"):
            raise invalid_input(f"Invalid XML ; cvc-datatype-valid.1.2.1: '{text}' is not a valid value for 'boolean'.")
        return text == "true"
    return text


def _unexpected(node: ElementTree.Element) -> Refusal:
    tag = node.tag.partition("}")[2] or node.tag
    return invalid_input(
        f"Invalid XML ; cvc-complex-type.2.4.a: Invalid content was found starting with element '{tag}'."
    )


def check(value: Any, schema: Schema) -> None:
    """Refuses what the model has no place for: missing or unknown fields, and values out of bounds."""
    if schema.kind == "structure":
        for name in schema.required:
            if name not in value:
                raise invalid_input(
                    f"Invalid XML ; cvc-complex-type.2.4.b: The content of element '{schema.tag}' is not complete. "
                    f"One of '{{\"{NAMESPACE}\":{name}}}' is expected."
                )
        for name, item in value.items():
            if name not in schema.members:
                raise invalid_input(
                    f"Invalid XML ; cvc-complex-type.2.4.a: Invalid content was found starting with element '{name}'."
                )
            check(item, schema.members[name])
    elif schema.kind == "list":
        assert schema.member is not None
        _check_bounds(value, len(value), "Length", schema)
        for item in value:
            check(item, schema.member)
    elif schema.kind == "string":
        if schema.enum and value not in schema.enum:
            raise invalid_input(
                f"Invalid XML ; cvc-enumeration-valid: Value '{value}' is not facet-valid with respect to "
                f"enumeration '[{', '.join(sorted(schema.enum))}]'."
            )
        if schema.pattern and not schema.pattern.fullmatch(value):
            raise invalid_input(
                f"Invalid XML ; cvc-pattern-valid: Value '{value}' is not facet-valid with respect to "
                f"pattern '{schema.pattern.pattern}' for type '{schema.name}'."
            )
        _check_bounds(value, len(value), "Length", schema)
    elif schema.kind in ("integer", "long"):
        _check_bounds(value, value, "Inclusive", schema)


def _check_bounds(value: Any, size: int, what: str, schema: Schema) -> None:
    for side, bound, wrong in (
        ("min", schema.minimum, schema.minimum is not None and size < schema.minimum),
        ("max", schema.maximum, schema.maximum is not None and size > schema.maximum),
    ):
        if wrong:
            length = f" with length = '{size}'" if what == "Length" else ""
            raise invalid_input(
                f"Invalid XML ; cvc-{side}{what}-valid: Value '{value}'{length} is not facet-valid with respect to "
                f"{side}{what} '{bound}' for type '{schema.name}'."
            )


# --- writing --------------------------------------------------------------------------------------------------------


def write(value: Any, schema: Schema) -> str:
    """The element for a value; members that are missing or None, or that travel in headers, are left out."""
    return f"<{schema.tag}>{content(value, schema)}</{schema.tag}>"


def document(value: Mapping[str, Any], operation: Operation) -> bytes:
    tag = operation.output.tag
    return f'<?xml version="1.0"?>\n<{tag} xmlns="{NAMESPACE}">{content(value, operation.output)}</{tag}>'.encode()


def content(value: Any, schema: Schema) -> str:
    """What is inside the element."""
    if schema.kind == "structure":
        parts = []
        for name, member in schema.members.items():
            item = value.get(name)
            if item is not None and not member.location:
                parts.append(write(item, member))
        return "".join(parts)
    if schema.kind == "list":
        assert schema.member is not None
        return "".join([write(item, schema.member) for item in value])
    if schema.kind == "boolean":
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return escape(str(value))
