from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings, strategies

from services import availability, partitions, rollups, samples
from services.models import ProbeSample, SampleHour, SampleMinute
from services.outcomes import BAD, SET_ASIDE, Outcome
from services.rollups import MINUTE, roll_up
from services.samples import Row
from tests.services.test_samples import ROW

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
FIELDS = [field.attname for field in SampleMinute._meta.concrete_fields if field.attname != "pk"]


def sample(offset: float = 0, **kw: Any) -> Row:
    """A sample so many seconds after noon."""
    return replace(ROW, **{"slot_at": NOON + offset * SECOND} | kw)


def minutes() -> list[dict[str, Any]]:
    return [*SampleMinute.objects.order_by("minute_at", "target_id", "vantage_point_id").values(*FIELDS)]


def only() -> SampleMinute:
    return SampleMinute.objects.get()


def oracle(rows: list[Row], until: datetime) -> list[dict[str, Any]]:
    """The minutes, counted in Python, one sample after the other."""
    groups: dict[tuple[datetime, int, int], list[Row]] = defaultdict(list)
    for row in rows:
        minute = row.slot_at.replace(second=0, microsecond=0)
        if minute < until:
            groups[minute, row.target_id, row.vantage_point_id].append(row)
    counted = []
    for (minute, target, point), group in sorted(groups.items()):
        seeing = [row for row in group if not row.is_blind]
        times = [row.total_ms for row in seeing if row.outcome == "ok" and row.total_ms is not None]
        expiries = [row.certificate_expires_at for row in seeing if row.certificate_expires_at]
        ranked = sorted((Outcome(row.outcome) for row in seeing), key=rollups.WORST_FIRST.index)
        counted.append(
            {
                "minute_at": minute, "target_id": target, "vantage_point_id": point, "customer_id": ROW.customer_id,
                "service_id": ROW.service_id,
                "good": sum(row.outcome == "ok" for row in seeing),
                "bad": sum(row.outcome in BAD for row in seeing),
                "set_aside": sum(row.outcome in SET_ASIDE for row in seeing),
                "blind": len(group) - len(seeing),
                "total_ms_sum": sum(times), "total_ms_max": max(times, default=None), "count_ms": len(times),
                "worst_outcome": ranked[0].value if ranked else "",
                "certificate_expires_at": min(expiries, default=None),
            }
        )  # fmt: skip
    return counted


some_sample = strategies.builds(
    lambda offset, ms, expiry, **kw: sample(
        offset, total_ms=ms, certificate_expires_at=None if expiry is None else NOON + expiry * DAY, **kw
    ),
    strategies.integers(0, 6 * 60 - 1).map(float) | strategies.sampled_from([59.999999, 60.0, 119.999999]),
    strategies.none() | strategies.integers(0, 5000).map(float),  # whole, so that sums don't depend on their order
    strategies.none() | strategies.integers(1, 90),
    target_id=strategies.integers(1, 2),
    vantage_point_id=strategies.integers(1, 2),
    attempt=strategies.integers(0, 2),
    outcome=strategies.sampled_from([outcome.value for outcome in Outcome]),
    is_blind=strategies.booleans(),
)


def _key(row: Row) -> Any:
    return row.slot_at, row.target_id, row.vantage_point_id, row.attempt


@pytest.mark.django_db
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=strategies.lists(some_sample, max_size=60, unique_by=_key), now=strategies.integers(0, 8 * 60))
def test_the_minutes_are_what_counting_one_by_one_gives(rows: list[Row], now: int) -> None:
    until = (NOON + now * SECOND).replace(second=0)
    with transaction.atomic():
        samples.write(rows)
        expected = oracle(rows, until)
        assert roll_up(NOON + now * SECOND) == len(expected)
        assert minutes() == expected
        assert roll_up(NOON + now * SECOND) == 0
        assert minutes() == expected
        roll_up(NOON + timedelta(minutes=8))
        assert minutes() == oracle(rows, NOON + timedelta(minutes=8))
        transaction.set_rollback(True)


