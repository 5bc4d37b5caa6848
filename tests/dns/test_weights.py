"""Plans, refusals and what a sample of answers proves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns import sampling, weights
from dns.weights import Failback, Health, Lane, Place, Plan, Refusal, Situation, Spread, Storm, Terms, Traffic

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TERMS = Terms(gate_seconds=60, failback_steps=(10, 50, 100))
UP = Lane("primary", Health.UP)
DOWN = Lane("primary", Health.DOWN)
BACKUP = Lane("backup-1", Health.UP)
HOME = {"primary": 100, "backup-1": 0}
AWAY = {"primary": 0, "backup-1": 100}
SETTLED = NOW - timedelta(seconds=121)  # 2 × TTL 30 + gate 60, and a second


PLACE = Place("www.shop.test", "shop.test", "", 30)
LEAVES = Plan(AWAY, "storm", 7, leaves_down_path=True)
GOES_HOME = Plan(HOME, "failback", is_reversal=True)
CALM = Traffic(domains_total=100, domains_moved_lately=0)


def percents(situation: Situation) -> dict[str, int]:
    return dict(weights.plan(situation, TERMS, NOW).percents)


def test_calm_leaves_everything_at_home() -> None:
    assert percents(Situation(UP, [BACKUP])) == HOME


def test_a_hard_storm_moves_all_in_one_step() -> None:
    plan = weights.plan(Situation(DOWN, [BACKUP], HOME, SETTLED, storm=Storm(7, False, 1.0)), TERMS, NOW)
    assert (dict(plan.percents), plan.storm_id, plan.leaves_down_path) == (AWAY, 7, True)
    assert "storm 7" in plan.reason


def test_a_partial_storm_moves_in_steps_with_gates() -> None:
    storm = Storm(7, False, 0.2)
    assert percents(Situation(DOWN, [BACKUP], HOME, None, storm=storm)) == {"primary": 90, "backup-1": 10}
    ten = {"primary": 90, "backup-1": 10}
    assert percents(Situation(DOWN, [BACKUP], ten, None, storm=storm)) == ten
    assert percents(Situation(DOWN, [BACKUP], ten, SETTLED, storm=storm)) == {"primary": 75, "backup-1": 25}


def test_a_partial_storm_that_becomes_a_whole_one_waits_for_no_gate() -> None:
    ten, partial = {"primary": 90, "backup-1": 10}, Storm(7, False, 0.2)
    whole = Lane("primary", Health.DOWN, share_bad=0.8)
    assert percents(Situation(whole, [BACKUP], ten, None, storm=partial)) == AWAY


def test_never_onto_a_backup_that_is_not_proven() -> None:
    unfit = Lane("backup-1", Health.UP, problem="its certificate has expired")
    plan = weights.plan(Situation(DOWN, [unfit], HOME, SETTLED, storm=Storm(7, False, 1.0)), TERMS, NOW)
    assert dict(plan.percents) == HOME
    assert "its certificate has expired" in plan.reason


def test_the_next_backup_is_taken_when_the_first_is_unfit() -> None:
    first, second = Lane("backup-1", Health.DOWN, problem="DOWN"), Lane("backup-2", Health.UP)
    situation = Situation(DOWN, [first, second], {"primary": 100}, SETTLED, storm=Storm(7, False, 1.0))
    assert percents(situation) == {"primary": 0, "backup-1": 0, "backup-2": 100}


def test_declared_capacity_overflows_to_the_next_backup_and_then_stays() -> None:
    small, smaller = Lane("backup-1", Health.UP, capacity_percent=60), Lane("backup-2", Health.UP, capacity_percent=30)
    situation = Situation(DOWN, [small, smaller], {"primary": 100}, SETTLED, storm=Storm(7, False, 1.0))
    assert percents(situation) == {"primary": 10, "backup-1": 60, "backup-2": 30}


def test_a_storm_that_is_over_moves_nothing_either_way() -> None:
    over = Storm(7, True, 0.0)
    assert percents(Situation(UP, [BACKUP], AWAY, SETTLED, storm=over)) == AWAY
    assert percents(Situation(UP, [BACKUP], HOME, SETTLED, storm=over)) == HOME


def test_a_backup_that_fails_is_left_for_a_primary_that_is_up() -> None:
    dead = Lane("backup-1", Health.DOWN, problem="DOWN")
    for storm in (None, Storm(7, True, 0.0), Storm(7, False, 1.0)):
        plan = weights.plan(Situation(UP, [dead], AWAY, None, storm=storm), TERMS, NOW)
        assert dict(plan.percents) == HOME
        assert plan.leaves_down_path


def test_a_backup_that_fails_is_left_for_another_without_waiting() -> None:
    dead, second = Lane("backup-1", Health.DOWN, problem="DOWN"), Lane("backup-2", Health.UP)
    there = {"primary": 0, "backup-1": 100, "backup-2": 0}
    plan = weights.plan(Situation(DOWN, [dead, second], there, None, storm=Storm(7, False, 0.2)), TERMS, NOW)
    assert dict(plan.percents) == {"primary": 0, "backup-1": 0, "backup-2": 100}
    assert plan.leaves_down_path


@pytest.mark.parametrize("health", [Health.UP, Health.UNKNOWN])
def test_a_storm_moves_nothing_further_while_the_primary_is_not_seen_failing(health: Health) -> None:
    raging = Storm(7, False, 1.0)
    for here in (HOME, {"primary": 90, "backup-1": 10}):
        assert percents(Situation(Lane("primary", health), [BACKUP], here, SETTLED, storm=raging)) == here


def test_failback_goes_in_steps_and_waits_for_the_gate() -> None:
    assert percents(Situation(UP, [BACKUP], AWAY, SETTLED)) == {"primary": 10, "backup-1": 90}
    ten = {"primary": 10, "backup-1": 90}
    early = NOW - timedelta(seconds=119)
    assert percents(Situation(UP, [BACKUP], ten, early)) == ten
    assert percents(Situation(UP, [BACKUP], ten, None)) == ten  # not observed yet
    assert percents(Situation(UP, [BACKUP], ten, SETTLED)) == {"primary": 50, "backup-1": 50}
    assert percents(Situation(UP, [BACKUP], {"primary": 50, "backup-1": 50}, SETTLED)) == HOME


@pytest.mark.parametrize("health", [Health.DOWN, Health.DEGRADED, Health.UNKNOWN])
def test_no_failback_into_a_primary_that_is_not_up(health: Health) -> None:
    assert percents(Situation(Lane("primary", health), [BACKUP], AWAY, SETTLED)) == AWAY


def test_only_the_first_step_home_is_a_reversal() -> None:
    first = weights.plan(Situation(UP, [BACKUP], AWAY, SETTLED), TERMS, NOW)
    second = weights.plan(
        Situation(UP, [BACKUP], {"primary": 10, "backup-1": 90}, SETTLED, heading_home=True), TERMS, NOW
    )
    assert (first.is_reversal, second.is_reversal) == (True, False)


def test_freeze_and_pin() -> None:
    storm = Storm(7, False, 1.0)
    assert percents(Situation(DOWN, [BACKUP], HOME, SETTLED, storm=storm, frozen="deploy")) == HOME
    assert percents(Situation(UP, [BACKUP], HOME, pinned_backup_percent=5)) == {"primary": 95, "backup-1": 5}
    assert percents(Situation(DOWN, [BACKUP], AWAY, SETTLED, storm=storm, pinned_backup_percent=0)) == HOME
    unfit = Lane("backup-1", Health.DOWN, problem="DOWN")
    assert percents(Situation(UP, [unfit], HOME, pinned_backup_percent=5)) == HOME


lanes = st.builds(
    Lane,
    key=st.just("x"),
    health=st.sampled_from(Health),
    problem=st.sampled_from(["", "unfit"]),
    capacity_percent=st.integers(0, 150),
    share_bad=st.floats(0, 1),
)
all_terms = st.builds(
    Terms,
    failback=st.sampled_from(Failback),
    is_window_open=st.booleans(),
    spread=st.sampled_from(Spread),
    standing_percent=st.integers(0, 5),
)


@given(data=st.data())
def test_every_plan_is_whole_and_never_moves_onto_an_unfit_backup(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 3))
    backups = []
    for n in range(count):
        drawn = data.draw(lanes)
        backups.append(Lane(f"backup-{n + 1}", drawn.health, drawn.problem, drawn.capacity_percent, drawn.share_bad))
    cuts = sorted(data.draw(st.lists(st.integers(0, 100), min_size=count, max_size=count)))
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    current = dict(zip(["primary", *(lane.key for lane in backups)], shares, strict=True))
    situation = Situation(
        Lane("primary", data.draw(st.sampled_from(Health))),
        backups,
        data.draw(st.sampled_from([{}, current])),
        data.draw(st.sampled_from([None, NOW, SETTLED])),
        storm=data.draw(st.none() | st.builds(Storm, st.just(1), st.booleans(), st.floats(0, 1))),
        pinned_backup_percent=data.draw(st.none() | st.integers(0, 100)),
        drill_percent=data.draw(st.sampled_from([0, 2])),
        frozen=data.draw(st.sampled_from(["", "deploy"])),
        blocked=data.draw(st.sampled_from(["", "blocked"])),
    )
    terms = data.draw(all_terms)
    plan = weights.plan(situation, terms, NOW)
    assert sum(plan.percents.values()) == 100
    assert all(percent >= 0 for percent in plan.percents.values())
    assert plan.reason
    here = situation.current or {"primary": 100}
    for lane in backups:
        if lane.problem:
            assert plan.percents[lane.key] <= max(here.get(lane.key, 0), 0), (lane, here, plan)
    assert weights.plan(situation, terms, NOW) == plan
    # Leaving a path that is down for one that is up waits for no budget, gate, window or approval.
    stuck = any(here.get(lane.key) and lane.health is Health.DOWN for lane in backups)
    free = situation.pinned_backup_percent is None and not situation.frozen
    if stuck and free and situation.primary.health is Health.UP:
        assert plan.leaves_down_path and plan.percents["primary"] >= 95
        assert weights.guard(plan, here, [PLACE], Traffic(100, 99, reversals_last_hour=9)) is None


# --- several backups, standing shares, drills ---------------------------------------------------------------------------

SECOND = Lane("backup-2", Health.UP)
HARD = Storm(7, False, 1.0)


def wanted(situation: Situation, terms: Terms) -> dict[str, int]:
    return dict(weights.plan(situation, terms, NOW).percents)


@pytest.mark.parametrize(
    ("capacities", "expected"),
    [
        ((100, 100), {"primary": 0, "backup-1": 50, "backup-2": 50}),
        ((100, 50), {"primary": 0, "backup-1": 67, "backup-2": 33}),
        ((30, 30), {"primary": 40, "backup-1": 30, "backup-2": 30}),
        ((1, 200), {"primary": 0, "backup-1": 1, "backup-2": 99}),
    ],
)
def test_backups_share_in_proportion_to_their_capacity(capacities: tuple[int, int], expected: dict[str, int]) -> None:
    backups = [Lane(f"backup-{n + 1}", Health.UP, capacity_percent=c) for n, c in enumerate(capacities)]
    situation = Situation(DOWN, backups, {"primary": 100}, SETTLED, storm=HARD)
    assert wanted(situation, Terms(spread=Spread.SHARE)) == expected


WARM = Terms(standing_percent=3)
KEPT_WARM = {"primary": 97, "backup-1": 3}


def test_a_standing_share_keeps_the_backup_warm_from_the_first_write_on() -> None:
    assert wanted(Situation(UP, [BACKUP]), WARM) == KEPT_WARM
    assert wanted(Situation(UP, [BACKUP], HOME, SETTLED), WARM) == KEPT_WARM
    assert wanted(Situation(UP, [BACKUP], KEPT_WARM, SETTLED), TERMS) == HOME, "and is taken back at once"


def test_a_standing_share_leaves_a_backup_that_is_down_and_stays_on_one_that_is_silent() -> None:
    down = Lane("backup-1", Health.DOWN, problem="DOWN")
    silent = Lane("backup-1", Health.UNKNOWN, problem="UNKNOWN")
    assert wanted(Situation(UP, [down], KEPT_WARM, SETTLED), WARM) == HOME
    assert wanted(Situation(UP, [silent], KEPT_WARM, SETTLED), WARM) == KEPT_WARM
    assert wanted(Situation(UP, [silent], HOME, SETTLED), WARM) == HOME


def test_a_standing_share_is_no_first_step_of_a_ramp() -> None:
    partial = Storm(7, False, 0.2)
    assert wanted(Situation(DOWN, [BACKUP], KEPT_WARM, None, storm=partial), WARM) == {"primary": 90, "backup-1": 10}


def test_failback_ends_at_the_standing_share() -> None:
    half = {"primary": 50, "backup-1": 50}
    assert wanted(Situation(UP, [BACKUP], half, SETTLED, heading_home=True), WARM) == KEPT_WARM


def test_a_drill_moves_its_percent_in_good_weather_only() -> None:
    drilled = {"primary": 98, "backup-1": 2}
    assert wanted(Situation(UP, [BACKUP], HOME, SETTLED, drill_percent=2), TERMS) == drilled
    assert wanted(Situation(UP, [BACKUP], drilled, SETTLED), TERMS) == HOME
    assert wanted(Situation(Lane("primary", Health.DEGRADED), [BACKUP], HOME, drill_percent=2), TERMS) == HOME
    assert wanted(Situation(DOWN, [BACKUP], HOME, SETTLED, storm=HARD, drill_percent=2), TERMS) == AWAY


def test_what_keeps_warm_and_what_rehearses_never_meets_the_radius() -> None:
    for situation in (
        Situation(UP, [BACKUP], HOME, drill_percent=5),
        Situation(UP, [BACKUP], HOME),
    ):
        plan = weights.plan(situation, Terms(standing_percent=5), NOW)
        assert plan.percents == {"primary": 95, "backup-1": 5}
        assert weights.guard(plan, HOME, [PLACE], Traffic(100, 99)) is None


# --- gates and ways home ------------------------------------------------------------------------------------------------


def test_a_ramp_waits_while_the_backup_fails_and_goes_on_when_it_is_well() -> None:
    ten, partial = {"primary": 90, "backup-1": 10}, Storm(7, False, 0.2)
    tired = Lane("backup-1", Health.UP, share_bad=0.05)
    plan = weights.plan(Situation(DOWN, [tired], ten, SETTLED, storm=partial), TERMS, NOW)
    assert dict(plan.percents) == ten and "5% of backup-1's samples are bad" in plan.reason
    assert percents(Situation(DOWN, [BACKUP], ten, SETTLED, storm=partial)) == {"primary": 75, "backup-1": 25}


def test_failback_waits_while_the_primary_still_fails_now_and_then() -> None:
    ten = {"primary": 10, "backup-1": 90}
    shaky = Lane("primary", Health.UP, share_bad=0.03)
    assert percents(Situation(shaky, [BACKUP], ten, SETTLED, heading_home=True)) == ten


def test_a_backup_that_worsens_is_left_for_a_primary_that_is_up_else_held() -> None:
    worse = Lane("backup-1", Health.DEGRADED, problem="DEGRADED", share_bad=0.15)
    for storm in (None, Storm(7, True, 0.0)):
        assert percents(Situation(UP, [worse], AWAY, None, storm=storm)) == HOME
    assert percents(Situation(DOWN, [worse], AWAY, None, storm=HARD)) == AWAY
    blip = Lane("backup-1", Health.DEGRADED, problem="DEGRADED", share_bad=0.05)
    assert percents(Situation(UP, [blip], AWAY, None, storm=Storm(7, True, 0.0))) == AWAY


def test_failback_in_its_window_begins_there_and_then_goes_on() -> None:
    shut = Terms(failback=Failback.WINDOW, is_window_open=False)
    ten = {"primary": 10, "backup-1": 90}
    assert wanted(Situation(UP, [BACKUP], AWAY, SETTLED), shut) == AWAY
    assert wanted(Situation(UP, [BACKUP], AWAY, SETTLED), Terms(failback=Failback.WINDOW)) == ten
    assert wanted(Situation(UP, [BACKUP], ten, SETTLED, heading_home=True), shut) == {"primary": 50, "backup-1": 50}


def test_failback_by_approval_waits_once_and_never_where_the_backup_is_down() -> None:
    terms = Terms(failback=Failback.APPROVAL)
    first = weights.plan(Situation(UP, [BACKUP], AWAY, SETTLED), terms, NOW)
    refused = weights.guard(first, AWAY, [PLACE], CALM)
    assert refused and refused[0] is Refusal.FAILBACK
    ten = {"primary": 10, "backup-1": 90}
    second = weights.plan(Situation(UP, [BACKUP], ten, SETTLED, heading_home=True), terms, NOW)
    assert weights.guard(second, ten, [PLACE], CALM) is None
    dead = Lane("backup-1", Health.DOWN, problem="DOWN")
    escape = weights.plan(Situation(UP, [dead], AWAY, SETTLED), terms, NOW)
    assert dict(escape.percents) == HOME and weights.guard(escape, AWAY, [PLACE], CALM) is None


# --- guard ----------------------------------------------------------------------------------------------------------


def refusal(plan: Plan, here: dict[str, int], place: Place = PLACE, traffic: Traffic = CALM) -> Refusal | None:
    verdict = weights.guard(plan, here, [place], traffic)
    return verdict[0] if verdict else None


def test_guard_lets_a_proper_move_pass() -> None:
    assert refusal(LEAVES, HOME) is None
    assert refusal(GOES_HOME, AWAY) is None


def test_guard_refuses_places_where_no_record_may_stand() -> None:
    assert refusal(LEAVES, HOME, Place("shop.test", "shop.test", "", 30)) is Refusal.APEX
    assert refusal(LEAVES, HOME, Place("www.shop.test", "shop.test", "it is not verified", 30)) is Refusal.UNPROVEN
    assert refusal(LEAVES, HOME, Place("www.shop.test", "shop.test", "", 86_400)) is Refusal.UNSAFE_TTL
    edited = Place("www.shop.test", "shop.test", "", 30, foreign="somebody edits it")
    assert refusal(LEAVES, HOME, edited) is Refusal.FOREIGN
    unarmed = Place("www.shop.test", "shop.test", "", 30, unarmed="ttl: 120 s")
    assert refusal(LEAVES, HOME, unarmed) is Refusal.NOT_ARMED
    assert refusal(LEAVES, HOME, Place("shop.test", "shop.test", "", 30, has_apex_form=True)) is None


@pytest.mark.parametrize(
    ("total", "moved", "refused"),
    [(20, 9, None), (20, 10, Refusal.BLAST_RADIUS), (100, 29, None), (100, 30, Refusal.BLAST_RADIUS), (5, 4, None)],
)
def test_blast_radius_is_thirty_percent_and_at_least_ten(total: int, moved: int, refused: Refusal | None) -> None:
    assert refusal(LEAVES, HOME, traffic=Traffic(total, moved)) is refused


def test_corroboration_lifts_the_radius_wave_by_wave() -> None:
    assert refusal(LEAVES, HOME, traffic=Traffic(100, 90, domains_moved_in_wave=29, corroborated=True)) is None
    full = Traffic(100, 90, domains_moved_in_wave=30, corroborated=True)
    assert refusal(LEAVES, HOME, traffic=full) is Refusal.BLAST_RADIUS


def test_a_persons_pin_and_going_home_never_meet_the_radius() -> None:
    pinned = weights.plan(Situation(UP, [BACKUP], HOME, pinned_backup_percent=100), TERMS, NOW)
    assert refusal(pinned, HOME, traffic=Traffic(100, 90)) is None
    assert refusal(GOES_HOME, AWAY, traffic=Traffic(100, 90)) is None


def test_reversals_are_limited_but_protection_is_not() -> None:
    busy = Traffic(100, 0, reversals_last_hour=2)
    assert refusal(GOES_HOME, AWAY, traffic=busy) is Refusal.REVERSALS
    escape = Plan(HOME, "the backup is down", is_reversal=True, leaves_down_path=True)
    assert refusal(escape, AWAY, traffic=busy) is None
    assert refusal(LEAVES, HOME, traffic=busy) is None


# --- what answers prove ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "answers", "fits"),
    [
        (HOME, {"primary": 59}, True),
        (HOME, {"primary": 58, "backup-1": 1}, False),  # one leak is enough
        (AWAY, {"backup-1": 59}, True),
        (AWAY, {"elsewhere.test": 59}, False),
        ({"primary": 50, "backup-1": 50}, {"primary": 30, "backup-1": 29}, True),
        ({"primary": 50, "backup-1": 50}, {"primary": 59}, False),
        ({"primary": 10, "backup-1": 90}, {"primary": 3, "backup-1": 56}, True),
        ({"primary": 10, "backup-1": 90}, {"primary": 30, "backup-1": 29}, False),
    ],
)
def test_consistent(wanted: dict[str, int], answers: dict[str, int], fits: bool) -> None:
    assert (sampling.consistent(wanted, answers) is None) == fits


def test_wilson_interval_of_the_textbook() -> None:
    low, high = sampling.wilson(45, 50, z=1.96)
    assert (round(low, 3), round(high, 3)) == (0.786, 0.957)


def test_diff_names_what_would_change() -> None:
    assert weights.diff(AWAY, HOME) == {"backup-1": (0, 100), "primary": (100, 0)}
    assert weights.diff(HOME, {"primary": 100}) == {}


# --- what a person must decide, and what a person decided -------------------------------------------------------------

BLOCKED = "Edgeline refuses probes of several customers"


def test_refused_probes_bring_a_plan_that_a_person_must_agree_to() -> None:
    plan = weights.plan(Situation(UP, [BACKUP], HOME, blocked=BLOCKED), TERMS, NOW)
    assert plan.percents == AWAY and plan.needs_person and plan.needs_person[0] is Refusal.BLOCKED
    refused = weights.guard(plan, HOME, [], Traffic(domains_total=1000, domains_moved_lately=0))
    assert refused and refused[0] is Refusal.BLOCKED and "visitors" in refused[1]


def test_refused_probes_never_end_what_was_agreed_to() -> None:
    plan = weights.plan(Situation(UP, [BACKUP], AWAY, SETTLED, blocked=BLOCKED), TERMS, NOW)
    assert (plan.percents, plan.needs_person) == (AWAY, None)
    assert percents(Situation(UP, [BACKUP], AWAY, SETTLED)) != AWAY  # without the incident it comes home


def test_refused_probes_move_nothing_onto_an_unfit_backup() -> None:
    unfit = Lane("backup-1", Health.UNKNOWN, problem="UNKNOWN")
    assert percents(Situation(UP, [unfit], HOME, blocked=BLOCKED)) == HOME


def test_a_storm_goes_before_refused_probes() -> None:
    storm = Storm(7, False, 1.0)
    plan = weights.plan(Situation(DOWN, [BACKUP], HOME, storm=storm, blocked=BLOCKED), TERMS, NOW)
    assert (plan.percents, plan.needs_person, plan.storm_id) == (AWAY, None, 7)


@pytest.mark.parametrize("health", Health)
def test_a_storm_by_hand_moves_at_once_whatever_the_probes_say(health: Health) -> None:
    situation = Situation(Lane("primary", health), [BACKUP], HOME, storm=Storm(7, False, 0.0, is_manual=True))
    plan = weights.plan(situation, TERMS, NOW)
    assert (plan.percents, plan.is_persons) == (AWAY, True)


def test_a_storm_by_hand_moves_nothing_onto_an_unfit_backup() -> None:
    unfit = Lane("backup-1", Health.DOWN, problem="DOWN")
    assert percents(Situation(UP, [unfit], HOME, storm=Storm(7, False, 0.0, is_manual=True))) == HOME
