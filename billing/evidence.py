"""An invoice line's whole evidence as one document that anybody can replay. Pure.

The document is canonical like a storm's: keys sorted, no spaces, times in RFC 3339 with UTC, exact numbers as text, no
floats. Its `sha256` is that of its canonical form without that field. `content` is all that the invoice says, and its
SHA-256 is the one that the issued invoice bears: that ties the document to it.

`replay` recomputes, from the document alone:

* when DNS showed a shift, from the weight changes;
* which storms pay, the events that they make, the spans that are paid and those that tell what is normal;
* what was delivered and covered in them, from the minutes and hours;
* what was rated: windows, storms, the customer's own factor, what earlier invoices used of the cover;
* every line of the invoice from that, its totals, and this line.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from billing import bill as billing_bill
from billing import cover, document
from billing.bill import Bill, BillLine
from billing.cover import Change, Decision, Event, Excluded, Interval, Measured, Recorded, zulu
from billing.rating import FORMULA, Rated, decimal
from storms.evidence import EvidenceError, canonical, digest, sealed

__all__ = ["FORMAT", "TYPE", "Difference", "EvidenceError", "canonical", "checked", "content", "replay", "seal"]

TYPE, FORMAT = "line", 1
COST_DIGITS = 9
"""Invoices keep what they covered to twelve places, and a sum of many is compared to so many."""
_MICROSECOND = timedelta(microseconds=1)
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """Where in the document something else is stored than follows from the rest of it."""

    path: str
    stored: Any
    recomputed: Any

    def __str__(self) -> str:
        return f"{self.path}: {_short(self.stored)} is stored, {_short(self.recomputed)} follows"


def _short(value: Any) -> str:
    text = "nothing" if value is None else canonical(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Bytes of one path and CDN in so many minutes: one or fifteen, or the sum of an hour."""

    path: str
    cdn: str
    start: datetime
    minutes: int
    bytes: int

    @property
    def end(self) -> datetime:
        return self.start + timedelta(minutes=self.minutes)

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path, "cdn": self.cdn, "start": zulu(self.start), "minutes": self.minutes, "bytes": self.bytes,
        }  # fmt: skip


# --- what an invoice says --------------------------------------------------------------------------------------------


def content(frame: Mapping[str, Any], inputs: Any, extras: Mapping[str, Any], decisions: Any) -> dict[str, Any]:
    """All that an invoice says, with its lines made again. `frame`: customer, contract, prices and period."""
    rated = document.rate_document(inputs)
    whole = billing_bill.bill(rated, billing_bill.from_json(extras), inputs["currency"])
    return content_of(frame, inputs, extras, decisions, rated, whole)


def content_of(
    frame: Mapping[str, Any], inputs: Any, extras: Mapping[str, Any], decisions: Any, rated: Rated, whole: Bill
) -> dict[str, Any]:
    """All that an invoice says, whoever reads it: the same usage, storms and terms give the same bytes."""
    return {
        "customer": frame["customer"],
        "contract": frame["contract"],
        "prices": frame["prices"],
        "period": frame["period"],
        "currency": inputs["currency"],
        "formula": rated.formula,
        "inputs": inputs,
        "extras": extras,
        "decisions": decisions,
        "lines": [line_json(entry) for entry in whole.lines],
        "totals": [whole.subtotal_minor, whole.discount_minor, whole.tax_minor, whole.total_minor],
    }


def line_json(entry: BillLine) -> dict[str, Any]:
    line = entry.line
    return {
        "kind": line.kind, "service": line.service, "path": line.path, "cdn": line.cdn, "bytes": line.bytes,
        "amount_minor": line.amount_minor, "tax": [entry.tax_category, str(entry.tax_rate)], "details": dict(line.details),
        "corrects": entry.corrects,
    }  # fmt: skip


