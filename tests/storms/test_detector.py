"""The detector as a table: votes, quorum, attribution, and one storm's life."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storms import detector, verdicts
from storms.detector import Action, Attribution, DomainView, FindingKind, Storm
from storms.verdicts import PathView, Policy, VantagePoint, Verdict, Window

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = Policy()
UP, DEGRADED, DOWN, UNKNOWN = Verdict.UP, Verdict.DEGRADED, Verdict.DOWN, Verdict.UNKNOWN


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def points(count: int) -> list[VantagePoint]:
    return [VantagePoint(f"v{n}", "eu", f"AS{n}") for n in range(count)]


def window(
    good: int = 0, bad: int = 0, *, newest: float = 1, fault: str = "http_5xx", run: int = 0, blind: bool = False
) -> Window:
    return Window(
        good, bad, newest_at=ago(newest), newest_good_at=ago(newest) if good else None,
        bad_since=ago(newest + 5) if bad else None, good_run=run, good_run_started_at=ago(newest + 10 * run) if run else None,
        bad_outcomes={fault: bad} if bad else {}, is_blind=blind,
    )  # fmt: skip


GOOD, BAD = window(6, run=10), window(0, 6)
SEEN_AS = {UP: GOOD, DOWN: BAD, UNKNOWN: Window()}


def path(
    target: int,
    verdict: Verdict,
    fault: str = "http_5xx",
    since: datetime | None = None,
    proven: float | None = 1,
    bad_since: float = 5,
) -> PathView:
    """A path as the votes left it: its newest good quorum `proven` seconds ago, its trouble since `bad_since` seconds."""
    is_down = verdict is DOWN
    return PathView(
        target, verdict, "why", {}, ("eu",) if is_down else (), main_fault=fault if is_down else "",
        bad_since=ago(bad_since) if is_down else None,
        proven_at=ago(proven) if proven is not None and verdict in (UP, DEGRADED) else None, good_since=since,
    )  # fmt: skip


# --- one vote -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (window(6), UP),
        (window(0, 6), DOWN),
        (window(54, 6), UP),  # exactly 0.9: the threshold is strict
        (window(53, 7), DOWN),
        (window(10, 2), DEGRADED),  # below the threshold, but not enough failures
        (window(9, 3), DOWN),
        (window(5), UNKNOWN),  # too few to judge
        (window(2, 3), UNKNOWN),
        (window(6, newest=30), UP),
        (window(6, newest=30.001), UNKNOWN),  # older than three intervals
        (window(0, 6, blind=True), UNKNOWN),
        (Window(), UNKNOWN),
    ],
)
def test_vote(seen: Window, verdict: Verdict) -> None:
    assert verdicts.vote(seen, POLICY, NOW) is verdict


def test_threshold_is_exact_where_a_float_would_not_be() -> None:
    policy = Policy(threshold_avail=Decimal("0.7"), min_failures=1)
    assert verdicts.vote(window(7, 3), policy, NOW) is UP


# --- quorum ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("configured", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (6, 4), (7, 5), (9, 7)])
def test_quorum(configured: int, needed: int) -> None:
    assert verdicts.quorum(configured) == needed


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_combination_of_votes(count: int) -> None:
    """n−1 of 3 to 5, both of 2: counted here by hand, over every state of every vantage point."""
    needed = {2: 2, 3: 2, 4: 3, 5: 4}[count]
    for votes in itertools.product((UP, DOWN, UNKNOWN), repeat=count):
        windows = {f"v{n}": SEEN_AS[vote] for n, vote in enumerate(votes)}
        seen = verdicts.view(1, windows, points(count), POLICY, NOW).verdict
        if votes.count(DOWN) >= needed:
            assert seen is DOWN, votes
        elif votes.count(UP) >= needed:
            assert seen is UP, votes
        elif DOWN in votes:
            assert seen is DEGRADED, votes
        else:
            assert seen is UNKNOWN, votes


def test_a_blind_point_is_a_missing_vote_never_a_smaller_quorum() -> None:
    windows = {"v0": BAD, "v1": window(0, 6, blind=True), "v2": window(0, 6, blind=True)}
    assert verdicts.view(1, windows, points(3), POLICY, NOW).verdict is DEGRADED


def test_votes_must_come_from_distinct_networks() -> None:
    same = [VantagePoint("a", "eu", "AS1"), VantagePoint("b", "eu", "AS1")]
    windows = {"a": BAD, "b": BAD}
    assert verdicts.view(1, windows, same, POLICY, NOW).verdict is DEGRADED
    assert verdicts.view(1, windows, same, Policy(min_vantages=1), NOW).verdict is DOWN


def test_one_vantage_point_alone_never_says_down_unless_the_policy_says_one() -> None:
    assert verdicts.view(1, {"v0": BAD}, points(1), POLICY, NOW).verdict is DEGRADED
    assert verdicts.view(1, {"v0": BAD}, points(1), Policy(min_vantages=1), NOW).verdict is DOWN


def test_one_region_that_is_down_is_enough_and_all_must_be_up() -> None:
    everywhere = [VantagePoint(f"{r}{n}", r, f"AS{n}") for r in ("eu", "us") for n in (1, 2)]
    view = verdicts.view(1, {"eu1": GOOD, "eu2": GOOD, "us1": BAD, "us2": BAD}, everywhere, POLICY, NOW)
    assert (view.verdict, view.down_regions) == (DOWN, ("us",))
    assert verdicts.view(1, {"eu1": GOOD, "eu2": GOOD}, everywhere, POLICY, NOW).verdict is UNKNOWN


@given(votes=st.lists(st.sampled_from([UP, DOWN, UNKNOWN]), min_size=2, max_size=7), index=st.integers(0, 6))
def test_an_extra_up_never_brings_a_storm(votes: list[Verdict], index: int) -> None:
    index %= len(votes)
    better = [*votes[:index], UP, *votes[index + 1 :]]

    def verdict(ballots: list[Verdict]) -> Verdict:
        windows = {f"v{n}": SEEN_AS[ballot] for n, ballot in enumerate(ballots)}
        return verdicts.view(1, windows, points(len(ballots)), POLICY, NOW).verdict

    if verdict(votes) is not DOWN:
        assert verdict(better) is not DOWN


# --- attribution ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "backup", "witness", "attribution"),
    [
        (path(1, DOWN), path(2, UP), path(3, UP), Attribution.CDN_FAULT),
        (path(1, DOWN, "edge_error"), path(2, UP), path(3, UP), Attribution.EDGE_TO_ORIGIN),
        (path(1, DOWN), path(2, UP), None, Attribution.UNPROVEN),
        (path(1, DOWN), path(2, UP), path(3, UNKNOWN), Attribution.UNPROVEN),
        (path(1, DOWN), path(2, UP), path(3, DOWN), Attribution.ORIGIN_FAULT),
        (path(1, DOWN), path(2, DOWN), path(3, DOWN), Attribution.ORIGIN_FAULT),
        (path(1, DOWN), path(2, DOWN), path(3, UP), Attribution.ORIGIN_FAULT),
        (path(1, DOWN), path(2, DOWN), None, Attribution.ORIGIN_FAULT),
        # a lapsed certificate on the backup is the backup's own fault
        (path(1, DOWN), path(2, DOWN, "tls"), path(3, UP), Attribution.CDN_FAULT),
        (path(1, DOWN, "tls"), path(2, DOWN, "tls"), path(3, UP), Attribution.ORIGIN_FAULT),
        (path(1, DOWN), path(2, UNKNOWN), path(3, UP), Attribution.NONE),
        (path(1, DOWN), path(2, DEGRADED), path(3, UP), Attribution.CDN_FAULT),
        (path(1, UP), path(2, DOWN), path(3, UP), Attribution.NONE),
        (path(1, DEGRADED), path(2, UP), path(3, UP), Attribution.NONE),
        (path(1, UNKNOWN), path(2, UP), path(3, UP), Attribution.NONE),
    ],
)
def test_attribution(primary: PathView, backup: PathView, witness: PathView | None, attribution: Attribution) -> None:
    assert detector.attribute(DomainView(primary, (backup,), witness))[0] is attribution


def test_what_other_paths_answered_before_the_trouble_says_nothing_about_it() -> None:
    """The origin dies: the primary's edge says 502 at once, while the probes of backup and witness still hang."""
    waiting = DomainView(path(1, DOWN, bad_since=5), (path(2, UP, proven=9),), path(3, UP, proven=9))
    assert detector.attribute(waiting)[0] is Attribution.NONE
    backup_answers = DomainView(path(1, DOWN, bad_since=5), (path(2, UP, proven=4),), path(3, UP, proven=9))
    assert detector.attribute(backup_answers)[0] is Attribution.UNPROVEN
    both_answer = DomainView(path(1, DOWN, bad_since=5), (path(2, UP, proven=4),), path(3, UP, proven=4))
    assert detector.attribute(both_answer)[0] is Attribution.CDN_FAULT
    spoiled = path(2, DOWN, "tls")
    assert detector.attribute(DomainView(path(1, DOWN), (spoiled,), path(3, UP, proven=9)))[0] is Attribution.NONE


