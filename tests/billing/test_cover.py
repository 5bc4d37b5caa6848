"""Which storms pay, and which of their seconds. COVER_CASES says how many timelines are made; 10,000 is the full run."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any

import pytest

from billing.cover import (
    CoverTerms,
    Event,
    Excluded,
    Interval,
    Measured,
    Recorded,
    WaitingMode,
    covered_bytes,
    events,
    pays,
)
from tests.billing import oracle
from tests.billing.oracle import Paid, Timeline, timeline

CASES = int(os.environ.get("COVER_CASES", "1500"))
PARTS = 3
T0 = datetime(2026, 3, 1, tzinfo=UTC)
NEVER = T0 + timedelta(days=40)


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def span(start: float, end: float) -> Interval:
    return Interval(at(start), at(end))


MONTH = span(0, 31 * 24 * 60)
ALWAYS = span(0, 10**5)


def storm(start: float, end: float | None, name: str = "storm-1", **kw: Any) -> Recorded:
    """A CDN's fault that a reference site saw too, in minutes; bad to its end, or to the end of time."""
    told: dict[str, Any] = {
        "kind": "http_availability", "attribution": "cdn_fault", "is_armed": True, "witness": "a reference site",
        "spells": ((at(start), None if end is None else at(end)),), "last_bad_at": NEVER if end is None else at(end),
    }  # fmt: skip
    return Recorded(id=name, **told | kw)


def paid(
    *storms: Recorded, shifts: Any = (ALWAYS,), excluded: Any = (), period: Interval = MONTH, **kw: Any
) -> list[tuple[float, float]]:
    """The minutes that pay."""
    as_of = kw.pop("as_of", at(10**5))
    _, found = events(storms, list(shifts), list(excluded), CoverTerms(**{"merge_gap_seconds": 0} | kw), period, as_of)
    minute = timedelta(minutes=1)
    return [((i.start - T0) / minute, (i.end - T0) / minute) for event in found for i in event.spans]


# --- which storms pay -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kw", "is_covered", "reason"),
    [
        ({}, True, "a http_availability storm, attributed to cdn_fault; a reference site"),
        ({"kind": "tls"}, True, "a tls storm"),
        ({"kind": "dns"}, True, "a dns storm"),
        ({"kind": "latency"}, False, "latency storms are not covered"),
        ({"kind": "manual"}, False, "manual storms are not covered"),
        ({"kind": "manual", "ruling": True}, False, "manual storms are not covered"),  # no person's word makes them pay
        ({"is_armed": False}, False, "the policy only watched"),
        ({"is_armed": False, "ruling": True}, False, "the policy only watched"),
        ({"attribution": "edge_cannot_reach_origin"}, True, "attributed to edge_cannot_reach_origin"),
        ({"attribution": "unproven"}, True, "attributed to unproven"),
        ({"attribution": "origin_fault"}, False, "attributed to origin_fault"),
        ({"attribution": "blind"}, False, "attributed to blind"),
        ({"attribution": "manual"}, False, "attributed to manual"),
        ({"attribution": "backup_unfit"}, False, "attributed to backup_unfit"),
        ({"witness": ""}, False, "no witness yet"),
        ({"witness": "", "ruling": True, "ruling_reason": "the CDN said so"}, True, "a person's word: the CDN said so"),
        ({"attribution": "origin_fault", "ruling": True, "ruling_reason": "not so"}, True, "a person's word: not so"),
        ({"ruling": False, "ruling_reason": "their own doing"}, False, "refused by a person: their own doing"),
    ],
)  # fmt: skip
def test_what_pays_and_why(kw: dict[str, Any], is_covered: bool, reason: str) -> None:
    decision = pays(storm(0, 10, **kw))
    assert (decision.is_covered, reason in decision.reason) == (is_covered, True), decision
    assert bool(paid(storm(0, 10, **kw))) is is_covered


