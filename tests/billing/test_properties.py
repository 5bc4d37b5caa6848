"""What holds for every document that can be rated. RATE_CASES says how many documents are made; 10,000 is the full run."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from fractions import Fraction
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from billing import document, rating
from billing.document import DocumentError
from billing.rating import Rated
from tests.billing import oracle
from tests.billing.oracle import Told, documents, scaled

CASES = int(os.environ.get("RATE_CASES", "1500"))
PARTS = 4


def part_of(part: int, share: int = 1) -> Any:
    """A part of the cases; `share`: only one of so many."""
    size = CASES // share // PARTS
    return documents(part * size, (part + 1) * size)


def told(rated: Rated) -> list[Told]:
    def windows(details: Any) -> Any:
        if "windows" not in details:
            return None
        return tuple((w["start"], w["end"], w["bytes"], w["amount_minor"]) for w in details["windows"])

    return [
        Told(line.kind, line.service, line.path, line.cdn, line.bytes, line.amount_minor, windows(line.details))
        for line in rated.lines
    ]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_line_is_what_the_second_way_says(part: int) -> None:
    for number, raw in part_of(part):
        rated = document.rate_document(raw)
        assert told(rated) == oracle.rate(raw), f"document {number}"
        _adds_up(rated, number)


def _adds_up(rated: Rated, number: int) -> None:
    """Every amount is a whole number ≥ 0; cover is at most the backup charge it reduces; the total is what the lines say."""
    charges, covers = defaultdict[Any, int](int), defaultdict[Any, int](int)
    for line in rated.lines:
        assert isinstance(line.amount_minor, int) and line.amount_minor >= 0, number
        if line.kind == "cover":
            covers[line.service, line.cdn] += line.amount_minor
            parts = line.details.get("windows")
            assert parts is None or sum(window["amount_minor"] for window in parts) == line.amount_minor, number
        elif line.path == "backup":
            charges[line.service, line.cdn] += line.amount_minor
    assert all(covers[key] <= charges[key] for key in covers), number
    assert rated.subtotal_minor == sum(line.amount_minor for line in rated.lines if line.kind == "usage"), number
    assert rated.discount_minor == sum(covers.values()), number
    assert rated.total_minor == rated.subtotal_minor - rated.discount_minor >= 0, number


@pytest.mark.parametrize("part", range(PARTS))
def test_the_order_of_usage_and_storms_changes_nothing(part: int) -> None:
    for number, raw in part_of(part, share=3):
        dice = Random(number)
        shuffled = raw | {key: dice.sample(raw[key], len(raw[key])) for key in ("usage", "storms")}
        assert _json(shuffled) == _json(raw), f"document {number}"


def _json(raw: dict[str, Any]) -> str:
    return json.dumps(document.to_json(document.rate_document(raw)))


def test_a_storm_told_in_two_pieces_is_the_same_storm() -> None:
    """Cut anywhere, the pieces touch, and touching storms are one event: nothing changes but what the line names."""
    for number, raw in documents(0, CASES // 5):
        dice, pieces = Random(number), []
        for storm in raw["storms"]:
            first, last = (oracle.microseconds(storm[end]) for end in ("start", "end"))
            middle = oracle.zulu(dice.randrange(first, last + 1, 1000))
            pieces += [storm | {"end": middle}, storm | {"id": storm["id"] + "b", "start": middle}]
        assert told(document.rate_document(raw | {"storms": pieces})) == told(document.rate_document(raw)), number


def test_a_storm_without_a_service_is_one_of_each_service() -> None:
    for number, raw in documents(0, CASES // 5):
        services = sorted({window["service"] for window in raw["usage"]})
        each = [
            storm | {"id": f"{storm['id']}-{name}", "service": name}
            for storm in raw["storms"]
            for name in (services if storm.get("service") is None else [storm["service"]])
        ]
        assert told(document.rate_document(raw | {"storms": each})) == told(document.rate_document(raw)), number


# --- runs split and windows merged ----------------------------------------------------------------------------------


def layered(dice: Random) -> dict[str, Any]:
    """A flat price, and windows whose covered bytes are given: the cost of each does not depend on the others."""
    raw = oracle.document(dice)
    layers = [
        {"attachment": "1", "limit": "40", "share": dice.choice(["0.3333", "0.5"])},
        {"attachment": "41", "limit": "300", "share": "1"},
        {"attachment": "400", "limit": None, "share": "0.25"},
    ]
    usage = [
        window | {"path": "backup", "cdn": "", "covered_bytes": dice.randint(0, window["bytes"])}
        for window in raw["usage"]
    ]
    price = dice.choice(["0.085", "1", "1.005", "0.12"])
    rates = {path: [{"up_to": None, "per_unit": price}] for path in ("primary", "backup")}
    before = dice.choice(["0", "0.5", "39.995", "500"])
    return raw | {
        "unit": "GB",
        "rates": rates,
        "usage": usage,
        "cover": {"layers": layers, "covered_before": before},
    }


def by_layer(*runs: Rated) -> tuple[dict[int, int], int]:
    """What each layer paid in these runs together, and how many amounts were rounded on the way."""
    paid, rounded = defaultdict[int, int](int), 0
    for run in runs:
        rounded += len({line.service for line in run.lines})
        for line in run.lines:
            if line.kind == "cover":
                paid[line.details["layer"]] += line.amount_minor
    return paid, rounded


def test_a_policy_year_in_one_run_or_many_pays_the_same() -> None:
    """F9 telescopes exactly; each run rounds each layer once for each service, by half a minor unit at most, and the cap
    at the rounded backup charge may take as much from each layer that it cuts. So no layer is off by more than half of
    what was rounded, and all layers together not by more than half of all roundings.
    """
    for number in range(CASES // 3):
        dice = Random(number)
        raw = layered(dice)
        whole = document.rate_document(raw)
        runs, before = [], raw["cover"]["covered_before"]
        usage = dice.sample(raw["usage"], len(raw["usage"]))
        cuts = sorted(dice.choices(range(len(usage) + 1), k=dice.randint(1, 4)))
        for start, end in zip([0, *cuts], [*cuts, len(usage)], strict=True):
            piece = raw | {"usage": usage[start:end], "cover": raw["cover"] | {"covered_before": before}}
            runs.append(document.rate_document(piece))
            before = rating.decimal(Fraction(before) + runs[-1].covered_cost)
        assert sum((run.covered_cost for run in runs), Fraction(0)) == whole.covered_cost, number
        (once, rounded), (split, often) = by_layer(whole), by_layer(*runs)
        layers = 3
        for layer in range(1, layers + 1):
            assert abs(once[layer] - split[layer]) * 2 <= (rounded + often) * layers, number
        assert abs(sum(once.values()) - sum(split.values())) * 2 <= (rounded + often) * layers, number


def test_exactly_the_same_where_no_line_needs_rounding() -> None:
    """Whole cents everywhere: the split pays the same to the cent, layer by layer, at whatever point it is cut."""
    gb = 10**9
    layers = [{"attachment": "0", "limit": "100", "share": "0.5"}, {"attachment": "100", "limit": None, "share": "1"}]

    def run(sizes: list[int], before: int) -> Rated:
        usage = [
            {
                "service": "app", "path": "backup", "start": oracle.zulu(n * 60_000_000),
                "end": oracle.zulu((n + 1) * 60_000_000), "bytes": size * gb, "covered_bytes": size * gb,
            }
            for n, size in enumerate(sizes)
        ]  # fmt: skip
        flat = [{"up_to": None, "per_unit": "1"}]
        cover = {"layers": layers, "covered_before": str(before)}
        return document.rate_document({"rates": {"primary": flat, "backup": flat}, "cover": cover, "usage": usage})

    sizes = [2 * n for n in range(1, 15)]  # 210 in all; even, so that half of each is whole
    whole, _ = by_layer(run(sizes, 8))
    assert whole == {1: 46_00, 2: 118_00}
    for cut in range(len(sizes) + 1):
        split, _ = by_layer(run(sizes[:cut], 8), run(sizes[cut:], 8 + sum(sizes[:cut])))
        assert split == whole, cut


def test_windows_merged_bill_the_same() -> None:
    """Usage whatever the terms; cover where it is in proportion: covered bytes given, and r · m at most 1."""
    for number, raw in documents(0, CASES // 3):
        given = [window | {"covered_bytes": window.get("covered_bytes") or 0} for window in raw["usage"]]
        cover = {"discount_rate": "0.3333", "max_coverage_factor": "1.5"}
        if "layers" in raw["cover"]:
            cover |= {"layers": raw["cover"]["layers"]}
        merged: dict[tuple[str, str, str], dict[str, Any]] = {}
        for window in given:
            key = window["service"], window["path"], window.get("cdn", "")
            there = merged.setdefault(key, window | {"bytes": 0, "covered_bytes": 0})
            for size in ("bytes", "covered_bytes"):
                there[size] += window[size]
        apart = document.rate_document(raw | {"usage": given, "cover": cover})
        together = document.rate_document(raw | {"usage": list(merged.values()), "cover": cover})
        assert [line[:6] for line in told(apart)] == [line[:6] for line in told(together)], number


def test_largest_remainder_gives_every_cent_to_the_window_that_misses_most() -> None:
    for number in range(CASES):
        dice = Random(number)
        weights = [dice.choice([0, 1, dice.randrange(10), dice.randrange(10**9)]) for _ in range(dice.randint(1, 30))]
        total = dice.choice([0, 1, len(weights), dice.randrange(10**6)])
        unit = dice.randint(1, 1000)
        parts = rating.allocate(total, [Fraction(weight, unit) for weight in weights])
        assert parts == oracle.largest_remainder(total, weights), number
        assert sum(parts) == (total if any(weights) else 0), number


@pytest.mark.parametrize("currency", oracle.EXPONENT)
def test_ties_go_away_from_zero_and_what_is_a_hair_below_does_not(currency: str) -> None:
    half = Fraction(1, 2 * 10 ** oracle.EXPONENT[currency])
    hair = Fraction(1, 10**30)
    for whole in range(50):
        at = 2 * whole * half
        assert [rating.half_up(at + half + off, currency) for off in (-hair, 0, hair)] == [whole, whole + 1, whole + 1]
        assert rating.half_up(-at - half, currency) == -whole - 1


@pytest.mark.parametrize("mode", ["graduated", "volume"])
@pytest.mark.parametrize("unit", ["GB", "GiB"])
def test_one_byte_over_the_edge_of_a_tier(mode: str, unit: str) -> None:
    """Exact to the byte: 10 units at 1, the byte after them at 3; by volume, then all of them at 3."""
    tiers = [rating.Tier(Fraction(10), Fraction(1)), rating.Tier(None, Fraction(3))]
    size = oracle.BYTES[unit]
    edge, _ = rating.charge(10 * size, tiers, rating.TierMode(mode), size)
    above, _ = rating.charge(10 * size + 1, tiers, rating.TierMode(mode), size)
    assert edge == 10
    assert above == (10 + Fraction(3, size) if mode == "graduated" else 30 + Fraction(3, size))


# --- the contract of `manage.py rate`: no test here may touch a database ------------------------------------------------


def full() -> dict[str, Any]:
    """A document with every field."""
    tiers = [{"up_to": "10", "per_unit": "0.12"}, {"up_to": None, "per_unit": "0.1"}]
    return {
        "currency": "USD",
        "unit": "GB",
        "rounding": "half_up",
        "rates": {"primary": tiers, "backup": tiers, "cdns": {"fast": {"backup": tiers}}},
        "tier_mode": "graduated",
        "cover": {
            "discount_rate": "0.5", "max_coverage_factor": "1", "coverage_mode": "multiply", "waiting_seconds": 60,
            "waiting_mode": "excess", "hours_clause_seconds": 3600, "aggregate_seconds": 7200, "merge_gap_seconds": 60,
            "layers": [{"attachment": "0", "limit": "100", "share": "0.5"}], "covered_before": "1",
            "service_factors": {"app": "0.5"},
        },
        "storms": [{"id": "s", "start": "2026-03-01T10:00:00Z", "end": "2026-03-01T11:00:00Z", "service": "app"}],
        "usage": [
            {
                "service": "app", "path": "backup", "cdn": "fast", "start": "2026-03-01T10:00:00Z",
                "end": "2026-03-01T11:00:00Z", "bytes": 10**12, "covered_bytes": 5 * 10**11,
            }
        ],
    }  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that stands in a document, objects and lists as well."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [place for key, value in inner for place in places(value, (*path, key))]


def put(raw: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one thing in another's place."""
    if not path:
        return value
    copy = dict(raw) if isinstance(raw, dict) else list(raw)
    copy[path[0]] = put(raw[path[0]], path[1:], value)
    return copy