def test_a_quorum_must_have_answered_since() -> None:
    def seen(*ages: float) -> datetime | None:
        windows = {f"v{n}": window(6, newest=age) for n, age in enumerate(ages)}
        return verdicts.view(1, windows, points(3), POLICY, NOW).proven_at

    assert seen(1, 2, 9) == ago(2)
    assert seen(1) is None


def test_up_needs_the_same_distinct_networks_as_down() -> None:
    same = [VantagePoint("a", "eu", "AS1"), VantagePoint("b", "eu", "AS1")]
    assert verdicts.view(1, {"a": GOOD, "b": GOOD}, same, POLICY, NOW).verdict is UNKNOWN


def test_a_domain_without_a_backup_opens_nothing() -> None:
    assert detector.attribute(DomainView(path(1, DOWN), (), path(3, UP)))[0] is Attribution.NONE


@pytest.mark.parametrize("primary, backup, witness", itertools.product(Verdict, Verdict, [*Verdict, None]))
def test_nothing_but_a_primary_that_is_down_beside_something_that_is_up_opens_a_storm(
    primary: Verdict, backup: Verdict, witness: Verdict | None
) -> None:
    domain = DomainView(path(1, primary), (path(2, backup),), path(3, witness) if witness else None)
    opens = detector.decide(POLICY, NOW, [domain], None, None).action is Action.OPEN
    beside = backup is UP or (backup is DEGRADED and witness is UP)
    assert opens == (primary is DOWN and beside and witness is not DOWN)