def test_every_outcome_has_its_rank() -> None:
    assert set(rollups.WORST_FIRST) == set(Outcome)
    ranks = {outcome: rank for rank, outcome in enumerate(rollups.WORST_FIRST)}
    assert max(ranks[outcome] for outcome in BAD) < min(ranks[outcome] for outcome in SET_ASIDE) < ranks[Outcome.OK]


@pytest.mark.django_db
def test_nothing_seen_is_nothing_written() -> None:
    assert roll_up(NOON) == 0
    assert minutes() == []


@pytest.mark.django_db
def test_a_minute_waits_until_it_is_over() -> None:
    samples.write([sample(0), sample(59)])
    assert roll_up(NOON + 59 * SECOND) == 0
    assert roll_up(NOON + 60 * SECOND) == 1
    assert only().good == 2


@pytest.mark.django_db
@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_blind_sample_counts_as_blind_alone(outcome: Outcome) -> None:
    samples.write([sample(outcome=outcome.value, is_blind=True)])
    roll_up(NOON + MINUTE)
    row = only()
    assert (row.good, row.bad, row.set_aside, row.blind) == (0, 0, 0, 1)
    assert (row.count_ms, row.total_ms_sum, row.total_ms_max) == (0, 0, None)
    assert (row.worst_outcome, row.certificate_expires_at) == ("", None)


@pytest.mark.django_db
def test_latency_is_that_of_good_samples() -> None:
    samples.write([sample(0, total_ms=10.0), sample(1, total_ms=30.0), sample(2, total_ms=5000.0, outcome="timeout")])
    roll_up(NOON + MINUTE)
    row = only()
    assert (row.total_ms_sum, row.total_ms_max, row.count_ms, row.worst_outcome) == (40, 30, 2, "timeout")


@pytest.mark.django_db
def test_a_late_sample_of_the_newest_minutes_is_counted_and_an_older_one_is_not() -> None:
    samples.write([sample(60 * n) for n in range(5)])
    roll_up(NOON + 5 * MINUTE)
    samples.write([sample(60 * n + 1, outcome="tls") for n in range(5)])
    assert roll_up(NOON + 5 * MINUTE + 30 * SECOND) == rollups.LATE_MINUTES
    assert [row["bad"] for row in minutes()] == [0, 0, 1, 1, 1]


@pytest.mark.django_db
def test_samples_that_come_very_late_are_counted_when_they_are_told_of() -> None:
    """Postgres was away for ten minutes: fresh samples are counted first, then what waited on disk, file by file."""
    everything = [sample(60 * n + 10 * k) for n in range(30) for k in range(6)]
    before, away, after = everything[: 6 * 10], everything[6 * 10 : 6 * 20], everything[6 * 20 :]
    now = NOON + timedelta(minutes=30)
    samples.write(before[:-6])
    roll_up(NOON + timedelta(minutes=9))
    samples.write([*before[-6:], *after])
    for part in (away[:25], away[25:]):
        late = [replace(row, is_late=True) for row in part]
        samples.write(late)
        rollups.count_again(late[0].slot_at, late[-1].slot_at, now)
    roll_up(now)
    assert minutes() == oracle(everything, now)


@pytest.mark.django_db
def test_a_minute_that_is_not_over_is_not_counted_again_either() -> None:
    samples.write([sample(0), sample(70)])
    now = NOON + timedelta(seconds=80)
    rollups.count_again(NOON, NOON + timedelta(seconds=70), now)
    assert minutes() == oracle([sample(0)], now)


@pytest.mark.django_db
def test_the_newest_minutes_are_counted_again_while_others_follow() -> None:
    samples.write([sample(0), sample(60)])
    roll_up(NOON + 2 * MINUTE)
    samples.write([sample(61), sample(120)])
    roll_up(NOON + 3 * MINUTE)
    assert [row["good"] for row in minutes()] == [1, 2, 1]


@pytest.mark.django_db
def test_a_run_takes_an_hour_at_most_and_the_next_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows = [sample(60 * n) for n in range(150)]
    samples.write(rows)
    now = NOON + 150 * MINUTE
    written = []
    while count := roll_up(now):
        written.append(count)
    assert written == [60, 57, 33]
    assert minutes() == oracle(rows, now)
    assert "counted to 2026-11-23T13:00:00+00:00, at most 90 minutes to go" in caplog.text