# --- which seconds pay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({}, [(60, 180)]),  # an hour of storm, and the hour after it in which traffic is still there
        ({"waiting_seconds": 600}, [(70, 180)]),
        ({"waiting_seconds": 3599}, [(60 + 3599 / 60, 180)]),
        ({"waiting_seconds": 3600}, []),  # not longer than the wait
        ({"waiting_seconds": 3600, "waiting_mode": WaitingMode.FRANCHISE}, [(60, 180)]),
        ({"waiting_seconds": 3601, "waiting_mode": WaitingMode.FRANCHISE}, []),  # the tail makes no storm longer
        ({"hours_clause_seconds": 1800}, [(60, 90)]),
        ({"hours_clause_seconds": 5400, "waiting_seconds": 600}, [(70, 160)]),
        ({"aggregate_seconds": 1}, [(60, 60 + 1 / 60)]),
        ({"aggregate_seconds": 0}, []),
        ({"as_of": at(100)}, [(60, 100)]),
        ({"period": span(0, 90)}, [(60, 90)]),
        ({"period": span(90, 1000)}, [(90, 180)]),
        ({"period": span(90, 1000), "waiting_seconds": 2400}, [(100, 180)]),  # it waited in the month before, too
        ({"period": span(110, 1000), "hours_clause_seconds": 3600}, [(110, 120)]),
        ({"shifts": []}, []),
        ({"shifts": [span(75, 130)]}, [(75, 130)]),
        ({"shifts": [span(0, 70), span(110, 115), span(114, 500)]}, [(60, 70), (110, 180)]),
        ({"shifts": [span(180, 500)]}, []),  # moved too late
        ({"excluded": [Excluded(at(0), at(70), "maintenance")]}, [(70, 180)]),
        ({"excluded": [Excluded(at(80), at(90), "a drill"), Excluded(at(85), at(100), "pinned")]}, [(60, 80), (100, 180)]),
    ],
)  # fmt: skip
def test_an_hour_of_storm(terms: dict[str, Any], expected: list[tuple[float, float]]) -> None:
    assert paid(storm(60, 120), **terms) == expected


def test_a_storm_that_falls_silent_is_believed_in_for_half_an_hour() -> None:
    """And then its tail begins, whatever the row says of its end."""
    assert paid(storm(0, 300, last_bad_at=at(50))) == [(0, 80 + 60)]
    assert paid(storm(0, None, last_bad_at=at(50)), as_of=at(200)) == [(0, 140)]
    assert paid(storm(0, None, last_bad_at=at(50)), as_of=at(70)) == [(0, 70)]
    assert paid(storm(0, 60, last_bad_at=at(50))) == [(0, 120)]  # it ended within the half hour


def test_silence_is_judged_by_the_last_evidence_of_the_whole_storm() -> None:
    spells = ((at(0), at(10)), (at(100), None))
    assert paid(storm(0, None, spells=spells, last_bad_at=at(105))) == [(0, 70), (100, 195)]


@pytest.mark.parametrize(
    ("gap_seconds", "expected"),
    [
        (0, [(0, 75), (75, 95)]),  # what the first one's tail has paid, the second one does not pay again
        (900, [(0, 75), (75, 95)]),  # a gap must be less than the term
        (901, [(0, 95)]),
    ],
)
def test_one_tail_reaches_into_the_next_event(gap_seconds: int, expected: list[tuple[float, float]]) -> None:
    assert paid(storm(0, 15), storm(30, 35, "storm-2"), merge_gap_seconds=gap_seconds) == expected


def test_relapses_merge_as_storms_do() -> None:
    relapsed = storm(0, 35, spells=((at(0), at(15)), (at(30), at(35))))
    for gap in (0, 901):
        assert paid(relapsed, merge_gap_seconds=gap) == paid(
            storm(0, 15), storm(30, 35, "storm-2"), merge_gap_seconds=gap
        )


def test_storms_that_do_not_pay_lengthen_no_event() -> None:
    """Nor does what they say of normal traffic count: the time of any storm is left out of the baseline."""
    refused = storm(0, 30, "storm-2", attribution="origin_fault")
    _, [event] = events([refused, storm(30, 60)], [span(0, 200)], [], CoverTerms(), MONTH, at(500))
    assert (event.start, event.storms) == (at(30), ("storm-1",))
    assert event.baseline == (span(30 - 7 * 24 * 60, 0),)


