"""The one structure of an invoice or credit note that people read: HTML, PDF and CSV are made from it and nothing else.

It says what the rows kept when they were written, never what holds today. Times are UTC unless a zone stands beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from django.conf import settings

from billing.documents import explaining
from billing.documents.written import (
    duration,
    fraction,
    hours,
    local_span,
    minute,
    number,
    percent,
    printable,
    rounded,
    size,
    stretch,
    time,
)
from billing.money import exponent, format_minor
from billing.rating import UNITS

if TYPE_CHECKING:
    from billing.models import Invoice, InvoiceLineItem

COVER, CREDIT, CORRECTION = "cover", "credit", "correction"
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end) in UTC; `local` as clocks in `zone` show it, `utc` as text, `hours` its length: “743 h”."""

    start: datetime
    end: datetime
    zone: str
    local: str
    utc: str
    hours: str

    @classmethod
    def of(cls, start: datetime, end: datetime, zone: str) -> Period:
        local, utc = local_span(start, end, zone), local_span(start, end, "UTC")
        return cls(start, end, zone, local, utc, hours(start, end))


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time: “2026-03-05 09:58:00 to 10:41:30”, and how long it is; nothing of what goes on."""

    text: str
    length: str = ""


@dataclass(frozen=True, slots=True)
class Tier:
    units: str
    price: str
    amount: str


@dataclass(frozen=True, slots=True)
class Tranche:
    """One layer of cover; amounts in major units, `before` and `after` of the policy year's covered cost."""

    letter: str
    attachment: str
    limit: str
    share: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Line:
    """One amount. `amount_minor` is signed: below 0 for cover. `how` says in sentences what it follows from."""

    position: int
    kind: str
    label: str
    description: str
    service: str
    path: str
    cdn: str
    bytes: int
    amount_minor: int
    amount: str
    quantity: str = ""
    price: str = ""
    tax_category: str = ""
    tax_rate: str = ""
    tiers: tuple[Tier, ...] = ()
    how: tuple[str, ...] = ()
    period: Period | None = None
    """Of a correction: the period that it belongs to."""
    tranche: Tranche | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    """As stored, for machines."""


@dataclass(frozen=True, slots=True)
class StormNote:
    """A storm that a cover line names, with the version of the policy that it was declared by."""

    id: str
    span: Span | None
    policy_version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """Storms that count as one. `paid` of `lasted` is covered; `normal_share` of traffic is on the backup anyway."""

    storms: str
    span: Span
    lasted: str
    paid: str
    spans: tuple[Span, ...]
    normal_share: str
    covered: str
    moved: str
    """What the backup delivered in the paid spans."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cover:
    """The cover of one service's backup traffic: its lines, one for each tranche that pays, and what they pay for."""

    lines: tuple[Line, ...]
    covered: str
    backup: str
    grade: str
    events: tuple[Event, ...]
    storms: tuple[StormNote, ...]
    spans: tuple[Span, ...]
    """Paid time where no events were kept."""


