"""An invoice as the sheet that people read and print. The arithmetic is what its lines kept, never what holds today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from billing.models import InvoiceLineItem
from billing.money import format_minor

if TYPE_CHECKING:
    from billing.models import Invoice

# The same on every line, so they stand in the head.
_TERMS = ("contract", "rate_card")
# Printed in places of their own, or too long for paper: the windows are in the line's details for who drills down.
_SHOWN_APART = frozenset(
    {*_TERMS, "formula", "units", "unit", "tiers", "rate", "per_unit", "storms", "effective", "windows"}
)


@dataclass(frozen=True, slots=True)
class Storm:
    id: str
    start: datetime | str | None
    end: datetime | str | None
    policy_version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Span:
    start: datetime | str | None
    end: datetime | str | None


@dataclass(frozen=True, slots=True)
class Line:
    position: int
    description: str
    service: str
    path: str
    bytes: int
    units: str
    unit: str
    price: str
    amount: str
    tiers: list[tuple[str, str]] = field(default_factory=list)
    storms: list[Storm] = field(default_factory=list)
    paid: list[Span] = field(default_factory=list)
    details: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sheet:
    invoice: Invoice
    usage: list[Line]
    cover: list[Line]
    terms: list[tuple[str, str]]
    subtotal: str
    discount: str
    total: str

    @property
    def is_draft(self) -> bool:
        return self.invoice.number is None

    @property
    def unit(self) -> str:
        """What the prices are for: GB or GiB."""
        return str(self.invoice.inputs.get("unit", "unit"))

    @property
    def title(self) -> str:
        return f"{self.invoice.get_kind_display().capitalize()} {self.invoice.number or 'DRAFT'}"


def of(invoice: Invoice) -> Sheet:
    lines = list(invoice.lines.select_related("service").order_by("position"))
    is_cover = InvoiceLineItem.Kind.COVER
    return Sheet(
        invoice=invoice,
        usage=[_line(line, invoice.currency) for line in lines if line.kind != is_cover],
        cover=[_line(line, invoice.currency) for line in lines if line.kind == is_cover],
        terms=_terms(lines),
        subtotal=format_minor(invoice.subtotal_minor, invoice.currency),
        discount=format_minor(-invoice.discount_minor, invoice.currency),
        total=format_minor(invoice.total_minor, invoice.currency),
    )


def _line(line: InvoiceLineItem, currency: str) -> Line:
    details: Mapping[str, Any] = line.details
    sign = -1 if line.kind == InvoiceLineItem.Kind.COVER else 1
    tiers = [(_grouped(tier.get("units")), _plain(tier.get("per_unit"))) for tier in details.get("tiers", [])]
    price = _plain(details.get("rate", details.get("per_unit", "")))
    if not price and len(tiers) == 1:
        price, tiers = tiers[0][1], []
    return Line(
        position=line.position,
        description=line.description,
        service=line.service.name,
        path=line.path,
        bytes=line.bytes,
        units=_grouped(details.get("units", "")),
        unit=str(details.get("unit", "")),
        price=price,
        amount=format_minor(sign * line.amount_minor, currency),
        tiers=tiers,
        storms=[_storm(storm) for storm in details.get("storms", [])],
        paid=[Span(_time(span.get("start")), _time(span.get("end"))) for span in details.get("effective", [])],
        details=[_detail(key, value, currency) for key, value in details.items() if key not in _SHOWN_APART],
    )


def _terms(lines: list[InvoiceLineItem]) -> list[tuple[str, str]]:
    """The versions that the lines were rated by; a line that knows none says nothing."""
    terms: dict[str, str] = {}
    for line in lines:
        for key in _TERMS:
            if isinstance(told := line.details.get(key), dict):
                name = told.get("name") or told.get("id", "")
                terms[_words(key)] = f"{name}, version {told.get('version', '?')}"
    return list(terms.items())


def _storm(storm: Any) -> Storm:
    if not isinstance(storm, dict):  # a bare id
        return Storm(str(storm), None, None, "", "")
    return Storm(
        id=str(storm.get("id", "")).removeprefix("storm-"),
        start=_time(storm.get("start")),
        end=_time(storm.get("end")),
        policy_version=_plain(storm.get("policy_version")),
        reason=str(storm.get("reason", "")),
    )


def _time(text: Any) -> datetime | str | None:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None if text is None else str(text)


def _detail(key: str, value: Any, currency: str) -> tuple[str, str]:
    if key.endswith("_minor") and isinstance(value, int):
        return _words(key.removesuffix("_minor")), format_minor(value, currency)
    if "bytes" in key:
        return _words(key), _grouped(value)
    return _words(key), _plain(value)


def _grouped(number: Any) -> str:
    """Digits in threes; what is no plain number (a fraction, such as “7/3”) stays as it is."""
    text = _plain(number)
    whole, point, rest = text.partition(".")
    return f"{int(whole):,}{point}{rest}" if whole.isdecimal() and (rest.isdecimal() or not point) else text


def _words(key: str) -> str:
    return key.replace("_", " ")


def _plain(value: Any) -> str:
    """A detail in one line, however deep: “id 4, version 2” reads better than JSON."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return "; ".join(_some(value))
    return "" if value is None else str(value)


def _some(parts: list[Any], most: int = 20) -> Iterator[str]:
    yield from (_plain(part) for part in parts[:most])
    if len(parts) > most:
        yield f"and {len(parts) - most} more"
