"""The document that is rated: JSON in, values out, and lines back to JSON. An invoice keeps the one that it was made from.

Amounts and rates are strings, so that they stay exact; floats are refused wherever they stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, NoReturn

from billing import cover
from billing.money import EXPONENTS
from billing.rating import UNITS, CoverageMode, Layer, Rated, Terms, Tier, TierMode, Usage, rate

_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class DocumentError(Exception):
    """What is wrong in a document; the message begins with the field's path."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


@dataclass(frozen=True, slots=True)
class Document:
    terms: Terms
    storms: tuple[cover.Storm, ...]
    usage: tuple[Usage, ...]


def loads(text: str) -> Document:
    """Read a document. Raises DocumentError."""

    def refuse(number: str) -> NoReturn:
        raise DocumentError("document", f"{number} is a float: write amounts as strings and counts as integers")

    try:
        raw = json.loads(text, parse_float=refuse, parse_constant=refuse)
    except ValueError as error:  # also of an integer with thousands of digits
        raise DocumentError("document", f"not JSON: {error}") from None
    return parse(raw)


def parse(raw: Any) -> Document:
    """Check and convert a decoded document. Raises DocumentError."""
    root = _Node(raw, "document")
    root.only("currency", "unit", "rounding", "rates", "tier_mode", "cover", "storms", "usage")
    root.choice("rounding", ["half_up"], "half_up")
    cover_node = root.node("cover", {})
    cover_node.only(
        "discount_rate", "max_coverage_factor", "coverage_mode", "waiting_seconds", "waiting_mode",
        "hours_clause_seconds", "aggregate_seconds", "merge_gap_seconds", "layers", "covered_before", "service_factors",
    )  # fmt: skip
    rates = root.node("rates", {})
    rates.only("primary", "backup", "cdns")
    terms = Terms(
        currency=root.choice("currency", list(EXPONENTS), "USD"),
        unit=root.choice("unit", list(UNITS), "GB"),
        tier_mode=TierMode(root.choice("tier_mode", list(TierMode), TierMode.GRADUATED)),
        primary_tiers=_tiers(rates, "primary"),
        backup_tiers=_tiers(rates, "backup"),
        discount_rate=cover_node.amount("discount_rate", "0", most=Fraction(1)),
        max_coverage_factor=cover_node.amount("max_coverage_factor", "1"),
        coverage_mode=CoverageMode(cover_node.choice("coverage_mode", list(CoverageMode), CoverageMode.MULTIPLY)),
        cover=cover.CoverTerms(
            waiting_seconds=cover_node.integer("waiting_seconds", 0) or 0,
            waiting_mode=cover.WaitingMode(
                cover_node.choice("waiting_mode", list(cover.WaitingMode), cover.WaitingMode.EXCESS)
            ),
            hours_clause_seconds=cover_node.integer("hours_clause_seconds", None),
            aggregate_seconds=cover_node.integer("aggregate_seconds", None),
            merge_gap_seconds=cover_node.integer("merge_gap_seconds", 0) or 0,
        ),
        layers=[_layer(node) for node in cover_node.nodes("layers")],
        covered_before=cover_node.amount("covered_before", "0"),
        service_factors=_factors(cover_node.node("service_factors", {})),
        cdn_tiers=_cdn_tiers(rates.node("cdns", {})),
    )
    return Document(
        terms,
        tuple(_storm(node) for node in root.nodes("storms")),
        tuple(_usage(node) for node in root.nodes("usage")),
    )


def rate_document(raw: Any) -> Rated:
    document = parse(raw)
    return rate(document.terms, document.usage, document.storms)


def to_json(rated: Rated) -> dict[str, Any]:
    return {
        "lines": [
            {
                "kind": line.kind, "service": line.service, "path": line.path, "bytes": line.bytes,
                "amount_minor": line.amount_minor, "details": dict(line.details),
            }
            | ({"cdn": line.cdn} if line.cdn else {})
            for line in rated.lines
        ],
        "subtotal_minor": rated.subtotal_minor,
        "discount_minor": rated.discount_minor,
        "total_minor": rated.total_minor,
        "formula": rated.formula,
    }  # fmt: skip


def _tiers(rates: _Node, path: str) -> list[Tier]:
    nodes = rates.nodes(path)
    if not nodes:
        rates.fail(path, "name at least one tier")
    tiers: list[Tier] = []
    for node in nodes:
        node.only("up_to", "per_unit")
        up_to = None if node.raw.get("up_to") is None else node.amount("up_to", "0")
        if tiers and (tiers[-1].up_to is None or (up_to is not None and up_to <= (tiers[-1].up_to or 0))):
            node.fail("up_to", "tiers must rise, and only the last may be null")
        tiers.append(Tier(up_to, node.amount("per_unit", None)))
    return tiers