def taken(raw: Any, path: tuple[Any, ...]) -> Any:
    return taken(raw[path[0]], path[1:]) if path else raw


FLOATS = ["0.5", "1.0", "1e3", "-0.0", "NaN", "Infinity"]


@pytest.mark.parametrize("place", places(full()), ids=lambda place: ".".join(map(str, place)))
def test_a_float_is_refused_wherever_it_stands(place: tuple[Any, ...]) -> None:
    for number in FLOATS:
        text = json.dumps(put(full(), place, "HERE")).replace('"HERE"', number)
        with pytest.raises(DocumentError, match=f"{number} is a float"):
            document.loads(text)
        with pytest.raises(DocumentError):  # and in what was decoded elsewhere
            document.parse(put(full(), place, float(number)))


OBJECTS = [(), *(place for place in places(full()) if isinstance(taken(full(), place), dict))]
FREE = [("rates", "cdns"), ("cover", "service_factors")]  # their keys are names


@pytest.mark.parametrize("place", [p for p in OBJECTS if p not in FREE], ids=str)
def test_an_unknown_field_is_named_with_its_place(place: tuple[Any, ...]) -> None:
    raw = put(full(), place, taken(full(), place) | {"colour": "red"})
    with pytest.raises(DocumentError) as caught:
        document.parse(raw)
    dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in (*place, "colour")).lstrip(".")
    assert caught.value.path == dotted