@dataclass(frozen=True, slots=True)
class Tax:
    """`rate` as percent, `share` as it is stored: “0.19”."""

    category: str
    rate: str
    share: str
    taxable: str
    tax_minor: int
    amount: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A storm of the period and what cover made of it."""

    id: str
    service: str
    span: Span | None
    pays: bool
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Note:
    """A credit note of this invoice."""

    number: str
    issued: str
    reason: str
    amount: str


@dataclass(frozen=True, slots=True)
class Sum:
    label: str
    amount: str
    is_total: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    title: str
    number: str
    """Empty for a draft."""
    mark: str
    """DRAFT or VOID, to be seen from afar; else empty."""
    is_credit_note: bool
    state: str
    currency: str
    unit: str
    issuer: tuple[str, ...]
    """Who bills, in lines; the first is the name."""
    customer: str
    customer_id: int
    email: str
    period: Period
    written_at: datetime
    """When it was issued; of a draft, when what it says was read."""
    issued: str
    due: str
    as_of: str
    corrects: str
    reason: str
    terms: tuple[tuple[str, str], ...]
    charges: tuple[Line, ...]
    covers: tuple[Cover, ...]
    cover_terms: tuple[str, ...]
    taxes: tuple[Tax, ...]
    storms: tuple[Judged, ...]
    credit_notes: tuple[Note, ...]
    sums: tuple[Sum, ...]
    remarks: tuple[str, ...]
    formula: str
    sha256: str
    total_minor: int

    @property
    def is_draft(self) -> bool:
        return self.mark == "DRAFT"

    @property
    def lines(self) -> list[Line]:
        """All of them, in the order of their positions."""
        covers = [line for cover in self.covers for line in cover.lines]
        return sorted((*self.charges, *covers), key=lambda line: line.position)


def of(invoice: Invoice) -> Sheet:
    """The sheet of an invoice or a credit note, as its rows say."""
    lines = list(invoice.lines.select_related("corrects__invoice").order_by("position"))
    return build(invoice, lines, list(invoice.corrections.final().order_by("number")))


def _issuer(invoice: Invoice) -> tuple[str, ...]:
    text = invoice.parties.get("issuer") or settings.INVOICE_ISSUER
    return tuple(printable(line) for line in text.splitlines()) or ("",)


def build(invoice: Invoice, lines: Sequence[InvoiceLineItem], notes: Sequence[Invoice] = ()) -> Sheet:
    """The sheet of these rows; `notes` are the credit notes of an invoice. No query, if what they refer to is loaded."""
    is_note, is_draft = invoice.kind == "credit_note", invoice.number is None
    corrected = invoice.corrects.number or "" if invoice.corrects else ""
    taxes = tuple(_tax(raw, invoice.currency) for raw in invoice.taxes)
    return Sheet(
        title=f"{'Credit note' if is_note else 'Invoice'} {invoice.number or 'DRAFT'}",
        number=invoice.number or "",
        mark="DRAFT" if is_draft else "VOID" if invoice.state == "void" else "",
        is_credit_note=is_note,
        state=_state(invoice, is_note),
        currency=invoice.currency,
        unit=_unit(invoice),
        issuer=_issuer(invoice),
        customer=printable(invoice.parties.get("customer", invoice.customer.name)),
        customer_id=invoice.customer_id,
        email=printable(invoice.parties.get("email", invoice.customer.billing_email)),
        period=Period.of(invoice.period_start, invoice.period_end, invoice.time_zone),
        written_at=invoice.finalized_at or invoice.as_of,
        issued=minute(invoice.finalized_at) if invoice.finalized_at else "",
        due=minute(invoice.due_at) if invoice.due_at and not is_note else "",
        as_of=minute(invoice.as_of),
        corrects=corrected,
        reason=_reason(invoice) if is_note else "",
        terms=_terms(invoice, lines),
        charges=tuple(_line(line, invoice) for line in lines if line.kind != COVER),
        covers=_covers(lines, invoice),
        cover_terms=explaining.cover_terms(invoice.inputs.get("cover", {}), invoice.cover_used, invoice.currency),
        taxes=taxes,
        storms=tuple(_judged(invoice)),
        credit_notes=tuple(_note(note) for note in notes),
        sums=tuple(_sums(invoice, taxes, is_note)),
        remarks=tuple(_remarks(invoice)),
        formula=invoice.formula,
        sha256=invoice.sha256,
        total_minor=invoice.total_minor,
    )


def _state(invoice: Invoice, is_note: bool) -> str:
    """“paid since 2026-04-20 09:00 UTC”; nothing of a credit note that holds."""
    if is_note and invoice.state != "void":
        return ""
    since = f" since {minute(invoice.settled_at)} UTC" if invoice.settled_at else ""
    why = f": {invoice.state_reason}" if invoice.state_reason and not is_note else ""
    return printable(str(invoice.get_state_display()).lower() + since + why)


def _unit(invoice: Invoice) -> str:
    """What the prices are for: GB or GiB."""
    kept = invoice.inputs.get("unit") or invoice.prices.rate_card.unit
    return kept if kept in UNITS else "GB"


def _terms(invoice: Invoice, lines: Iterable[InvoiceLineItem]) -> tuple[tuple[str, str], ...]:
    """The versions that the lines were rated by."""
    contract: Any = {"version": invoice.contract.version}
    card: Any = {"name": invoice.prices.rate_card.name, "version": invoice.prices.version}
    for line in lines:
        contract, card = line.details.get("contract", contract), line.details.get("rate_card", card)
    return (
        ("contract", f"version {contract.get('version', '?')}"),
        ("rate card", printable(f"{card.get('name', '')}, version {card.get('version', '?')}")),
    )


# --- lines ----------------------------------------------------------------------------------------------------------


def _line(line: InvoiceLineItem, invoice: Invoice) -> Line:
    details: Mapping[str, Any] = line.details
    digits = exponent(invoice.currency)
    signed = -line.amount_minor if line.kind == COVER else line.amount_minor
    tiers = tuple(_tier(raw, str(details.get("unit", "")), digits) for raw in details.get("tiers", []))
    rate = fraction(details.get("tax_rate"))
    corrects = ""
    if line.kind == CORRECTION and line.corrects:
        corrects = f"corrects line {line.corrects.position} of {line.corrects.invoice.number}"
    return Line(
        position=line.position,
        kind=line.kind,
        label=str(line.get_kind_display()),
        description=printable(line.description),
        service=f"service {line.service_id}" if line.service_id else "",
        path=line.path,
        cdn=line.cdn,
        bytes=line.bytes,
        amount_minor=signed,
        amount=format_minor(signed, invoice.currency),
        quantity=explaining.quantity(line.kind, details),
        price=explaining.price(line.kind, details, digits),
        tax_category=line.tax_category,
        tax_rate=percent(rate) if rate else "",
        tiers=tiers if len(tiers) > 1 else (),
        how=tuple(filter(None, [corrects, *explaining.how(line.kind, details, line.amount_minor, invoice.currency)])),
        period=_period(details, invoice.time_zone) if line.kind in (CORRECTION, CREDIT) else None,
        tranche=_tranche(details, digits),
        details=details,
    )


def _tier(raw: Mapping[str, Any], unit: str, digits: int) -> Tier:
    units, price = fraction(raw.get("units")) or Fraction(0), fraction(raw.get("per_unit")) or Fraction(0)
    return Tier(f"{number(units)} {unit}".strip(), number(price, digits), number(units * price, digits))


def _period(details: Mapping[str, Any], zone: str) -> Period | None:
    bounds = details.get("period")
    if isinstance(bounds, list) and len(bounds) == 2 and (start := time(bounds[0])) and (end := time(bounds[1])):
        return Period.of(start, end, zone)
    return None


def _tranche(details: Mapping[str, Any], digits: int) -> Tranche | None:
    if not isinstance(layer := details.get("layer"), int):
        return None

    def amount(key: str) -> str:
        return "" if (value := fraction(details.get(key))) is None else rounded(value, digits, digits)

    return Tranche(
        letter=chr(ord("A") + layer - 1) if layer <= 26 else str(layer),
        attachment=amount("attachment"),
        limit=amount("limit") or "no limit",
        share=percent(fraction(details.get("share")) or Fraction(0)),
        before=amount("covered_before"),
        after=amount("covered_after"),
    )


# --- cover ----------------------------------------------------------------------------------------------------------


def _covers(lines: Iterable[InvoiceLineItem], invoice: Invoice) -> tuple[Cover, ...]:
    groups: dict[tuple[int | None, str, str], list[InvoiceLineItem]] = {}
    for line in lines:
        if line.kind == COVER:
            groups.setdefault((line.service_id, line.path, line.cdn), []).append(line)
    return tuple(_cover(mine, invoice) for mine in groups.values())


def _cover(lines: Sequence[InvoiceLineItem], invoice: Invoice) -> Cover:
    first, unit = lines[0], _unit(invoice)
    # CDNs with a price of their own have lines of their own; a line without a CDN is of all the others.
    apart = {cdn for cdn, paths in invoice.inputs.get("rates", {}).get("cdns", {}).items() if first.path in paths}

    def is_mine(cdn: str) -> bool:
        return cdn == first.cdn if first.cdn else cdn not in apart

    windows = [
        window["bytes"]
        for window in invoice.inputs.get("usage", [])
        if (window["service"], window["path"]) == (str(first.service_id), first.path) and is_mine(window.get("cdn", ""))
    ]
    details: Mapping[str, Any] = first.details
    paying = [raw for raw in details.get("events", []) if raw.get("spans")]
    names = {name for raw in paying for name in raw["storms"]}
    storms = [raw for raw in details.get("storms", []) if not paying or raw["id"] in names]
    return Cover(
        lines=tuple(_line(line, invoice) for line in lines),
        covered=size(first.bytes, unit),
        backup=size(sum(windows), unit) if windows else "",
        grade=explaining.grade(str(details.get("grade", ""))),
        events=tuple(_event(raw, unit, is_mine) for raw in paying),
        storms=tuple(_storm(raw) for raw in storms),
        spans=() if paying else tuple(filter(None, map(_span, details.get("effective", [])))),
    )


def _event(raw: Mapping[str, Any], unit: str, is_mine: Any) -> Event:
    span, spans = _span(raw), tuple(filter(None, map(_span, raw.get("spans", []))))
    mine = [told for cdn, told in raw.get("by_cdn", {}).items() if is_mine(cdn)]
    names = [_id(name) for name in raw.get("storms", [])]
    return Event(
        storms=f"{'storm' if len(names) == 1 else 'storms'} {', '.join(names)}",
        span=span or Span(""),
        lasted=span.length if span else "",
        paid=duration(fraction(raw.get("paid_seconds")) or Fraction(0)),
        spans=spans,
        normal_share=percent(fraction(raw.get("normal_share")) or Fraction(0)),
        covered=size(sum(told["covered_bytes"] for told in mine), unit),
        moved=size(sum(told["bytes"] for told in mine), unit),
        reasons=tuple(printable(reason) for reason in raw.get("reasons", [])),
    )


def _span(raw: Mapping[str, Any]) -> Span | None:
    start, end = time(raw.get("start")), time(raw.get("end"))
    if start is None:
        return None
    length = "" if end is None else duration(Fraction((end - start) // _MICROSECOND, 10**6))
    return Span(stretch(start, end), length)


def _storm(raw: Any) -> StormNote:
    told = raw if isinstance(raw, Mapping) else {"id": raw}
    version = told.get("policy_version")
    return StormNote(
        _id(told.get("id", "")), _span(told), "" if version is None else str(version), printable(told.get("reason", ""))
    )


def _id(name: Any) -> str:
    return printable(name).removeprefix("storm-")


def _judged(invoice: Invoice) -> Iterable[Judged]:
    """Storms of the period; of those that pay, whether their event did and why not."""
    told: Mapping[str, Any] = invoice.decisions if isinstance(invoice.decisions, dict) else {}
    events = {(name, event.get("service")): event for event in told.get("events", []) for name in event["storms"]}
    for raw in told.get("storms", []):
        event = events.get((raw["storm"], raw.get("service")), {})
        paid = bool(raw["is_covered"] and event.get("spans"))
        reasons = [raw["reason"], *(event.get("reasons", []) if raw["is_covered"] else [])]
        yield Judged(
            id=_id(raw["storm"]),
            service=f"service {raw['service']}" if raw.get("service") else "",
            span=_span(raw),
            pays=paid,
            verdict="paid" if paid else "pays nothing" if raw["is_covered"] else "not covered",
            reason=printable("; ".join(reasons)),
        )


# --- sums and remarks -----------------------------------------------------------------------------------------------


def _tax(raw: Mapping[str, Any], currency: str) -> Tax:
    return Tax(
        category=raw["category"],
        rate=percent(fraction(raw["rate"]) or Fraction(0)),
        share=raw["rate"],
        taxable=format_minor(raw["taxable_minor"], currency),
        tax_minor=raw["tax_minor"],
        amount=format_minor(raw["tax_minor"], currency),
    )


def _sums(invoice: Invoice, taxes: Iterable[Tax], is_note: bool) -> Iterable[Sum]:
    def amount(minor: int) -> str:
        return format_minor(minor, invoice.currency)

    yield Sum("Subtotal", amount(invoice.subtotal_minor))
    if not is_note:
        yield Sum("Storm cover", amount(-invoice.discount_minor))
    for tax in taxes:
        yield Sum(f"Tax on {tax.category}, {tax.rate} of {tax.taxable}", tax.amount)
    yield Sum("Total credited" if is_note else "Total", amount(invoice.total_minor), is_total=True)
    if invoice.number and not is_note:
        yield Sum("Paid", amount(-invoice.paid_minor))
        yield Sum("Credited", amount(-invoice.credited_minor))
        yield Sum("Due", amount(invoice.due_minor), is_total=True)


def _remarks(invoice: Invoice) -> Iterable[str]:
    if invoice.problem:
        yield printable(
            f"It can't be issued as it stands: {invoice.problem}." if not invoice.number else invoice.problem
        )
    if invoice.contract.kind == "own_cdn":
        yield (
            "You pay your CDNs yourself, so delivery is not billed here: cover is reckoned on what your backup traffic costs "
            "at the declared rates."
        )


def _note(note: Invoice) -> Note:
    issued = minute(note.finalized_at) if note.finalized_at else ""
    return Note(note.number or "", issued, _reason(note), format_minor(-note.total_minor, note.currency))


def _reason(note: Invoice) -> str:
    """Why a credit note was written: “goodwill: for the slow answer”."""
    return printable(": ".join(filter(None, [str(note.get_reason_display()).lower(), note.state_reason])))
