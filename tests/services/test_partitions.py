from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from services import partitions, samples
from services.models import ProbeSample
from tests.services.test_samples import ROW

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AHEAD = [f"probe_samples_202611{day}" for day in (23, 24, 25, 26)]


def record(*moments: datetime) -> None:
    samples.write([replace(ROW, slot_at=moment) for moment in moments])


def where() -> dict[datetime, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT slot_at, tableoid::regclass::text FROM probe_samples")
        return dict(cursor.fetchall())


def tables() -> list[str]:
    return sorted(partitions._table(day) for day in partitions._existing())


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    """For tests that commit: what they made is dropped."""
    yield
    with connection.cursor() as cursor:
        for name in tables():
            cursor.execute(f"DROP TABLE {name}")


@pytest.mark.django_db
def test_today_and_the_next_three_days_are_made() -> None:
    assert partitions.maintain(NOON) == (AHEAD, [])
    assert tables() == AHEAD


@pytest.mark.django_db
def test_the_second_run_has_nothing_to_do() -> None:
    partitions.maintain(NOON)
    assert partitions.maintain(NOON + timedelta(hours=11)) == ([], [])


@pytest.mark.django_db
def test_the_next_day_makes_one_more() -> None:
    partitions.maintain(NOON)
    assert partitions.maintain(NOON + DAY) == (["probe_samples_20261127"], [])


@pytest.mark.django_db
def test_a_day_is_a_day_in_utc() -> None:
    east = datetime(2026, 11, 24, 1, tzinfo=timezone(timedelta(hours=2)))  # 23:00 of the 23rd
    assert partitions.maintain(east)[0][0] == "probe_samples_20261123"


@pytest.mark.django_db
def test_years_and_months_turn() -> None:
    made, _ = partitions.maintain(datetime(2027, 12, 30, tzinfo=UTC))
    assert [name[-8:] for name in made] == ["20271230", "20271231", "20280101", "20280102"]


@pytest.mark.django_db
def test_old_days_are_dropped_with_their_rows(settings: Any) -> None:
    settings.SAMPLE_DAYS_KEPT = 2
    partitions.maintain(NOON)
    record(NOON, NOON + DAY, NOON + 2 * DAY)
    _, dropped = partitions.maintain(NOON + 2 * DAY)
    assert dropped == []
    assert ProbeSample.objects.count() == 3
    _, dropped = partitions.maintain(NOON + 4 * DAY)
    assert dropped == ["probe_samples_20261123", "probe_samples_20261124"]
    assert set(where()) == {NOON + 2 * DAY}


@pytest.mark.django_db
def test_old_rows_in_the_default_partition_go_too(settings: Any) -> None:
    """A day that never got its partition is not kept for ever."""
    settings.SAMPLE_DAYS_KEPT = 2
    oldest = datetime(2026, 11, 21, tzinfo=UTC)
    record(NOON - 30 * DAY, oldest - timedelta(microseconds=1), oldest, NOON - DAY)
    partitions.maintain(NOON)
    assert sorted(where()) == [oldest, NOON - DAY]


@pytest.mark.django_db
def test_rows_of_the_default_partition_move_into_the_new_one() -> None:
    midnight = datetime(2026, 11, 24, tzinfo=UTC)
    moments = [NOON, midnight - timedelta(microseconds=1), midnight, NOON + 3 * DAY, NOON + 4 * DAY, NOON - DAY]
    record(*moments)
    assert set(where().values()) == {"probe_samples_default"}
    partitions.maintain(NOON)
    names = [AHEAD[0], AHEAD[0], AHEAD[1], AHEAD[3], "probe_samples_default", "probe_samples_default"]
    assert where() == dict(zip(moments, names, strict=True))


@pytest.mark.django_db
def test_moved_rows_are_unchanged_and_still_refuse_duplicates() -> None:
    samples.write([ROW])
    before = ProbeSample.objects.values().get()
    partitions.maintain(NOON)
    assert ProbeSample.objects.values().get() == before
    samples.write([ROW, replace(ROW, attempt=1)])
    assert ProbeSample.objects.count() == 2


@pytest.mark.django_db
def test_a_new_partition_has_the_indexes_of_the_table() -> None:
    partitions.maintain(NOON)
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = %s", [AHEAD[0]])
        definitions = [row[0] for row in cursor.fetchall()]
        # Children of the parent's own indexes, not copies beside them.
        cursor.execute(
            "SELECT count(*) FROM pg_inherits i JOIN pg_index x ON x.indexrelid = i.inhrelid"
            " WHERE x.indrelid = %s::regclass",
            [AHEAD[0]],
        )
        assert cursor.fetchone() == (3,)
    assert len(definitions) == 3
    assert any("(slot_at, target_id, vantage_point_id, attempt)" in text for text in definitions)
    assert any("(service_id, slot_at)" in text for text in definitions)


@pytest.mark.django_db
def test_reading_a_window_looks_at_its_day_alone() -> None:
    partitions.maintain(NOON)
    plan = ProbeSample.objects.filter(slot_at__gt=NOON, slot_at__lt=NOON + timedelta(hours=1)).explain()
    assert AHEAD[0] in plan
    assert AHEAD[1] not in plan and "probe_samples_default" not in plan


def test_two_runs_at_once(committed: None) -> None:
    record(*(NOON + n * DAY for n in range(4)))
    barrier, results, errors = threading.Barrier(4), [], []

    def run() -> None:
        try:
            barrier.wait(10)
            results.append(partitions.maintain(NOON))
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
    assert sorted(made for made, _ in results) == [[], [], [], AHEAD]
    assert list(where().values()) == AHEAD


def test_samples_that_arrive_meanwhile_are_not_lost(committed: None) -> None:
    """The prober goes on recording, into the default partition, while the day's own is made. A batch that was routed to
    the default partition and finds the day's own there meanwhile is refused, and written again."""
    done, errors, written, refused = threading.Event(), [], [], []

    def keep_recording() -> None:
        try:
            while not done.is_set():
                moment = NOON + timedelta(milliseconds=len(written))
                try:
                    samples.write([replace(ROW, slot_at=moment)])
                except IntegrityError as error:
                    assert "probe_samples_default" in str(error)
                    refused.append(moment)
                else:
                    written.append(moment)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    recorder = threading.Thread(target=keep_recording)
    recorder.start()
    while len(written) < 50:
        assert not errors
        time.sleep(0.001)
    made, _ = partitions.maintain(NOON)
    so_far = len(written)
    while len(written) < so_far + 50 and not errors:
        time.sleep(0.001)
    done.set()
    recorder.join()
    assert (made, errors) == (AHEAD, [])
    assert set(where()) == set(written)
    assert len(refused) <= 1
    assert set(where().values()) == {AHEAD[0]}


def test_a_run_that_fails_half_way_leaves_nothing(committed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    make, calls = partitions._make, []

    def fail_at_the_third(cursor: Any, day: Any) -> None:
        calls.append(day)
        if len(calls) == 3:
            raise RuntimeError("stop")
        make(cursor, day)

    record(NOON)
    monkeypatch.setattr(partitions, "_make", fail_at_the_third)
    with pytest.raises(RuntimeError):
        partitions.maintain(NOON)
    assert tables() == []
    assert where() == {NOON: "probe_samples_default"}
    monkeypatch.setattr(partitions, "_make", make)
    assert partitions.maintain(NOON) == (AHEAD, [])


def test_a_long_read_makes_the_run_fail_rather_than_the_recording_wait(
    committed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    partitions.maintain(NOON)
    reading, done = threading.Event(), threading.Event()

    def read() -> None:
        with transaction.atomic():
            ProbeSample.objects.count()
            reading.set()
            done.wait(20)
        connection.close()

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(10)
    monkeypatch.setattr(partitions, "LOCK_PATIENCE", "200ms")
    try:
        with pytest.raises(Exception, match="lock timeout"):
            partitions.maintain(NOON + DAY)
        record(NOON)
    finally:
        done.set()
        reader.join()
    assert partitions.maintain(NOON + DAY) == (["probe_samples_20261127"], [])
