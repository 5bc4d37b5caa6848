"""A second way to the same money, which shares nothing with `billing`: time is a text with one letter a tick, money is integers.

`rate` reads the document as it stands in JSON. No fraction is ever divided before the one rounding of a line: each amount
is a numerator over a denominator, both whole. `documents` are made at random from a seed, so that a case can be named.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import gcd, lcm
from random import Random
from typing import Any, NamedTuple

EXPONENT = {"USD": 2, "EUR": 2, "GBP": 2, "JPY": 0, "KWD": 3}
BYTES = {"GB": 10**9, "GiB": 2**30}
SCALE = 10**12  # of every number that stands in a text


class Told(NamedTuple):
    """A line as the oracle tells it; `windows` are (start, end, bytes, minor units) where a line is split into them."""

    kind: str
    service: str
    path: str
    cdn: str
    bytes: int
    amount_minor: int
    windows: tuple[tuple[str, str, int, int], ...] | None = None


def scaled(text: str) -> int:
    """The number times 10¹²: "0.12" is 120000000000."""
    whole, _, part = text.partition(".")
    assert len(part) <= 12
    return int(whole + part.ljust(12, "0"))


def half_up(numerator: int, denominator: int) -> int:
    """Of numbers that are not negative."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest >= denominator)


def microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def zulu(at: int) -> str:
    """A moment of the documents made here, which are whole milliseconds, as the code writes it."""
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return re.sub(r"\.?0*$", "", text) + "Z" if "." in text else text + "Z"


# --- time -----------------------------------------------------------------------------------------------------------


class Clock:
    """Ticks so fine that every moment and every length of a document is a whole number of them."""

    def __init__(self, moments: Sequence[int], lengths: Sequence[int]) -> None:
        self.first = min(moments)
        self.tick = gcd(*(at - self.first for at in moments), *lengths) or 1
        self.size = (max(moments) - self.first) // self.tick

    def at(self, moment: int) -> int:
        return (moment - self.first) // self.tick


def painted(size: int, spans: Sequence[tuple[int, int]]) -> str:
    """A text of `size` letters: 1 where a span is, 0 where none is."""
    line = bytearray(b"0" * size)
    for start, end in spans:
        line[start:end] = b"1" * (end - start)
    return line.decode()


def filled(line: str, gap: int) -> str:
    """Without its gaps shorter than `gap`."""
    return re.sub(r"(?<=1)0+(?=1)", lambda zeros: ("1" if len(zeros[0]) < gap else "0") * len(zeros[0]), line)


def runs(line: str) -> list[tuple[int, int]]:
    return [found.span() for found in re.finditer("1+", line)]


def first_ones(line: str, count: int) -> str:
    """Only the first so many ones of it."""
    kept = re.match(f"(?:0*1){{0,{count}}}", line) if count < 60_000 else None
    if kept is None:
        kept_end, left = 0, count
        for start, end in runs(line):
            kept_end, left = start + min(left, end - start), left - (end - start)
            if left <= 0:
                break
        return line[:kept_end] + "0" * (len(line) - kept_end)
    return kept[0] + "0" * (len(line) - len(kept[0]))


def paid_time(raw: dict[str, Any], clock: Clock, service: str) -> str:
    """F1–F3, as a text over the clock's ticks."""
    terms = raw["cover"]
    tick = clock.tick

    def ticks(name: str) -> int | None:
        seconds = terms.get(name)
        return None if seconds is None else seconds * 10**6 // tick

    spans = [
        (clock.at(microseconds(s["start"])), clock.at(microseconds(s["end"])))
        for s in raw["storms"]
        if s.get("service") is None or s["service"] == service
    ]
    line = filled(painted(clock.size, spans), ticks("merge_gap_seconds") or 0)
    waiting, clause, most = ticks("waiting_seconds") or 0, ticks("hours_clause_seconds"), ticks("aggregate_seconds")
    paid = []
    for start, end in runs(line):
        if terms.get("waiting_mode", "excess") == "franchise":
            begins = start if end - start >= waiting else end
        else:
            begins = min(start + waiting, end)
        paid.append((begins, end if clause is None else min(end, begins + clause)))
    line = painted(clock.size, paid)
    return line if most is None else first_ones(line, most)


# --- money ----------------------------------------------------------------------------------------------------------