def test_findings_say_what_is_no_storm() -> None:
    unfit = DomainView(path(1, UP), (path(2, DOWN, "tls"),))
    origin = DomainView(path(1, DOWN), (path(2, DOWN),))
    assert [f.kind for f in detector.decide(POLICY, NOW, [unfit], None, None).findings] == [FindingKind.BACKUP_UNFIT]
    assert [f.kind for f in detector.decide(POLICY, NOW, [origin], None, None).findings] == [FindingKind.ORIGIN_FAULT]


# --- the life of a storm --------------------------------------------------------------------------------------------

FAILING = DomainView(path(1, DOWN), (path(2, UP),), path(3, UP))
RAGING = Storm(started_at=ago(1000), last_bad_at=ago(5))


def healed(since: datetime | None) -> DomainView:
    return DomainView(path(1, UP, since=since), (path(2, UP),), path(3, UP))


def decide(
    domain: DomainView, current: Storm | None = None, previous: Storm | None = None, policy: Policy = POLICY
) -> Action:
    return detector.decide(policy, NOW, [domain], current, previous).action


def test_it_opens_rages_ends_and_closes() -> None:
    assert decide(FAILING) is Action.OPEN
    assert decide(FAILING, RAGING) is Action.RAGE
    assert decide(healed(None), RAGING) is Action.NOTHING  # up, but not long enough in a row
    ended = detector.decide(POLICY, NOW, [healed(ago(100))], RAGING, None)
    assert (ended.action, ended.at) == (Action.END, ago(100))
    quiet = Storm(ago(1000), last_bad_at=ago(301), ended_at=ago(320))
    assert decide(healed(ago(320)), quiet) is Action.CLOSE


def test_it_never_ends_before_it_began() -> None:
    storm = Storm(started_at=ago(60), last_bad_at=ago(5))
    assert detector.decide(POLICY, NOW, [healed(ago(90))], storm, None).at == ago(60)