@pytest.mark.parametrize("text", ["1/3", "1e3", " 1", "1_000", "٣", "-1", "", "1.", ".5", "1e999999", "NaN", "0x1"])
def test_an_amount_is_digits_and_a_point(text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        document.parse(put(full(), ("rates", "primary", 0, "per_unit"), text))
    assert caught.value.path == "rates.primary[0].per_unit"


def test_the_command_prints_what_the_second_way_says_and_needs_no_database(tmp_path: Path) -> None:
    """pytest-django fails a test without a mark for databases as soon as it asks one."""
    file = tmp_path / "document.json"
    for number, raw in documents(0, 20):
        file.write_text(json.dumps(raw))
        out = StringIO()
        call_command("rate", str(file), "--json", stdout=out)
        printed = json.loads(out.getvalue())
        assert set(printed) == {"lines", "subtotal_minor", "discount_minor", "total_minor", "formula"}
        assert [
            (line["kind"], line["service"], line["path"], line.get("cdn", ""), line["bytes"], line["amount_minor"])
            for line in printed["lines"]
        ] == [line[:6] for line in oracle.rate(raw)], number
        assert printed["total_minor"] == printed["subtotal_minor"] - printed["discount_minor"]
        assert all(isinstance(line["details"], dict) for line in printed["lines"])


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"rates": 1}', "1" * 5000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_the_command_refuses_what_is_no_document(tmp_path: Path, text: str | bytes) -> None:
    file = tmp_path / "document.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CommandError):
        call_command("rate", str(file), "--json", stdout=StringIO())


def test_texts_scale_without_loss() -> None:
    assert [scaled(text) for text in ("0.12", "1", "49.995")] == [120_000_000_000, 10**12, 49_995_000_000_000]