def _cdn_tiers(node: _Node) -> dict[tuple[str, str], list[Tier]]:
    tiers = {}
    for cdn in node.raw:
        paths = node.node(cdn, {})
        paths.only("primary", "backup")
        for path in paths.raw:
            tiers[cdn, path] = _tiers(paths, path)
    return tiers


def _factors(node: _Node) -> dict[str, Fraction]:
    return {service: node.amount(service, None) for service in node.raw}


def _layer(node: _Node) -> Layer:
    node.only("attachment", "limit", "share")
    limit = None if node.raw.get("limit") is None else node.amount("limit", "0")
    return Layer(node.amount("attachment", "0"), limit, node.amount("share", None, most=Fraction(1)))


def _storm(node: _Node) -> cover.Storm:
    node.only("id", "start", "end", "service")
    service = node.raw.get("service")
    if service is not None and not isinstance(service, str):
        node.fail("service", "must be a string or null")
    storm = cover.Storm(node.text("id"), node.time("start"), node.time("end"), service)
    if storm.end < storm.start:
        node.fail("end", "lies before start")
    return storm


def _usage(node: _Node) -> Usage:
    node.only("service", "path", "cdn", "start", "end", "bytes", "covered_bytes")
    window = Usage(
        node.text("service"),
        node.choice("path", ["primary", "backup"], None),
        node.time("start"),
        node.time("end"),
        node.integer("bytes", None, required=True) or 0,
        node.integer("covered_bytes", None),
        node.text("cdn") if node.raw.get("cdn", "") != "" or isinstance(node.raw.get("cdn"), float) else "",
    )
    if window.end <= window.start:
        node.fail("end", "must be after start")
    if window.covered_bytes is not None and window.covered_bytes > window.bytes:
        node.fail("covered_bytes", "is more than bytes")
    return window


class _Node:
    """One object of the document, which knows its path for the error messages."""

    def __init__(self, raw: Any, path: str) -> None:
        self.path = path
        if not isinstance(raw, Mapping):
            raise DocumentError(path, "must be an object")
        self.raw = raw

    def fail(self, key: str, problem: str) -> NoReturn:
        raise DocumentError(key if self.path == "document" else f"{self.path}.{key}", problem)

    def only(self, *known: str) -> None:
        for key in self.raw:
            if key not in known:
                self.fail(key, f"unknown field; known are {', '.join(known)}")

    def node(self, key: str, default: Any) -> _Node:
        path = key if self.path == "document" else f"{self.path}.{key}"
        return _Node(self.raw.get(key, default), path)

    def nodes(self, key: str) -> list[_Node]:
        items = self.raw.get(key, [])
        if not isinstance(items, list):
            self.fail(key, "must be a list")
        path = key if self.path == "document" else f"{self.path}.{key}"
        return [_Node(item, f"{path}[{index}]") for index, item in enumerate(items)]

    def text(self, key: str) -> str:
        value = self.raw.get(key)
        if not isinstance(value, str) or not value:
            self.fail(key, "must be a string that is not empty")
        return value

    def choice(self, key: str, known: list[Any], default: str | None) -> str:
        value = self.raw.get(key, default)
        if value not in known:
            self.fail(key, f"must be one of {', '.join(map(str, known))}")
        return str(value)

    def amount(self, key: str, default: str | None, most: Fraction | None = None) -> Fraction:
        value = self.raw.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            self.fail(key, "must be a decimal number in a string, such as “0.12”")
        if not _DECIMAL.fullmatch(value):
            self.fail(key, f"“{value[:40]}” is not a decimal number: write digits and a point, such as “0.12”")
        return self._bounded(key, self._convert(key, value, Fraction, "is not a decimal number"), most)

    def integer(self, key: str, default: int | None, *, required: bool = False) -> int | None:
        value = self.raw.get(key, default)
        if value is None and not required:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self.fail(key, "must be an integer that is not negative")
        return value

    def time(self, key: str) -> datetime:
        at: datetime = self._convert(key, self.text(key), datetime.fromisoformat, "is not an ISO 8601 time")
        if at.tzinfo is None:
            self.fail(key, "names no time zone: end it with Z")
        return at.astimezone(UTC)

    def _bounded(self, key: str, value: Fraction, most: Fraction | None) -> Fraction:
        if value < 0 or (most is not None and value > most):
            self.fail(key, "must not be negative" if value < 0 else f"must be at most {most}")
        return value

    def _convert(self, key: str, text: str, convert: Callable[[str], Any], problem: str) -> Any:
        try:
            return convert(text)
        except (ValueError, ZeroDivisionError):
            self.fail(key, f"“{text}” {problem}")