def test_the_baseline_is_the_week_before_without_anything_unusual() -> None:
    """Whole quarters of an hour, before the event and without a second of a storm or a shift. What a customer can edit,
    such as maintenance, leaves nothing out: it could leave out what the backup has on other days."""
    told = events(
        [storm(600.5, 700), storm(100, 160, "storm-2", witness="")],
        [span(300, 330), span(600.5, 720)],
        [Excluded(at(400), at(410), "a drill")],
        CoverTerms(),
        MONTH,
        at(10**4),
    )
    week = 7 * 24 * 60
    expected = (span(615 - week, 90), span(165, 300), span(330, 600))
    assert told[1][0].baseline == expected


def test_reasons_say_what_was_cut() -> None:
    def reasons(**kw: Any) -> tuple[str, ...]:
        terms = CoverTerms(**{k: kw.pop(k) for k in list(kw) if k.endswith("seconds")})
        told = {"shifts": [span(5, 60)], "excluded": []} | kw
        _, [event] = events([storm(0, 30)], told["shifts"], told["excluded"], terms, MONTH, at(10**4))
        return event.reasons

    assert reasons() == ("shift seen 2026-03-01T00:05:00Z",)
    assert reasons(waiting_seconds=1800) == ("not longer than the waiting time of 1800 s",)
    assert reasons(shifts=[]) == ("no shift of ours was seen in DNS",)
    assert "the policy year's aggregate is used up" in reasons(aggregate_seconds=60)
    assert "a drill" in reasons(excluded=[Excluded(at(10), at(11), "a drill")])
    assert "a drill" not in reasons(excluded=[Excluded(at(100), at(110), "a drill")])


# --- against a second way that asks every second ------------------------------------------------------------------------


def told(line: Timeline, **changes: Any) -> list[Paid]:
    """What the code says of a timeline, in the oracle's words."""

    def moment(second: int) -> datetime:
        return T0 + timedelta(seconds=second)

    def seconds(since: datetime) -> int:
        return (since - T0) // timedelta(seconds=1)

    line = line._replace(**changes)
    storms = [
        storm(
            0, 0, f"storm-{n}", attribution="cdn_fault" if s.is_paid else "origin_fault", last_bad_at=moment(s.last_bad),
            spells=tuple((moment(a), None if b is None else moment(b)) for a, b in s.spells),
        )
        for n, s in enumerate(line.storms)
    ]  # fmt: skip
    terms = CoverTerms(**line.terms | {"waiting_mode": WaitingMode(line.terms["waiting_mode"])})
    shifts = [Interval(moment(a), moment(b)) for a, b in line.shifts]
    excluded = [Excluded(moment(a), moment(b), "maintenance") for a, b in line.excluded]
    period = Interval(*map(moment, line.period))
    _, found = events(storms, shifts, excluded, terms, period, moment(line.as_of))

    def as_paid(event: Event) -> Paid:
        inside = [second for i in event.spans for second in range(seconds(i.start), seconds(i.end))]
        baseline = sum((i.length for i in event.baseline), timedelta(0)) // timedelta(seconds=1)
        return Paid(seconds(event.start), seconds(event.end), tuple(inside), baseline)

    return [as_paid(event) for event in found]


@pytest.mark.parametrize("part", range(PARTS))
def test_every_second_is_what_the_second_way_says(part: int) -> None:
    size = CASES // PARTS
    for number in range(part * size, (part + 1) * size):
        line = timeline(Random(number))
        assert told(line) == oracle.paid_seconds(*line), f"timeline {number}"