@pytest.mark.parametrize(
    ("storm", "policy"),
    [
        (Storm(ago(1000), last_bad_at=ago(299), ended_at=ago(320)), POLICY),  # the cooldown
        (Storm(ago(599), last_bad_at=ago(400), ended_at=ago(400)), POLICY),  # the minimum length
        (Storm(ago(5000), last_bad_at=ago(500), ended_at=ago(599), relapses=1), POLICY),  # the hold-off
        (Storm(ago(5000), last_bad_at=ago(500), ended_at=ago(1199), relapses=2), POLICY),  # which doubles
    ],
)
def test_it_does_not_close_before(storm: Storm, policy: Policy) -> None:
    assert decide(healed(ago(300)), storm, policy=policy) is Action.NOTHING


def test_holdoff_doubles_up_to_its_maximum() -> None:
    assert [POLICY.holdoff(n).total_seconds() for n in range(5)] == [600, 1200, 2400, 3600, 3600]


def test_a_relapse_is_the_same_storm() -> None:
    waiting = Storm(ago(1000), last_bad_at=ago(100), ended_at=ago(120))
    assert decide(FAILING, waiting) is Action.RELAPSE
    closed = Storm(ago(2000), last_bad_at=ago(900), ended_at=ago(900), closed_at=ago(605))
    assert decide(FAILING, None, closed) is Action.REOPEN
    long_gone = Storm(ago(5000), last_bad_at=ago(900), ended_at=ago(900), closed_at=ago(606))
    assert decide(FAILING, None, long_gone) is Action.OPEN


@pytest.mark.parametrize("verdict", [UNKNOWN, DEGRADED])
def test_doubt_neither_opens_nor_ends_nor_closes(verdict: Verdict) -> None:
    doubtful = DomainView(path(1, verdict, since=ago(500)), (path(2, UP),), path(3, UP))
    over = Storm(ago(5000), last_bad_at=ago(4000), ended_at=ago(4000))
    assert decide(doubtful) is Action.NOTHING
    assert decide(doubtful, RAGING) in (Action.NOTHING, Action.RAGE)
    assert decide(doubtful, over) in (Action.NOTHING, Action.RAGE)


def test_a_service_is_as_bad_as_its_worst_domain() -> None:
    decision = detector.decide(POLICY, NOW, [healed(ago(100)), FAILING], None, None)
    assert (decision.action, decision.down_targets) == (Action.OPEN, (1,))
    assert detector.decide(POLICY, NOW, [healed(ago(100)), healed(None)], RAGING, None).action is Action.NOTHING


# --- where it began -------------------------------------------------------------------------------------------------


def series(text: str) -> list[tuple[datetime, bool]]:
    """“g” good, “b” bad, one a second; the last is now."""
    return [(ago(len(text) - 1 - n), letter == "b") for n, letter in enumerate(text)]


@pytest.mark.parametrize(
    ("one", "other", "seconds_ago"),
    [
        ("gggbbb", "ggggbb", 2),
        ("ggbgbbb", "gggggggg", 4),  # one good sample in between is not a recovery
        ("b" + 10 * "g" + "bb", "", 1),  # ten in a row are
        ("b" + 9 * "g" + "bb", "", 11),
    ],
)
def test_start_is_the_first_bad_sample_of_the_run(one: str, other: str, seconds_ago: int) -> None:
    assert detector.storm_start({"a": series(one), "b": series(other)}) == ago(seconds_ago)


def test_start_is_never_before_the_last_storms_end() -> None:
    assert detector.storm_start({"a": series("bbbbbb")}, not_before=ago(2)) == ago(2)


# --- facets -----------------------------------------------------------------------------------------------------------

SEVERITY = (UP, UNKNOWN, DEGRADED, DOWN)


