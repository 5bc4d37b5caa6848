"""Rating against worked numbers, and against a second, slower way to compute the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import cover, document, rating
from billing.document import DocumentError

T0 = datetime(2026, 3, 1, 10, tzinfo=UTC)
GIB = 2**30


def at(minutes: float) -> str:
    return rating.zulu(T0 + timedelta(minutes=minutes))


def doc(**changes: Any) -> dict[str, Any]:
    """50 GiB primary and 20 GiB backup in one hour at 12 c a GiB, a storm of its first half hour, half of it borne by us."""
    raw: dict[str, Any] = {
        "currency": "USD",
        "unit": "GiB",
        "rounding": "half_up",
        "rates": {
            "primary": [{"up_to": None, "per_unit": "0.12"}],
            "backup": [{"up_to": None, "per_unit": "0.12"}],
        },
        "tier_mode": "graduated",
        "cover": {"discount_rate": "0.5", "max_coverage_factor": "1.0", "coverage_mode": "multiply"},
        "storms": [{"id": "s1", "start": at(0), "end": at(30)}],
        "usage": [usage("primary", 0, 60, 50 * GIB), usage("backup", 0, 60, 20 * GIB)],
    }
    return raw | changes


def usage(path: str, start: float, end: float, size: int, **more: Any) -> dict[str, Any]:
    return {"service": "app", "path": path, "start": at(start), "end": at(end), "bytes": size} | more


def storm(name: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    return {"id": name, "start": at(start), "end": at(end)} | more


def amounts(raw: dict[str, Any]) -> tuple[int, int, int]:
    rated = document.rate_document(raw)
    assert rated.subtotal_minor == sum(line.amount_minor for line in rated.lines if line.kind == "usage")
    assert rated.discount_minor == sum(line.amount_minor for line in rated.lines if line.kind == "cover")
    return rated.subtotal_minor, rated.discount_minor, rated.total_minor


def test_half_an_hour_of_storm() -> None:
    # 70 GiB × 12 c = 840 c; backup 240 c × ½ hour × ½ rate = 60 c
    assert amounts(doc()) == (840, 60, 780)


def test_overlapping_and_touching_storms_count_once() -> None:
    # 10:00–10:40, 10:20–10:50, 10:50–10:55 are 55 minutes: 240 c × 55/60 × ½ = 110 c
    raw = doc(storms=[storm("a", 0, 40), storm("b", 20, 50), storm("c", 50, 55)])
    assert amounts(raw) == (840, 110, 730)


def test_tranches_of_the_worked_example() -> None:
    """Layers (0; 10,000; 50 %) and (10,000; 40,000; 100 %); covered cost goes from 8,000 to 25,000: 1,000 + 15,000."""
    layers = [
        {"attachment": "0", "limit": "10000", "share": "0.5"},
        {"attachment": "10000", "limit": "40000", "share": "1"},
    ]
    raw = doc(
        unit="GB",
        rates={"primary": [{"up_to": None, "per_unit": "1"}], "backup": [{"up_to": None, "per_unit": "1"}]},
        cover={"layers": layers, "covered_before": "8000"},
        usage=[usage("backup", 0, 60, 17_000 * 10**9, covered_bytes=17_000 * 10**9)],
    )
    rated = document.rate_document(raw)
    assert [line.amount_minor for line in rated.lines if line.kind == "cover"] == [1_000_00, 15_000_00]
    assert rated.total_minor == 1_000_00


@pytest.mark.parametrize(
    ("mode", "units", "expected"),
    [
        ("graduated", 500, 60_00),
        ("graduated", 1000, 120_00),
        ("graduated", 1500, 170_00),
        ("volume", 1000, 120_00),
        ("volume", 1001, 100_10),  # all units at the second price
    ],
)
def test_tiers(mode: str, units: int, expected: int) -> None:
    tiers = [{"up_to": "1000", "per_unit": "0.12"}, {"up_to": None, "per_unit": "0.10"}]
    raw = doc(
        unit="GB", tier_mode=mode, storms=[], rates={"primary": tiers, "backup": tiers},
        usage=[usage("primary", 0, 60, units * 10**9)],
    )  # fmt: skip
    assert amounts(raw)[0] == expected


@pytest.mark.parametrize(("currency", "expected"), [("USD", 101), ("JPY", 1), ("KWD", 1005)])
def test_one_rounding_half_away_from_zero_at_the_currencys_exponent(currency: str, expected: int) -> None:
    raw = doc(
        currency=currency, unit="GB", storms=[],
        rates={"primary": [{"up_to": None, "per_unit": "1.005"}], "backup": [{"up_to": None, "per_unit": "1"}]},
        usage=[usage("primary", 0, 60, 10**9)],
    )  # fmt: skip
    assert amounts(raw)[0] == expected


def test_a_months_tiny_windows_bill_the_exact_sum() -> None:
    """Each hour alone would round to nothing; the month is 0.4 c × 744 = 297.6 c."""
    hours = [usage("primary", 60 * n, 60 * n + 60, 4 * 10**6) for n in range(744)]
    raw = doc(
        unit="GB",
        storms=[],
        usage=hours,
        rates={"primary": [{"up_to": None, "per_unit": "1"}], "backup": [{"up_to": None, "per_unit": "1"}]},
    )
    assert amounts(raw)[0] == 298


def test_the_discount_is_never_more_than_the_backup_costs() -> None:
    raw = doc(cover={"discount_rate": "1", "max_coverage_factor": "10"}, storms=[storm("s", 0, 60)])
    assert amounts(raw) == (840, 240, 600)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"waiting_seconds": 600}, 40),  # 20 of 60 minutes
        ({"waiting_seconds": 1800}, 0),
        ({"waiting_seconds": 1800, "waiting_mode": "franchise"}, 60),
        ({"waiting_seconds": 1801, "waiting_mode": "franchise"}, 0),
        ({"hours_clause_seconds": 900}, 30),
        ({"aggregate_seconds": 600}, 20),
        ({"max_coverage_factor": "0.5"}, 30),
        ({"max_coverage_factor": "0.25", "coverage_mode": "cap"}, 30),
        ({"max_coverage_factor": "2", "coverage_mode": "cap"}, 60),
    ],
)
def test_terms_of_cover(terms: dict[str, Any], expected: int) -> None:
    assert amounts(doc(cover={"discount_rate": "0.5"} | terms))[1] == expected


def test_storms_with_small_gaps_are_one_event() -> None:
    two = [storm("a", 0, 10), storm("b", 20, 30)]
    apart = doc(storms=two, cover={"discount_rate": "0.5", "waiting_seconds": 300, "merge_gap_seconds": 0})
    merged = doc(storms=two, cover={"discount_rate": "0.5", "waiting_seconds": 300, "merge_gap_seconds": 601})
    assert amounts(apart)[1] == 20  # 5 + 5 minutes of 60
    assert amounts(merged)[1] == 50  # 25 minutes


def test_a_storm_of_another_service_covers_nothing_and_one_without_a_service_hits_all() -> None:
    assert amounts(doc(storms=[storm("a", 0, 30, service="other")]))[1] == 0
    assert amounts(doc(storms=[storm("a", 0, 30, service="app")]))[1] == 60


def test_covered_bytes_are_taken_as_they_stand() -> None:
    raw = doc(storms=[], usage=[usage("backup", 0, 60, 20 * GIB, covered_bytes=5 * GIB)])
    assert amounts(raw)[1] == 30


def test_lines_carry_their_arithmetic() -> None:
    line = document.rate_document(doc()).lines[-1]
    assert line.kind == "cover"
    assert line.details["storms"] == [{"id": "s1", "start": "2026-03-01T10:00:00Z", "end": "2026-03-01T10:30:00Z"}]
    assert Fraction(line.details["exact"]) * 100 == 60
    assert [w["amount_minor"] for w in line.details["windows"]] == [60]


# --- a second opinion -----------------------------------------------------------------------------------------------


def oracle(raw: dict[str, Any]) -> tuple[int, int]:
    """Second by second, in decimals: subtotal and discount of a document with flat rates and whole seconds."""
    unit = Decimal(10**9 if raw["unit"] == "GB" else 2**30)
    rate = Decimal(raw["cover"]["discount_rate"])
    covered = set()
    for told in raw["storms"]:
        first, last = (int(datetime.fromisoformat(told[key]).timestamp()) for key in ("start", "end"))
        covered.update(range(first, last))
    gross = {"primary": Decimal(0), "backup": Decimal(0)}
    discount = Decimal(0)
    for window in raw["usage"]:
        price = Decimal(raw["rates"][window["path"]][0]["per_unit"])
        gross[window["path"]] += window["bytes"] * price / unit
        if window["path"] == "backup":
            first, last = (int(datetime.fromisoformat(window[key]).timestamp()) for key in ("start", "end"))
            inside = sum(second in covered for second in range(first, last))
            discount += window["bytes"] * price / unit * inside / (last - first) * rate
    paths = {window["path"] for window in raw["usage"]}
    cents = {path: int((gross[path] * 100).quantize(Decimal(1), ROUND_HALF_UP)) for path in paths}
    return sum(cents.values()), min(int((discount * 100).quantize(Decimal(1), ROUND_HALF_UP)), cents.get("backup", 0))


windows = st.builds(
    lambda path, start, length, size: usage(path, start, start + length, size),
    st.sampled_from(["primary", "backup"]), st.integers(0, 90), st.integers(1, 30), st.integers(0, 10**12),
)  # fmt: skip
storms = st.builds(
    lambda start, length: storm(f"s{start}-{length}", start, start + length), st.integers(0, 90), st.integers(0, 40)
)


@settings(max_examples=300, deadline=None)
@given(used=st.lists(windows, max_size=8), stormy=st.lists(storms, max_size=5), data=st.data())
def test_agrees_with_counting_seconds(
    used: list[dict[str, Any]], stormy: list[dict[str, Any]], data: st.DataObject
) -> None:
    price = st.decimals(min_value=0, max_value=200, places=4).map(str)
    raw = doc(
        unit="GB", usage=used, storms=stormy,
        rates={path: [{"up_to": None, "per_unit": data.draw(price)}] for path in ("primary", "backup")},
        cover={"discount_rate": data.draw(st.sampled_from(["0", "0.25", "0.5", "1"])), "merge_gap_seconds": 0},
    )  # fmt: skip
    rated = document.rate_document(raw)
    assert (rated.subtotal_minor, rated.discount_minor) == oracle(raw)
    backup = sum(line.amount_minor for line in rated.lines if line.kind == "usage" and line.path == "backup")
    assert 0 <= rated.discount_minor <= backup
    shuffled = raw | {"usage": list(reversed(used)), "storms": list(reversed(stormy))}
    assert document.to_json(document.rate_document(shuffled)) == document.to_json(rated)


@given(total=st.integers(0, 10**6), shares=st.lists(st.fractions(min_value=0, max_value=100), min_size=1, max_size=20))
def test_allocation_adds_up_and_is_fair(total: int, shares: list[Fraction]) -> None:
    parts = rating.allocate(total, shares)
    whole = sum(shares, Fraction(0))
    assert sum(parts) == (total if whole else 0)
    if whole:
        assert all(abs(part - total * share / whole) < 1 for part, share in zip(parts, shares, strict=True))


spans = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=8)


@given(told=spans, waiting=st.integers(0, 60), gap=st.integers(0, 60), aggregate=st.none() | st.integers(0, 200))
def test_effective_intervals_are_disjoint_in_order_and_within_the_storms(
    told: list[tuple[int, int]], waiting: int, gap: int, aggregate: int | None
) -> None:
    second = timedelta(seconds=1)
    events = [
        cover.Storm(str(n), T0 + start * second, T0 + (start + length) * second)
        for n, (start, length) in enumerate(told)
    ]
    terms = cover.CoverTerms(waiting_seconds=waiting, aggregate_seconds=aggregate, merge_gap_seconds=gap)
    counted = cover.effective(events, "app", terms)
    assert all(a.end <= b.start for a, b in pairwise(counted))
    assert all(i.end > i.start for i in counted)
    if aggregate is not None:
        assert sum((i.length for i in counted), timedelta()) <= aggregate * second
    if told:
        assert all(min(e.start for e in events) <= i.start and i.end <= max(e.end for e in events) for i in counted)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"currency": "XXX"}, "currency"),
        ({"unit": "MB"}, "unit"),
        ({"rounding": "bankers"}, "rounding"),
        ({"colour": "red"}, "colour"),
        ({"rates": {"primary": [{"up_to": None, "per_unit": "1"}]}}, "rates.backup"),
        ({"rates": {"primary": [{"up_to": None, "per_unit": "x"}], "backup": []}}, "rates.primary[0].per_unit"),
        ({"cover": {"discount_rate": "1.5"}}, "cover.discount_rate"),
        ({"cover": {"discount_rate": "-1"}}, "cover.discount_rate"),
        ({"cover": {"waiting_seconds": -1}}, "cover.waiting_seconds"),
        ({"cover": {"layers": [{"attachment": "0", "limit": None}]}}, "cover.layers[0].share"),
        ({"storms": [storm("s", 30, 0)]}, "storms[0].end"),
        ({"storms": [{"id": "s", "start": "2026-03-01T10:00:00", "end": at(1)}]}, "storms[0].start"),
        ({"usage": [usage("primary", 0, 60, -1)]}, "usage[0].bytes"),
        ({"usage": [usage("primary", 0, 0, 1)]}, "usage[0].end"),
        ({"usage": [usage("side", 0, 60, 1)]}, "usage[0].path"),
        ({"usage": [usage("backup", 0, 60, 1, covered_bytes=2)]}, "usage[0].covered_bytes"),
        ({"usage": "all"}, "usage"),
    ],
)
def test_bad_input_names_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(DocumentError) as caught:
        document.parse(doc(**changes))
    assert caught.value.path == field


def test_floats_are_refused_wherever_they_stand() -> None:
    with pytest.raises(DocumentError, match=r"0\.12 is a float"):
        document.loads(json.dumps(doc()).replace('"0.12"', "0.12"))