def test_an_event_across_months_pays_each_second_once_wherever_the_month_ends() -> None:
    """Two periods together are one run over both; what the first one used of an aggregate, the second one has no more."""
    for number in range(CASES):
        dice = Random(number)
        line = timeline(dice)
        cut = dice.choice([dice.randint(0, line.size), dice.randrange(0, line.size, 900)])
        whole = told(line, period=(0, line.size))
        first = told(line, period=(0, cut))
        used, left = sum(len(event.seconds) for event in first), line.terms["aggregate_seconds"]
        terms = line.terms if left is None else line.terms | {"aggregate_seconds": left - used}
        second = told(line, period=(cut, line.size), terms=terms)
        assert _all(first) + _all(second) == _all(whole), f"timeline {number}"
        baselines = {event.start: event.baseline for event in whole}
        assert all(baselines[event.start] == event.baseline for event in (*first, *second)), f"timeline {number}"


def _all(found: list[Paid]) -> list[int]:
    return [second for event in found for second in event.seconds]


def test_order_and_pieces_change_nothing() -> None:
    for number in range(CASES // 3):
        dice = Random(number)
        line = timeline(dice)
        pieces = []
        for start, end in line.shifts:
            middle = dice.randint(start, end)
            pieces += [(start, middle), (middle, end)]
        shuffled = {
            "storms": tuple(dice.sample(line.storms, len(line.storms))),
            "shifts": tuple(dice.sample(pieces, len(pieces))),
            "excluded": tuple(dice.sample(line.excluded, len(line.excluded))),
        }
        assert told(line, **shuffled) == told(line), f"timeline {number}"


# --- covered bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backup", "primary", "normal", "expected"),
    [
        ({"a": 100}, 0, (0, 0), {"a": (100, 100)}),  # no traffic before: nothing was normal
        ({"a": 100}, 0, (0, 50), {"a": (100, 100)}),
        ({"a": 100}, 0, (5, 100), {"a": (100, 95)}),
        ({"a": 100}, 100, (5, 100), {"a": (100, 90)}),  # 5 % of all 200 were to be expected
        ({"a": 10}, 190, (5, 100), {"a": (10, 0)}),
        ({"a": 9}, 191, (5, 100), {"a": (9, 0)}),  # below normal: none, and no debt
        ({"a": 60, "b": 40}, 0, (1, 4), {"a": (60, 45), "b": (40, 30)}),
        ({"a": 1, "b": 2}, 0, (1, 3), {"a": (1, 0), "b": (2, 1)}),  # whole bytes, rounded down
        ({"a": Fraction(7, 2)}, 0, (0, 0), {"a": (3, 3)}),
        ({"a": 0}, 100, (0, 0), {"a": (0, 0)}),
        ({}, 100, (0, 0), {}),
        ({"a": 100}, 0, (100, 100), {"a": (100, 0)}),
    ],
)
def test_what_is_above_the_normal_share(
    backup: dict[str, Any], primary: int, normal: tuple[int, int], expected: dict[str, tuple[int, int]]
) -> None:
    sizes = {cdn: Fraction(size) for cdn, size in backup.items()}
    everything = sum(sizes.values(), Fraction(primary))
    assert covered_bytes(Measured(sizes, everything, Fraction(normal[0]), Fraction(normal[1]))) == expected


def test_covered_bytes_are_exact_however_large() -> None:
    """Against integers alone: above = (b·N − n·e) / N, of which each CDN has its part, rounded down once."""
    for number in range(CASES):
        dice = Random(number)
        sizes = [dice.choice([0, 1, dice.randrange(10**18)]) for _ in range(dice.randint(1, 3))]
        everything = sum(sizes) + dice.choice([0, dice.randrange(10**18)])
        whole = dice.choice([0, 1, dice.randrange(1, 10**18)])
        normal = dice.randint(0, whole)
        measured = Measured(
            {str(n): Fraction(size) for n, size in enumerate(sizes)}, Fraction(everything), Fraction(normal), Fraction(whole)
        )  # fmt: skip
        total, over = sum(sizes), max(sum(sizes) * (whole or 1) - normal * everything, 0)
        expected = {
            str(n): (size, over * size // (total * (whole or 1)) if total else 0) for n, size in enumerate(sizes)
        }
        assert covered_bytes(measured) == expected, number
        assert all(0 <= covered <= size for size, covered in expected.values())