@pytest.mark.parametrize("main", SEVERITY)
@pytest.mark.parametrize("facet", SEVERITY)
def test_past_the_cache_counts_as_much_as_the_cache(main: Verdict, facet: Verdict) -> None:
    view = verdicts.combined(path(1, main), path(11, facet), None)
    assert view.verdict is max(main, facet, key=SEVERITY.index)
    assert view.target == 1
    worst = [target for target, verdict in ((1, main), (11, facet)) if verdict is view.verdict]
    assert list(view.culprits) == worst


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "verdict", "alone"),
    [
        (UP, UP, UP, ""), (UP, UNKNOWN, UP, ""), (UP, DEGRADED, UP, ""), (UP, DOWN, UP, "IPv6 alone fails"),
        (DOWN, UP, DEGRADED, "IPv4 alone fails"), (DOWN, DOWN, DOWN, ""), (DOWN, UNKNOWN, DOWN, ""), (DOWN, DEGRADED, DOWN, ""),
        (DEGRADED, DOWN, DEGRADED, "IPv6 alone fails"), (UNKNOWN, DOWN, UNKNOWN, "IPv6 alone fails"),
        (UNKNOWN, UP, UNKNOWN, ""),
    ],
)  # fmt: skip
def test_one_family_alone_is_a_finding_and_no_storm(ipv4: Verdict, ipv6: Verdict, verdict: Verdict, alone: str) -> None:
    view = verdicts.combined(path(1, ipv4), None, path(16, ipv6))
    assert view.verdict is verdict
    assert view.one_family.startswith(alone) and bool(view.one_family) is bool(alone)
    assert bool(view.down_regions) is (verdict is DOWN)
    decision = detector.decide(POLICY, NOW, [DomainView(view, (path(2, UP),), path(3, UP))], None, None)
    assert (decision.action is Action.OPEN) is (verdict is DOWN)
    assert (FindingKind.ONE_FAMILY in {finding.kind for finding in decision.findings}) is bool(alone)


def test_without_facets_a_path_is_what_it_is() -> None:
    view = path(1, DOWN)
    assert verdicts.combined(view, None, None) is view


def test_a_cache_hit_beside_a_dead_origin_is_no_fault_of_the_cdn() -> None:
    """The primary's cache is cold and the backup's is warm: asked past both caches, both fail."""
    primary = verdicts.combined(path(1, DOWN), path(11, DOWN), None)
    warm = path(2, UP)
    assert detector.attribute(DomainView(primary, (warm,), None))[0] is Attribution.UNPROVEN, "as it looked before"
    backup = verdicts.combined(warm, path(12, DOWN), None)
    assert detector.attribute(DomainView(primary, (backup,), None))[0] is Attribution.ORIGIN_FAULT


def test_an_edge_that_cannot_reach_its_origin_is_a_storm_though_its_cache_answers() -> None:
    primary = verdicts.combined(path(1, UP), path(11, DOWN, "edge_error"), None)
    backup = verdicts.combined(path(2, UP), path(12, UP), None)
    attribution, _ = detector.attribute(DomainView(primary, (backup,), path(3, UP)))
    assert attribution is Attribution.EDGE_TO_ORIGIN
    decision = detector.decide(POLICY, NOW, [DomainView(primary, (backup,), path(3, UP))], None, None)
    assert (decision.action, decision.down_targets) == (Action.OPEN, (1,))
    assert "past the cache" in decision.reason


def test_a_storm_ends_only_when_both_looks_are_good() -> None:
    storm = Storm(ago(600), ago(60))
    for uncacheable, ends in ((path(11, UP, since=ago(40)), True), (path(11, UP), False), (path(11, DEGRADED), False)):
        primary = verdicts.combined(path(1, UP, since=ago(50)), uncacheable, None)
        decision = detector.decide(POLICY, NOW, [DomainView(primary, (path(2, UP),))], storm, None)
        assert (decision.action is Action.END) is ends
        assert not ends or decision.at == ago(40)


@pytest.mark.parametrize(
    ("days", "found"),
    [(None, ""), (21, ""), (20.99, "expires on 2026-03-22, in less than 21 days"), (-1, "expired on 2026-02-28")],
)
def test_a_certificate_that_is_about_to_lapse_is_found_on_every_path(days: float | None, found: str) -> None:
    expiry = None if days is None else NOW + timedelta(days=days)
    views = [replace(path(n, UP), certificate_expires_at=expiry) for n in (1, 2)]
    decision = detector.decide(POLICY, NOW, [DomainView(views[0], (views[1],))], None, None)
    reasons = {f.target: f.reason for f in decision.findings if f.kind is FindingKind.CERTIFICATE}
    assert set(reasons) == ({1, 2} if found else set())
    assert all(found in reason for reason in reasons.values())