def event_json(service: str, event: Event, measured: Measured) -> dict[str, Any]:
    return {
        "service": service,
        "start": zulu(event.start),
        "end": zulu(event.end),
        "storms": list(event.storms),
        "spans": spans_json(event.spans),
        "baseline": spans_json(event.baseline),
        "reasons": list(event.reasons),
        "paid_seconds": decimal(Fraction(event.paid // _MICROSECOND, 10**6)),
        "normal_share": str(measured.normal_share),
        "everything_bytes": str(measured.everything),
        "normal_backup_bytes": str(measured.normal_backup),
        "normal_everything_bytes": str(measured.normal_everything),
        "by_cdn": {
            cdn: {"exact_bytes": str(measured.backup[cdn]), "bytes": size, "covered_bytes": covered}
            for cdn, (size, covered) in cover.covered_bytes(measured).items()
        },
    }


def spans_json(spans: Iterable[Interval]) -> list[dict[str, str]]:
    return [{"start": zulu(i.start), "end": zulu(i.end)} for i in spans]


# --- the document ----------------------------------------------------------------------------------------------------


def seal(pack: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its hash. Raises EvidenceError for a float in it."""
    _refuse_floats(pack, "")
    return sealed(pack)


def _refuse_floats(value: Any, path: str) -> None:
    if isinstance(value, float):
        raise EvidenceError(f"{path}: {value} is a float; numbers are integers, or text that is exact")
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _refuse_floats(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for place, entry in enumerate(value):
            _refuse_floats(entry, f"{path}[{place}]")


def checked(pack: Mapping[str, Any]) -> list[str]:
    """What `replay` recomputes of a document that can be read, in words."""
    line, mine = pack["line"], [e for e in pack["content"]["decisions"]["events"] if e["service"] == _service(pack)]
    return [
        f"the document's own SHA-256, {pack['sha256']}",
        f"the invoice's SHA-256, {pack['invoice']['sha256']}: compare it with the one on the invoice that you were sent",
        f"{len(pack['shifts'])} shifts, from {len(pack['changes'])} weight changes seen in DNS",
        f"{len(mine)} events of {len(pack['storms'])} storms, and {len(pack['excluded'])} times that never pay",
        f"covered bytes, from {len(pack['usage'])} minutes and hours of usage; what was delivered, from "
        f"{len(pack['period_usage'])}",
        f"{len(pack['content']['lines'])} lines and the totals of the invoice, by formula {pack['content']['formula']}",
        f"line {line['position']}: {line['amount_minor']} minor units of {pack['content']['currency']}",
    ]


# --- replay ----------------------------------------------------------------------------------------------------------


def replay(pack: Mapping[str, Any]) -> list[Difference]:
    """What differs between the document and what follows from it; empty if nothing does. Raises EvidenceError."""
    if pack.get("type") != TYPE or pack.get("format") != FORMAT:
        raise EvidenceError(f"type and format must be “{TYPE}” and {FORMAT}")
    try:
        _refuse_floats(pack, "")
        formula = pack["content"]["formula"]
        if formula != FORMULA:
            raise EvidenceError(f"formula: “{formula}” is not known here; {FORMULA} is")
        return list(_replay(pack))
    except document.DocumentError as error:
        raise EvidenceError(f"content.inputs: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise EvidenceError(f"the document can't be read: {error!r}") from None


def _replay(pack: Mapping[str, Any]) -> Iterator[Difference]:
    yield from _same("sha256", pack.get("sha256"), digest(pack))
    told = pack["content"]
    yield from _same("invoice.sha256", pack["invoice"]["sha256"], digest(told))
    yield from _same("invoice.period", pack["invoice"]["period"], told["period"])
    yield from _same("invoice.currency", pack["invoice"]["currency"], told["currency"])
    yield from _same("content", told, content(told, told["inputs"], told["extras"], told["decisions"]))
    yield from _line(pack)
    yield from _storms(pack)
    yield from _decided(pack)
    yield from _objects(pack)


def _same(path: str, stored: Any, made: Any) -> Iterator[Difference]:
    """The deepest places that differ."""
    if isinstance(stored, Mapping) and isinstance(made, Mapping):
        for key in sorted({*stored, *made}):
            yield from _same(f"{path}.{key}", stored.get(key), made.get(key))
    elif isinstance(stored, list) and isinstance(made, list) and len(stored) == len(made):
        for place, (one, other) in enumerate(zip(stored, made, strict=True)):
            yield from _same(f"{path}[{place}]", one, other)
    elif stored != made or type(stored) is not type(made):
        yield Difference(path, stored, made)


def _own(path: str, stored: Sequence[Any], service: str, made: Sequence[Any]) -> Iterator[Difference]:
    """The entries of the line's service, among those of others, against what follows."""
    mine = [(place, entry) for place, entry in enumerate(stored) if entry["service"] == service]
    if len(mine) != len(made):
        yield Difference(path, [entry for _, entry in mine], list(made))
        return
    for (place, entry), other in zip(mine, made, strict=True):
        yield from _same(f"{path}[{place}]", entry, other)


def _service(pack: Mapping[str, Any]) -> str:
    return str(pack["line"]["service"])


def _line(pack: Mapping[str, Any]) -> Iterator[Difference]:
    """The line is the one at its place in the invoice, and says of the arithmetic what the invoice says."""
    line = pack["line"]
    lines = pack["content"]["lines"]
    if not 1 <= line["position"] <= len(lines):
        yield Difference("line.position", line["position"], None)
        return
    made = lines[line["position"] - 1]
    for name in ("kind", "path", "cdn", "bytes", "amount_minor"):
        yield from _same(f"line.{name}", line[name], made[name])
    yield from _same("line.service", str(line["service"]), made["service"])
    for name, value in made["details"].items():
        if name != "storms":  # of which the line says more
            yield from _same(f"line.details.{name}", line["details"].get(name), value)
    if line["kind"] == "cover":
        events = [e for e in pack["content"]["decisions"]["events"] if e["service"] == made["service"]]
        yield from _same("line.details.events", line["details"].get("events"), events)


def _storms(pack: Mapping[str, Any]) -> Iterator[Difference]:
    """Start and end are those of the first and last bad stretch; the line says of its storms what they are."""
    by_name = {}
    for place, storm in enumerate(pack["storms"]):
        yield from _same(f"storms[{place}].start", storm["start"], storm["spells"][0][0])
        yield from _same(f"storms[{place}].end", storm["end"], storm["spells"][-1][1])
        by_name[f"storm-{storm['id']}"] = storm
    if pack["line"]["kind"] != "cover":
        return
    names = {name for event in pack["line"]["details"]["events"] for name in event["storms"]} & by_name.keys()
    said = ("start", "end", "policy", "policy_version", "attribution", "reason")
    made = [{"id": name} | {key: by_name[name][key] for key in said} for name in sorted(names)]
    yield from _same("line.details.storms", pack["line"]["details"]["storms"], made)


def _decided(pack: Mapping[str, Any]) -> Iterator[Difference]:
    service, told, inputs = _service(pack), pack["content"], pack["content"]["inputs"]
    period = Interval(*map(_time, told["period"]))
    as_of = _time(pack["invoice"]["as_of"])
    storms = [_recorded(storm) for storm in pack["storms"]]
    shifts = cover.shifts(_changes(pack), timedelta(seconds=pack["cover"]["drain_seconds"]))
    yield from _same("shifts", pack["shifts"], spans_json(cover.union(shifts)))

    excluded = [Excluded(_time(e["start"]), _time(e["end"]), e["reason"]) for e in pack["excluded"]]
    terms = document.parse(inputs).terms
    earlier = pack["cover"]["earlier"]
    left = terms.cover.aggregate_seconds
    if left is not None:
        left = max(left - sum(row["used_microseconds"] for row in earlier) // 10**6, 0)
    of_service = replace(terms.cover, aggregate_seconds=left)
    decisions, events = cover.events(storms, shifts, excluded, of_service, period, as_of)
    near = {name for event in events for name in event.storms}
    kept = [
        decision_json(service, d, storm)
        for d, storm in zip(decisions, storms, strict=True)
        if d.storm in near or storm.touches(period, as_of)
    ]
    yield from _own("content.decisions.storms", told["decisions"]["storms"], service, kept)

    usage = _buckets(pack["usage"])
    measured = [measure(event, usage) for event in events]
    made = [event_json(service, event, found) for event, found in zip(events, measured, strict=True)]
    yield from _own("content.decisions.events", told["decisions"]["events"], service, made)

    windows = _windows(service, period, list(zip(events, measured, strict=True)), _buckets(pack["period_usage"]))
    yield from _own("content.inputs.usage", inputs["usage"], service, windows)
    raged = [
        {"id": storm.id, "start": zulu(i.start), "end": zulu(i.end), "service": service}
        for storm in storms if storm.id in near for i in storm.raged(as_of)
    ]  # fmt: skip
    yield from _own("content.inputs.storms", inputs["storms"], service, raged)
    yield from _same(
        f"content.inputs.cover.service_factors.{service}",
        inputs["cover"]["service_factors"].get(service),
        _factor(pack, near),
    )
    before = sum((Fraction(row["covered_cost"]) for row in earlier), Fraction(0)) if terms.layers else Fraction(0)
    if round(before, COST_DIGITS) != round(terms.covered_before, COST_DIGITS):
        yield Difference("content.inputs.cover.covered_before", inputs["cover"]["covered_before"], decimal(before))


def decision_json(service: str, decision: Decision, storm: Recorded) -> dict[str, Any]:
    """What an invoice keeps of a decision: the storm's first and last moment beside it."""
    end = storm.spells[-1][1]
    return {
        "storm": decision.storm, "service": service, "is_covered": decision.is_covered, "reason": decision.reason,
        "start": zulu(storm.spells[0][0]), "end": zulu(end) if end else None,
    }  # fmt: skip


def _objects(pack: Mapping[str, Any]) -> Iterator[Difference]:
    """The log objects counted what the minutes say; the hours of the period are sums of what objects counted."""
    minutes = sum(row["bytes"] for row in pack["usage"] if row["minutes"] == 1)
    yield from _same("log_objects: their bytes", sum(row["bytes"] for row in pack["log_objects"]), minutes)
    by_cdn: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for place, name in enumerate(("period_objects", "period_usage")):
        for row in pack[name]:
            by_cdn[row["cdn"]][place] += row["bytes"]
    for cdn, (stored, made) in sorted(by_cdn.items()):
        yield from _same(f"period_objects: the bytes of “{cdn}”", stored, made)


def _time(text: Any) -> datetime:
    at = datetime.fromisoformat(text)
    if zulu(at) != text:
        raise EvidenceError(f"“{text}” is no time in UTC as it is written here, such as 2026-03-05T10:00:00Z")
    return at


def _recorded(storm: Mapping[str, Any]) -> Recorded:
    ruling = storm["ruling"]
    return Recorded(
        id=f"storm-{storm['id']}",
        kind=storm["kind"],
        attribution=storm["attribution"],
        is_armed=storm["is_armed"],
        spells=tuple((_time(start), _time(end) if end else None) for start, end in storm["spells"]),
        last_bad_at=_time(storm["last_bad_at"]),
        witness=storm["witness"],
        ruling=ruling["is_covered"] if ruling else None,
        ruling_reason=f"{ruling['reason']} ({ruling['by']})" if ruling else "",
    )


def _changes(pack: Mapping[str, Any]) -> list[Change]:
    backups = {str(target["target"]) for target in pack["targets"] if target["role"] == "backup"}
    return [
        Change(
            row["record_set"], row["generation"], row["region"],
            sum(share for target, share in row["weights"].items() if target in backups),
            row["storm"] is not None, _time(row["observed_at"]),
        )
        for row in pack["changes"]
    ]  # fmt: skip


def _buckets(rows: Iterable[Mapping[str, Any]]) -> list[Bucket]:
    found = [Bucket(row["path"], row["cdn"], _time(row["start"]), row["minutes"], row["bytes"]) for row in rows]
    return sorted(found, key=lambda bucket: bucket.start)


def measure(event: Event, usage: Sequence[Bucket]) -> Measured:
    """The bytes of an event: single buckets in its spans by time share, whole hours where its baseline has them."""
    short = [bucket for bucket in usage if bucket.minutes < 60]
    hourly = [bucket for bucket in usage if bucket.minutes == 60]
    inside, before = defaultdict[tuple[str, str], Fraction](Fraction), defaultdict[tuple[str, str], Fraction](Fraction)
    for span in event.spans:
        _add(inside, short, span)
    for span in event.baseline:
        hours, edges = cover.whole_hours(span)
        if hours:
            _add(before, hourly, hours)
        for edge in edges:
            _add(before, short, edge)

    def total(found: Mapping[tuple[str, str], Fraction], *paths: str) -> Fraction:
        return sum((size for (path, _), size in found.items() if path in paths), Fraction(0))

    return Measured(
        backup={cdn: size for (path, cdn), size in sorted(inside.items()) if path == "backup"},
        everything=total(inside, "primary", "backup"),
        normal_backup=total(before, "backup"),
        normal_everything=total(before, "primary", "backup"),
    )


def _add(sums: defaultdict[tuple[str, str], Fraction], buckets: Sequence[Bucket], span: Interval) -> None:
    """`buckets` are in order of time."""
    exact = defaultdict[tuple[str, str, int], int](int)
    for bucket in buckets[bisect_right(buckets, span.start - cover.HOUR, key=lambda b: b.start) :]:
        if bucket.start >= span.end:
            break
        within = min(bucket.end, span.end) - max(bucket.start, span.start)
        if within > timedelta(0):
            exact[bucket.path, bucket.cdn, bucket.minutes] += bucket.bytes * (within // _MICROSECOND)
    for (path, cdn, minutes), size in exact.items():
        sums[path, cdn] += Fraction(size, minutes * 60_000_000)


def _windows(
    service: str, period: Interval, events: Sequence[tuple[Event, Measured]], usage: Sequence[Bucket]
) -> list[dict[str, Any]]:
    """What is rated of the service: for each event and CDN what moved, and the rest of each path."""
    moved, totals = defaultdict[str, int](int), defaultdict[tuple[str, str], int](int)
    windows = []

    def add(path: str, cdn: str, span: Interval, size: int, covered: int) -> None:
        windows.append({
            "service": service, "path": path, "cdn": cdn, "start": zulu(span.start), "end": zulu(span.end), "bytes": size,
            "covered_bytes": covered,
        })  # fmt: skip

    for event, measured in events:
        if event.spans:
            for cdn, (size, covered) in cover.covered_bytes(measured).items():
                moved[cdn] += size
                add("backup", cdn, Interval(event.spans[0].start, event.spans[-1].end), size, covered)
    for bucket in usage:
        totals[bucket.path, bucket.cdn] += bucket.bytes
    for (path, cdn), size in sorted(totals.items(), key=lambda item: (item[0][0] != "primary", item[0][1])):
        add(path, cdn, period, size - (moved[cdn] if path == "backup" else 0), 0)
    return windows


def _factor(pack: Mapping[str, Any], paying: Collection[str]) -> str | None:
    """The lowest of the customer's own that its paying storms began under."""
    hit = [storm for storm in pack["storms"] if f"storm-{storm['id']}" in paying]
    used = {f"{storm['policy']}/{storm['policy_version']}" for storm in hit} & pack["policies"].keys()
    factors = [Fraction(pack["policies"][name]["max_coverage_factor"]) for name in used]
    return decimal(min(factors)) if factors else None