class Charge(NamedTuple):
    """The backup traffic of one service and CDN: what it costs is gross / denominator."""

    windows: list[dict[str, Any]]
    bytes: int
    gross: int
    denominator: int
    amount_minor: int


def rate(raw: dict[str, Any]) -> list[Told]:
    """The lines of a document."""
    exponent, unit = 10 ** EXPONENT[raw["currency"]], BYTES[raw["unit"]]
    own = raw["rates"].get("cdns", {})
    groups = defaultdict[tuple[str, int, str], list[dict[str, Any]]](list)
    for window in raw["usage"]:
        cdn = window.get("cdn") or ""
        groups[
            window["service"],
            ["primary", "backup"].index(window["path"]),
            cdn if window["path"] in own.get(cdn, {}) else "",
        ].append(window)
    lines, charges = [], {}
    for (service, place, cdn), windows in sorted(groups.items()):
        path = ["primary", "backup"][place]
        size = sum(window["bytes"] for window in windows)
        tiers = own[cdn][path] if cdn else raw["rates"][path]
        gross, denominator = price(size, tiers, raw["tier_mode"], unit)
        amount = half_up(gross * exponent, denominator)
        lines.append(Told("usage", service, path, cdn, size, amount))
        if path == "backup":
            windows = sorted(windows, key=lambda w: (microseconds(w["start"]), microseconds(w["end"]), w["bytes"]))
            charges[service, cdn] = Charge(windows, size, gross, denominator, amount)
    return lines + (tranches if raw["cover"].get("layers") else shares)(raw, charges, exponent)


def price(size: int, tiers: list[dict[str, Any]], mode: str, unit: int) -> tuple[int, int]:
    """Numerator and denominator of what so many bytes cost, by the steps between the tiers' edges."""
    top = size * SCALE  # bytes, times SCALE, as the edges are
    edges = [None if tier["up_to"] is None else scaled(tier["up_to"]) * unit for tier in tiers]

    def per_unit(upto: int) -> int:
        return next(
            (scaled(tier["per_unit"]) for tier, edge in zip(tiers, edges, strict=True) if edge is None or upto <= edge),
            scaled(tiers[-1]["per_unit"]),
        )

    if mode == "volume":
        return top * per_unit(top), SCALE * SCALE * unit
    steps = sorted({0, top, *(edge for edge in edges if edge is not None and edge < top)})
    return (
        sum((high - low) * per_unit(high) for low, high in pairwise(steps)),
        SCALE * SCALE * unit,
    )


