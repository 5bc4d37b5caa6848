"""Every state of the vantage points: 3 of them over primary × backup × witness, 5 over the primary, as specified.

The oracle counts votes by hand and knows nothing of windows, regions or reasons.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.outcomes import Outcome
from storms import cases
from storms.cases import Case, Path
from storms.detector import Action, Attribution
from storms.verdicts import Policy, Seen, VantagePoint, Window, window

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = Policy()
UP, DOWN, UNKNOWN = "UP", "DOWN", "UNKNOWN"
STATES = (UP, DOWN, UNKNOWN)
WEAK = "DOWN by three failures"
NEEDED = {2: 2, 3: 2, 4: 3, 5: 4, 6: 4, 7: 5}
"""Votes of so many points: both of 2, n−1 of 3 to 5, n−2 of 6 and more."""


def seen(state: str) -> Window:
    """Two minutes at ten seconds, through the real window: all good, all bad for the last 60 s or 25 s, or nothing."""
    if state == UNKNOWN:
        return Window()
    bad_from = NOW - timedelta(seconds=25 if state == WEAK else 60)
    samples = [
        Seen(at, Outcome.HTTP_5XX if state in (DOWN, WEAK) and at >= bad_from else Outcome.OK, 80.0)
        for at in (NOW - timedelta(seconds=2 + 10 * n) for n in range(11, -1, -1))
    ]
    return window(samples, POLICY, NOW)


SEEN = {state: seen(state) for state in (*STATES, WEAK)}


def decide(
    primary: Sequence[str], backup: Sequence[str], witness: Sequence[str] | None = None
) -> tuple[Action, Attribution, set[str]]:
    points = tuple(VantagePoint(f"v{n}", "eu", f"AS{n}") for n in range(len(primary)))
    votes = [("primary", primary), ("backup", backup), *([("origin", witness)] if witness else [])]
    paths = tuple(
        Path(number, role, {point.name: SEEN[state] for point, state in zip(points, states, strict=True)})
        for number, (role, states) in enumerate(votes, 1)
    )
    case = Case(POLICY, NOW, points, (paths,))
    decision = cases.decide(case, cases.views(case))
    return decision.action, decision.attribution, {finding.kind.value for finding in decision.findings}


def verdict(states: Sequence[str]) -> str:
    for said in (DOWN, UP):
        if list(states).count(said) >= NEEDED[len(states)]:
            return said
    return "DEGRADED" if DOWN in states else UNKNOWN


def expected(primary: str, backup: str, witness: str | None) -> tuple[Action, Attribution]:
    """A storm only where the primary is DOWN, the origin is not, and something beside the primary is UP."""
    if primary != DOWN or witness == DOWN or backup == DOWN:
        return Action.NOTHING, Attribution.NONE
    if backup == UP:
        return Action.OPEN, Attribution.CDN_FAULT if witness == UP else Attribution.UNPROVEN
    if backup == "DEGRADED" and witness == UP:
        return Action.OPEN, Attribution.CDN_FAULT
    return Action.NOTHING, Attribution.NONE


@pytest.mark.parametrize("witness", ["none", *itertools.product(STATES, repeat=3)], ids="".join)
def test_every_state_of_three_points(witness: str | tuple[str, ...]) -> None:
    """729 states of primary and backup, without a witness and with each of its 27: 20,412 rows."""
    states = None if isinstance(witness, str) else witness
    for primary in itertools.product(STATES, repeat=3):
        for backup in itertools.product(STATES, repeat=3):
            action, attribution, findings = decide(primary, backup, states)
            wanted = expected(verdict(primary), verdict(backup), verdict(states) if states else None)
            assert (action, attribution) == wanted, (primary, backup, states)
            origin_fault = verdict(primary) == DOWN and (
                verdict(backup) == DOWN or (states is not None and verdict(states) == DOWN)
            )
            assert ("origin_fault" in findings) is origin_fault, (primary, backup, states)
            unfit = verdict(backup) == DOWN and not origin_fault
            assert ("backup_unfit" in findings) is unfit, (primary, backup, states)


@pytest.mark.parametrize("count", [2, 4, 5, 6])
def test_every_state_of_so_many_points(count: int) -> None:
    for primary in itertools.product(STATES, repeat=count):
        action, attribution, _ = decide(primary, [UP] * count, [UP] * count)
        storm = verdict(primary) == DOWN
        assert (action is Action.OPEN, attribution is Attribution.CDN_FAULT) == (storm, storm), primary


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_who_is_contradicted_needs_twice_the_failures(count: int) -> None:
    """Every state of so many points that fail a little, fail, do not fail, or say nothing."""
    for primary in itertools.product((*STATES, WEAK), repeat=count):
        action, _, _ = decide(primary, [UP] * count, [UP] * count)
        down = primary.count(DOWN) + (0 if UP in primary else primary.count(WEAK))
        assert (action is Action.OPEN) is (down >= NEEDED[count]), primary


@given(st.integers(2, 7), st.data())
def test_an_extra_up_never_causes_a_storm(count: int, data: st.DataObject) -> None:
    states = st.lists(st.sampled_from(STATES), min_size=count, max_size=count)
    primary, backup, witness = data.draw(states), data.draw(states), data.draw(states)
    changed = data.draw(st.integers(0, count - 1))
    more = [UP if n == changed else state for n, state in enumerate(primary)]
    if decide(more, backup, witness)[0] is Action.OPEN:
        assert decide(primary, backup, witness)[0] is Action.OPEN


@given(st.integers(2, 7), st.data())
def test_an_extra_down_of_the_backup_or_the_witness_never_causes_one_either(count: int, data: st.DataObject) -> None:
    states = st.lists(st.sampled_from(STATES), min_size=count, max_size=count)
    primary, backup = data.draw(states), data.draw(states)
    changed = data.draw(st.integers(0, count - 1))
    more = [DOWN if n == changed else state for n, state in enumerate(backup)]
    if decide(primary, more, None)[0] is Action.OPEN:
        assert decide(primary, backup, None)[0] is Action.OPEN


def test_one_point_alone_counts_only_where_the_policy_says_one() -> None:
    case = Case(
        Policy(min_vantages=1), NOW, (VantagePoint("v0", "eu", "AS0"),),
        ((Path(1, "primary", {"v0": SEEN[DOWN]}), Path(2, "backup", {"v0": SEEN[UP]})),),
    )  # fmt: skip
    assert cases.decide(case, cases.views(case)).action is Action.OPEN
    assert decide([DOWN], [UP])[0] is Action.NOTHING