@pytest.mark.django_db
@pytest.mark.parametrize("gap", [56, 57, 58, 59, 60, 61, 62, 63, 64, 5000])
def test_a_time_without_samples_is_leapt_over(gap: int) -> None:
    samples.write([sample(0), sample(60 * gap)])
    now = NOON + (gap + 1) * MINUTE
    assert [roll_up(now), roll_up(now), roll_up(now)] == ([1, 1, 0] if gap >= 60 else [2, 0, 0])
    assert SampleMinute.objects.count() == 2


@pytest.mark.django_db
def test_an_hour_that_only_knows_nothing_does_not_stop_it() -> None:
    samples.write([*(sample(60 * n, outcome="unknown") for n in range(70)), sample(70 * 60)])
    for _ in range(3):
        roll_up(NOON + 71 * MINUTE)
    assert SampleMinute.objects.count() == 71
    assert SampleMinute.objects.get(good=1).minute_at == NOON + 70 * MINUTE


@pytest.mark.django_db
def test_a_run_is_a_handful_of_statements() -> None:
    samples.write([sample(n, target_id=n % 7) for n in range(300)])
    with CaptureQueriesContext(connection) as queries:
        roll_up(NOON + 10 * MINUTE)
    assert len([q for q in queries.captured_queries if "SAVEPOINT" not in q["sql"]]) == 4


# --- partitions ----------------------------------------------------------------------------------------------------