def covered(raw: dict[str, Any], charge: Charge, service: str, clock: Clock) -> tuple[list[int], int]:
    """The covered bytes of each window, all over one denominator."""
    line = paid_time(raw, clock, service)
    bounds = [(clock.at(microseconds(w["start"])), clock.at(microseconds(w["end"]))) for w in charge.windows]
    common = lcm(*(end - start for start, end in bounds))
    found = []
    for window, (start, end) in zip(charge.windows, bounds, strict=True):
        given = window.get("covered_bytes")
        if given is None:
            found.append(window["bytes"] * line.count("1", start, end) * (common // (end - start)))
        else:
            found.append(given * common)
    return found, common


def clock_of(raw: dict[str, Any]) -> Clock:
    moments = [microseconds(item[end]) for item in (*raw["usage"], *raw["storms"]) for end in ("start", "end")]
    names = ("waiting_seconds", "hours_clause_seconds", "aggregate_seconds", "merge_gap_seconds")
    return Clock(moments, [(raw["cover"].get(name) or 0) * 10**6 for name in names])


def shares(raw: dict[str, Any], charges: dict[tuple[str, str], Charge], exponent: int) -> list[Told]:
    """F6–F8, F11: no window is divided by its bytes; B·φ is min(B, r·m·C), or min(B, r·min(C, m·B))."""
    terms, lines = raw["cover"], []
    discount = scaled(terms.get("discount_rate", "0"))
    for (service, cdn), charge in sorted(charges.items()):
        factor = scaled(terms.get("max_coverage_factor", "1"))
        if service in terms.get("service_factors", {}):
            factor = min(factor, scaled(terms["service_factors"][service]))
        clock = clock_of(raw)
        inside, common = covered(raw, charge, service, clock)
        if not sum(inside):
            continue
        weights = []
        for window, part in zip(charge.windows, inside, strict=True):
            whole = window["bytes"] * common * SCALE * SCALE
            if terms.get("coverage_mode", "multiply") == "multiply":
                weights.append(min(whole, discount * factor * part))
            else:
                weights.append(min(whole, discount * min(part * SCALE, factor * window["bytes"] * common)))
        total = sum(weights)
        bottom = charge.denominator * charge.bytes * common * SCALE * SCALE
        amount = min(half_up(charge.gross * total * exponent, bottom), charge.amount_minor)
        told = tuple(
            (zulu(microseconds(w["start"])), zulu(microseconds(w["end"])), w["bytes"], minor)
            for w, weight, minor in zip(charge.windows, weights, largest_remainder(amount, weights), strict=True)
            if weight and charge.gross
        )
        lines.append(Told("cover", service, "backup", cdn, sum(inside) // common, amount, told))
    return lines


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    ranked = sorted(range(len(weights)), key=lambda n: (-(total * weights[n] % whole), n))
    for n in ranked[: total - sum(parts)]:
        parts[n] += 1
    return parts


def tranches(raw: dict[str, Any], charges: dict[tuple[str, str], Charge], exponent: int) -> list[Told]:
    """F9: what of the stretch from the cost before to the cost after lies between each layer's ends."""
    clock, lines = clock_of(raw), []
    before, bottom = scaled(raw["cover"].get("covered_before", "0")), SCALE  # major units: before / bottom
    for (service, cdn), charge in sorted(charges.items()):
        inside, common = covered(raw, charge, service, clock)
        under = charge.denominator * max(charge.bytes, 1) * common
        after = before * under + charge.gross * sum(inside) * bottom
        before, bottom = before * under, bottom * under
        shrink = gcd(before, after, bottom)
        before, after, bottom = before // shrink, after // shrink, bottom // shrink
        amounts = []
        for layer in raw["cover"]["layers"]:
            low = scaled(layer["attachment"]) * bottom
            high = None if layer["limit"] is None else low + scaled(layer["limit"]) * bottom
            reach = after * SCALE if high is None else min(after * SCALE, high)
            pays = max(reach - max(before * SCALE, low), 0) * scaled(layer["share"])
            amounts.append(half_up(pays * exponent, bottom * SCALE * SCALE))
        excess = max(sum(amounts) - charge.amount_minor, 0)
        for n in reversed(range(len(amounts))):
            cut = min(excess, amounts[n])
            amounts[n], excess = amounts[n] - cut, excess - cut
        lines += [Told("cover", service, "backup", cdn, sum(inside) // common, amount) for amount in amounts if amount]
        before = after
    return lines


# --- documents ------------------------------------------------------------------------------------------------------

START = datetime(2026, 3, 1, 10, tzinfo=UTC)


def documents(first: int, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for number in range(first, last):
        yield number, document(Random(number))


def document(dice: Random) -> dict[str, Any]:
    """Three hours of seconds, or ten seconds of milliseconds, with every term that a document may have."""
    step, ticks = (1_000_000, 10_800) if dice.random() < 0.8 else (1_000, 10_000)

    def at(tick: int) -> str:
        return zulu(microseconds(START.isoformat()) + tick * step)

    def span(longest: int, shortest: int = 1) -> dict[str, str]:
        start = dice.choice([dice.randrange(ticks), dice.randrange(0, ticks, ticks // 20)])
        length = dice.choice([dice.randint(shortest, longest), ticks // 20, ticks // 10])
        return {"start": at(start), "end": at(start + length)}

    unit = dice.choice(["GB", "GiB"])
    services = ["app", "shop", "video"][: dice.choice([1, 1, 2, 3])]
    cdns = dice.choice([[], [], ["fast", "far"]])

    def tiers() -> list[dict[str, Any]]:
        edges = sorted(dice.sample([1, 2, 5, 10, 50, 100, 1000], dice.choice([0, 0, 1, 2, 3])))
        prices = [_price(dice) for _ in range(len(edges) + 1)]
        last = None if dice.random() < 0.8 else str((edges or [0])[-1] + 1)  # and its price goes on
        return [{"up_to": edge, "per_unit": one} for edge, one in zip([*map(str, edges), last], prices, strict=True)]

    def usage() -> dict[str, Any]:
        size = dice.choice(
            [
                0, 1, dice.randrange(10**6), dice.randrange(10**10), dice.randrange(10**12),
                dice.choice([1, 2, 5, 10, 50, 100, 1000]) * BYTES[unit],  # the edges of tiers
                dice.randrange(1, 200) * BYTES[unit] // 2,
            ]
        )  # fmt: skip
        window = {"service": dice.choice(services), "path": dice.choice(["primary", "backup", "backup"]), "bytes": size}
        if dice.random() < 0.4:
            window["covered_bytes"] = dice.choice([None, 0, size, size // 2, dice.randint(0, size)])
        if cdns and dice.random() < 0.7:
            window["cdn"] = dice.choice([*cdns, "unpriced"])
        return window | span(ticks // 5)

    def storm(number: int) -> dict[str, Any]:
        told = {"id": f"s{number}"} | span(ticks // 4, 0)
        whose = dice.choice(["", "null", *services, *services, "other"])
        return told | ({} if not whose else {"service": None if whose == "null" else whose})

    rates: dict[str, Any] = {"primary": tiers(), "backup": tiers()}
    if cdns:
        rates["cdns"] = {
            cdn: {path: tiers() for path in dice.choice([["backup"], ["primary", "backup"]])} for cdn in cdns
        }
    return {
        "currency": dice.choice(list(EXPONENT)),
        "unit": unit,
        "rounding": "half_up",
        "rates": rates,
        "tier_mode": dice.choice(["graduated", "volume"]),
        "cover": _cover(dice, services, ticks * step // 10**6),
        "storms": [storm(n) for n in range(dice.choice([0, 2, 3, 4, 8]))],
        "usage": [usage() for _ in range(dice.choice([1, 2, 6, 10, 14]))],
    }


def _price(dice: Random) -> str:
    return dice.choice(
        ["0", "1", "1.005", "0.01", "0.005", "0.12", "0.085", f"{dice.randrange(10)}.{dice.randrange(10**6):06d}"]
    )


def _cover(dice: Random, services: Sequence[str], seconds: int) -> dict[str, Any]:
    def some(none: Any, *most: int) -> Any:
        return dice.choice([none, *(dice.randint(0, limit) for limit in most)])

    terms: dict[str, Any] = {
        "discount_rate": dice.choice(["0.25", "0.3333", "0.5", "1", "1"]),
        "max_coverage_factor": dice.choice(["0", "0.5", "0.8", "1", "1.5", "4", "10"]),
        "coverage_mode": dice.choice(["multiply", "cap"]),
        "waiting_seconds": some(0, 0, 0, seconds // 20),
        "waiting_mode": dice.choice(["excess", "franchise"]),
        "hours_clause_seconds": some(None, seconds // 5),
        "aggregate_seconds": dice.choice([None, None, some(None, seconds // 3)]),
        "merge_gap_seconds": some(0, seconds // 20, seconds // 5),
    }
    if dice.random() < 0.3:
        terms["service_factors"] = {dice.choice(services): dice.choice(["0", "0.5", "2"])}
    if dice.random() < 0.4:
        attachment, layers = 0, []
        for _ in range(dice.randint(1, 3)):
            limit = dice.choice([1, 7, 50, 1000])
            layers.append(
                {"attachment": str(attachment), "limit": str(limit), "share": dice.choice(["0.5", "0.3333", "1"])}
            )
            attachment += dice.choice([limit, limit, limit + 3, 0])  # adjoining, with a gap, or on top of each other
        if dice.random() < 0.4:
            layers[-1]["limit"] = None
        terms |= {"layers": layers, "covered_before": dice.choice(["0", "0", "5.5", "49.995", "2000"])}
    return {name: value for name, value in terms.items() if dice.random() < 0.9 or name in ("layers", "covered_before")}


# --- what of a storm pays -------------------------------------------------------------------------------------------

SILENCE, TAIL, WEEK = 1800, 3600, 7 * 24 * 3600


class Raging(NamedTuple):
    """A storm in seconds since the beginning of a timeline: its bad stretches, the last one without an end if it rages."""

    is_paid: bool
    spells: tuple[tuple[int, int | None], ...]
    last_bad: int


class Paid(NamedTuple):
    """One event of a timeline: the seconds of it that pay, and how many seconds before it tell what is normal."""

    start: int
    end: int
    seconds: tuple[int, ...]
    baseline: int


def paid_seconds(
    storms: Sequence[Raging],
    shifts: Sequence[tuple[int, int]],
    excluded: Sequence[tuple[int, int]],
    terms: dict[str, Any],
    period: tuple[int, int],
    as_of: int,
    size: int,
) -> list[Paid]:
    """Each second is asked by itself whether it pays. The timeline begins on a full minute; `size` is its length."""
    moved, barred = painted(size, shifts), painted(size, excluded)
    raging, quiet = bytearray(size), bytearray(size)
    for storm in storms:
        for place, (start, end) in enumerate(storm.spells):
            is_last = place == len(storm.spells) - 1
            for second in range(start, min(as_of if end is None else end, size)):
                if not is_last or (second < storm.last_bad + SILENCE and second < as_of):
                    quiet[second] = 1
                    raging[second] |= storm.is_paid
    events = runs(filled("".join(map(str, raging)), terms["merge_gap_seconds"]))
    spent, left, found = set[int](), terms["aggregate_seconds"], []
    for start, end in events:
        waiting, clause = terms["waiting_seconds"], terms["hours_clause_seconds"]
        if terms["waiting_mode"] == "excess":
            begins, long_enough = start + waiting, end - start > waiting
        else:
            begins, long_enough = start, end - start >= waiting
        seconds = []
        for second in range(begins, min(end + TAIL, as_of, size) if long_enough else begins):
            if clause is not None and second >= begins + clause:
                break
            if moved[second] == "0" or barred[second] == "1" or second in spent:
                continue
            spent.add(second)
            if period[0] <= second < period[1]:
                seconds.append(second)
        if start < period[1] and min(end + TAIL, as_of) > period[0]:
            if left is not None:
                seconds, left = seconds[:left], left - min(len(seconds), left)
            noisy = {s // 900 for s in range(size) if quiet[s] or moved[s] == "1"}
            whole = range((start - WEEK + 899) // 900, start // 900)
            found.append(Paid(start, end, tuple(seconds), 900 * sum(quarter not in noisy for quarter in whole)))
    return found


class Timeline(NamedTuple):
    storms: tuple[Raging, ...]
    shifts: tuple[tuple[int, int], ...]
    excluded: tuple[tuple[int, int], ...]
    terms: dict[str, Any]
    period: tuple[int, int]
    as_of: int
    size: int


def timeline(dice: Random) -> Timeline:
    """Four to eight hours with storms that flicker, fall silent or rage on, shifts that come late and stay long."""
    size = dice.choice([4, 8]) * 3600

    def span(longest: int) -> tuple[int, int]:
        start = dice.choice([dice.randrange(size), dice.randrange(0, size, 900)])
        return start, min(start + dice.choice([dice.randint(1, longest), 900, 3600]), size)

    as_of = dice.choice([size, size, dice.randrange(size // 2, size)])

    def storm() -> Raging:
        cuts = sorted(dice.sample(range(0, as_of, 30), 2 * dice.choice([1, 1, 2, 3])))
        spells: list[tuple[int, int | None]] = list(zip(cuts[::2], cuts[1::2], strict=True))
        last_bad = dice.randint(spells[-1][0], cuts[-1])
        if dice.random() < 0.3:
            spells[-1] = spells[-1][0], None
        return Raging(dice.random() < 0.8, tuple(spells), last_bad)

    start = dice.choice([0, 0, dice.randrange(size)])
    return Timeline(
        tuple(storm() for _ in range(dice.choice([1, 1, 2, 3]))),
        tuple(span(size) for _ in range(dice.choice([0, 1, 1, 2, 3]))),
        tuple(span(1800) for _ in range(dice.choice([0, 0, 1, 2]))),
        {
            "waiting_seconds": dice.choice([0, 0, 300, 900, dice.randrange(7200)]),
            "waiting_mode": dice.choice(["excess", "franchise"]),
            "hours_clause_seconds": dice.choice([None, None, 3600, dice.randrange(1, 7200)]),
            "aggregate_seconds": dice.choice([None, None, 0, dice.randrange(1, 10_000)]),
            "merge_gap_seconds": dice.choice([0, 600, 900, 3600, dice.randrange(7200)]),
        },
        (start, dice.choice([size, size, dice.randint(start, size)])),
        as_of,
        size,
    )
