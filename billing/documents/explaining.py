"""What an amount follows from, in sentences: from the details that its line kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from billing.bill import REQUESTS_PER_PRICE
from billing.documents.written import duration, fraction, minute, number, percent, printable, time, words
from billing.money import exponent, format_minor

_MONTHLY = ("fixed_fee", "premium", "minimum")
_GRADES = {"E1": "by request", "E2": "by minute", "E3": "by time alone", "E4": "sampled"}


def quantity(kind: str, details: Mapping[str, Any]) -> str:
    if kind == "requests":
        return f"{details.get('requests', 0):,} requests"
    if kind in _MONTHLY:
        share = fraction(details.get("share_of_month"))
        return "1 month" if share in (None, 1) else f"{share} month"
    units = fraction(details.get("units"))
    return "" if units is None else f"{number(units)} {details.get('unit', '')}".strip()


def price(kind: str, details: Mapping[str, Any], digits: int) -> str:
    """Of one unit, where there is one price; `digits` are the currency's."""
    tiers = details.get("tiers", [])
    if len(tiers) > 1:
        return "by tier"
    one, per = {
        "requests": (details.get("per_10k"), f"per {REQUESTS_PER_PRICE:,}"),
        "fixed_fee": (details.get("a_month"), "a month"),
        "premium": (details.get("a_month"), "a month"),
    }.get(kind, (tiers[0].get("per_unit") if tiers else None, f"per {details.get('unit', 'unit')}"))
    return "" if (value := fraction(one)) is None else f"{number(value, digits)} {per}"


def grade(name: str) -> str:
    """“E2 (by minute)”: what the covered bytes were told by."""
    return f"{name} ({_GRADES[name]})" if name in _GRADES else name


def how(kind: str, details: Mapping[str, Any], amount_minor: int, currency: str) -> Iterable[str]:
    digits = exponent(currency)
    if kind == "minimum":
        yield from _commitment(details, currency, digits)
    if kind in ("correction", "credit") and "invoice" in details:
        yield from _rated_again(details)
    if "layer" in details:
        yield from _tranche(details, digits)
    elif "discount_rate" in details:
        yield from _share(details, currency)
    if "of_cover_minor" in details:
        rest = "the rest is credited" if kind == "cover" else "the rest was taken off the charges"
        yield f"of {format_minor(details['of_cover_minor'], currency)} cover; {rest}"
    exact = fraction(details.get("exact"))
    if (
        exact is not None
        and kind != "minimum"
        and exact * 10**digits != amount_minor
        and "of_cover_minor" not in details
    ):
        yield f"exactly {number(exact, digits)}, rounded once to {format_minor(amount_minor, currency)}"


def _commitment(details: Mapping[str, Any], currency: str, digits: int) -> Iterator[str]:
    if (month := fraction(details.get("a_month"))) is not None:
        yield f"delivery is billed to at least {number(month, digits)} a month"
    if "committed_minor" in details and "reached_minor" in details:
        after = " after cover" if details.get("on_net") else ""
        committed, reached = (format_minor(details[key], currency) for key in ("committed_minor", "reached_minor"))
        yield f"committed {committed} in this period, reached {reached}{after}"


def _rated_again(details: Mapping[str, Any]) -> Iterator[str]:
    if told := details.get("bytes_now"):
        yield "usage now: " + ", ".join(f"{printable(path)} {size:,} bytes" for path, size in sorted(told.items()))
    if at := time(details.get("rated_again_at")):
        yield f"rated again {minute(at)} UTC by the terms of that period"


def _tranche(details: Mapping[str, Any], digits: int) -> Iterator[str]:
    pays, share = fraction(details.get("exact")), fraction(details.get("share"))
    if pays is not None and share:
        yield f"{number(pays / share, digits)} of the covered cost lies in this tranche, × {percent(share)}"


def _share(details: Mapping[str, Any], currency: str) -> Iterator[str]:
    rate = fraction(details.get("discount_rate")) or Fraction(0)
    factor = fraction(details.get("max_coverage_factor"))
    covered, backup = fraction(details.get("covered_bytes_exact")), details.get("backup_bytes")
    text = f"{percent(rate)} of the covered backup charge"
    if factor is not None:
        text += f", coverage factor {number(factor)} ({words(str(details.get('coverage_mode', 'multiply')))})"
    yield text
    if covered is not None and backup:
        yield f"covered share {percent(covered / backup)} of the backup's bytes"
    if "backup_charge_minor" in details:
        yield f"backup charge {format_minor(details['backup_charge_minor'], currency)}"


def cover_terms(terms: Mapping[str, Any], used: Mapping[str, int], currency: str) -> tuple[str, ...]:
    """What the cover of this period was bound to; `used` are microseconds of cover by service."""
    if not terms:
        return ()
    told = []
    if not terms.get("layers") and (rate := fraction(terms.get("discount_rate"))) is not None:
        told.append(f"we bear {percent(rate)} of the covered backup charge")
    if waiting := terms.get("waiting_seconds"):
        told.append(f"waiting time {duration(Fraction(waiting))} an event ({terms.get('waiting_mode', 'excess')})")
    if clause := terms.get("hours_clause_seconds"):
        told.append(f"at most {duration(Fraction(clause))} an event")
    if (aggregate := terms.get("aggregate_seconds")) is not None:
        spent = Fraction(sum(used.values()), 10**6)
        told.append(f"at most {duration(Fraction(aggregate))} a policy year; {duration(spent)} paid in this period")
    if gap := terms.get("merge_gap_seconds"):
        told.append(f"storms less than {duration(Fraction(gap))} apart are one event")
    if terms.get("layers"):
        before = fraction(terms.get("covered_before")) or Fraction(0)
        told.append(f"covered cost of the policy year before this period {number(before, exponent(currency))}")
    return tuple(told)