def where() -> dict[datetime, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT minute_at, tableoid::regclass::text FROM sample_minutes")
        return dict(cursor.fetchall())


@pytest.mark.django_db
def test_this_month_and_the_next_are_made_once() -> None:
    assert partitions.maintain_months(NOON) == (["sample_minutes_202611", "sample_minutes_202612"], [])
    assert partitions.maintain_months(NOON + 7 * DAY) == ([], [])
    assert partitions.maintain_months(NOON + 8 * DAY) == (["sample_minutes_202701"], [])


@pytest.mark.django_db
def test_minutes_on_both_sides_of_the_months_turn() -> None:
    turn = datetime(2026, 12, 1, tzinfo=UTC)
    partitions.maintain_months(NOON)
    rows = [replace(ROW, slot_at=turn + n * SECOND) for n in (-61, -1, 0, 59, 60)]
    samples.write(rows)
    roll_up(turn + 2 * MINUTE)
    assert minutes() == oracle(rows, turn + 2 * MINUTE)
    assert where() == {
        turn - 2 * MINUTE: "sample_minutes_202611",
        turn - MINUTE: "sample_minutes_202611",
        turn: "sample_minutes_202612",
        turn + MINUTE: "sample_minutes_202612",
    }


@pytest.mark.django_db
def test_minutes_of_the_default_partition_move_and_are_still_counted_again() -> None:
    samples.write([sample()])
    roll_up(NOON + MINUTE)
    assert where() == {NOON: "sample_minutes_default"}
    partitions.maintain_months(NOON)
    samples.write([sample(1)])
    assert roll_up(NOON + MINUTE) == 1
    assert where() == {NOON: "sample_minutes_202611"}
    assert only().good == 2


@pytest.mark.django_db
def test_a_month_goes_when_all_of_it_is_old(settings: Any) -> None:
    settings.ROLLUP_DAYS_KEPT = 40
    partitions.maintain_months(NOON)
    for moment in (NOON, NOON - 60 * DAY):  # the second in the default partition
        SampleMinute.objects.create(minute_at=moment, target_id=1, vantage_point_id=1)
    partitions.maintain_months(NOON)
    assert set(where()) == {NOON}
    assert partitions.maintain_months(datetime(2027, 1, 9, tzinfo=UTC))[1] == []
    assert partitions.maintain_months(datetime(2027, 1, 10, tzinfo=UTC))[1] == ["sample_minutes_202611"]
    assert where() == {}


# --- together ------------------------------------------------------------------------------------------------------


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    yield
    ProbeSample.objects.all().delete()
    SampleMinute.objects.all().delete()


def test_two_runs_at_once(committed: None) -> None:
    rows = [sample(n, target_id=n % 5) for n in range(1200)]
    samples.write(rows)
    barrier, results, errors = threading.Barrier(4), [], []

    def run() -> None:
        try:
            barrier.wait(10)
            results.append(roll_up(NOON + 20 * MINUTE))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(results) == [0, 0, 0, 100]
    assert minutes() == oracle(rows, NOON + 20 * MINUTE)


# --- hours ----------------------------------------------------------------------------------------------------------


def seen_in(target_id: int, at: datetime, good: int, bad: int = 0, point: int = 1) -> None:
    SampleMinute.objects.create(
        minute_at=at,
        target_id=target_id,
        vantage_point_id=point,
        good=good,
        bad=bad,
        total_ms_sum=10.0 * good,
        count_ms=good,
    )


def hours() -> dict[tuple[int, datetime], tuple[int, int]]:
    return {(row.target_id, row.hour_at): (row.good, row.bad) for row in SampleHour.objects.all()}


@pytest.mark.django_db
def test_an_hour_is_the_sum_of_its_minutes_once_it_is_over() -> None:
    hour = timedelta(hours=1)
    seen_in(1, NOON, 5, 1)
    seen_in(1, NOON + 59 * MINUTE, 6, point=2)
    seen_in(2, NOON + 10 * MINUTE, 1)
    seen_in(1, NOON + hour, 7)
    assert rollups.roll_up_hours(NOON + hour + 4 * MINUTE) == 0  # its last minutes may be counted again
    assert rollups.roll_up_hours(NOON + hour + 5 * MINUTE) == 2
    assert hours() == {(1, NOON): (11, 1), (2, NOON): (1, 0)}
    assert rollups.roll_up_hours(NOON + hour + 6 * MINUTE) == 0
    rollups.roll_up_hours(NOON + 2 * hour + 5 * MINUTE)
    assert hours()[1, NOON + hour] == (7, 0)


@pytest.mark.django_db
def test_hours_leap_over_times_without_minutes_and_take_a_day_a_run() -> None:
    for days in (0, 0.9, 3, 40):
        seen_in(1, NOON + timedelta(days=days), 1)
    now = NOON + timedelta(days=41)
    assert [rollups.roll_up_hours(now) for _ in range(4)] == [2, 1, 1, 0]


@pytest.mark.django_db
def test_minutes_that_come_late_change_their_hour() -> None:
    now = NOON + timedelta(hours=3)
    samples.write([sample(10 * n) for n in range(6)])
    roll_up(NOON + MINUTE)
    rollups.roll_up_hours(now)
    assert [good for good, _ in hours().values()] == [6]
    samples.write([sample(5), sample(30 * 60)])
    rollups.count_again(NOON, NOON + 30 * MINUTE, now)
    assert [good for good, _ in hours().values()] == [8]
    samples.write([sample(61 * 60)])
    rollups.count_again(NOON + timedelta(hours=1), NOON + timedelta(hours=1, minutes=2), now)
    assert len(hours()) == 1  # that one was not added up before
    rollups.roll_up_hours(now)
    assert [good for good, _ in hours().values()] == [8, 1]


@pytest.mark.django_db
@pytest.mark.parametrize("until", [None, 5, 30])
def test_a_series_by_hours_is_that_of_the_minutes(until: int | None) -> None:
    for n in range(0, 48 * 60, 37):
        seen_in(n % 2 + 1, NOON + n * MINUTE, n % 7, n % 3, point=n % 5)
    start, end = NOON - timedelta(hours=2), NOON + timedelta(hours=46)
    plain = availability.series([1, 2], start, end, 7200, apart=[99])
    assert plain
    for _ in range(3):
        if until is not None:
            rollups.roll_up_hours(NOON + timedelta(hours=until, minutes=10))
    assert availability.series([1, 2], start, end, 7200) == plain
