from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from services import partitions, samples
from services.models import ProbeSample
from services.outcomes import Outcome
from services.samples import Row

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ROW = Row(
    slot_at=NOON,
    target_id=1,
    vantage_point_id=2,
    attempt=0,
    at=NOON + timedelta(milliseconds=3),
    customer_id=4,
    service_id=5,
    outcome="ok",
    status=200,
    dns_ms=0.5,
    connect_ms=1.25,
    tls_ms=2.5,
    first_byte_ms=3.75,
    total_ms=8.0,
    certificate_expires_at=NOON + timedelta(days=90),
    certificate_issuer="C = US, O = Example, CN = CA",
    protocol="HTTP/1.1",
    remote_address="192.0.2.1",
    reason="",
    is_blind=False,
    is_late=True,
    in_maintenance=True,
)


def rows(count: int, **kw: Any) -> list[Row]:
    return [replace(ROW, slot_at=NOON + timedelta(seconds=10 * n), **kw) for n in range(count)]


def count() -> int:
    return ProbeSample.objects.count()


@pytest.mark.django_db
def test_every_field_comes_back() -> None:
    samples.write([ROW])
    assert ProbeSample.objects.values(*(ROW.__slots__)).get() == {name: getattr(ROW, name) for name in ROW.__slots__}


@pytest.mark.django_db
def test_what_was_not_reached_is_null() -> None:
    nothing = dict.fromkeys(
        (
            "customer_id", "service_id", "status", "dns_ms", "connect_ms", "tls_ms", "first_byte_ms", "total_ms",
            "certificate_expires_at", "remote_address",
        )
    )  # fmt: skip
    samples.write([replace(ROW, outcome="connect", reason="refused", is_blind=True, **nothing)])
    stored = ProbeSample.objects.get()
    assert all(getattr(stored, name) is None for name in nothing)
    assert (stored.outcome, stored.reason, stored.is_blind) == ("connect", "refused", True)


@pytest.mark.django_db
@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_fits(outcome: Outcome) -> None:
    samples.write([replace(ROW, outcome=outcome.value)])
    assert ProbeSample.objects.get().outcome == outcome


@pytest.mark.django_db
@pytest.mark.parametrize(
    "reason",
    ["tab\there", "line\nbreak", "back\\slash \\N \\.", "“quotes” 'and' \"more\"", "\\.", "\r\n", "🌩", "x" * 5000],
)
def test_a_reason_survives_copy(reason: str) -> None:
    samples.write([replace(ROW, reason=reason)])
    assert ProbeSample.objects.get().reason == reason


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::1"])
def test_both_families_of_addresses(address: str) -> None:
    samples.write([replace(ROW, remote_address=address)])
    assert ProbeSample.objects.get().remote_address == address


@pytest.mark.django_db
def test_nothing_to_write_is_no_query() -> None:
    with CaptureQueriesContext(connection) as queries:
        samples.write([])
    assert not queries.captured_queries


@pytest.mark.django_db
def test_a_batch_is_one_copy() -> None:
    samples.write(rows(1000))
    assert count() == 1000


@pytest.mark.django_db
def test_a_batch_written_twice_adds_nothing_and_changes_nothing() -> None:
    samples.write(rows(10))
    samples.write(rows(10, outcome="http_5xx", status=500))
    assert count() == ProbeSample.objects.filter(outcome="ok", status=200).count() == 10


@pytest.mark.django_db
def test_a_partly_known_batch_keeps_the_rest() -> None:
    samples.write(rows(10)[3:5])
    samples.write(rows(10, reason="second"))
    assert count() == 10
    assert ProbeSample.objects.filter(reason="second").count() == 8


@pytest.mark.django_db
def test_a_batch_that_repeats_itself_keeps_the_first() -> None:
    samples.write([replace(ROW, reason="first"), replace(ROW, reason="second"), *rows(3)[1:]])
    assert count() == 3
    assert ProbeSample.objects.get(slot_at=NOON).reason == "first"


@pytest.mark.django_db
def test_each_part_of_the_key_tells_rows_apart() -> None:
    samples.write([ROW])
    for part in ("target_id", "vantage_point_id", "attempt"):
        samples.write([replace(ROW, **{part: getattr(ROW, part) + 1})])
    samples.write([replace(ROW, slot_at=NOON + timedelta(microseconds=1))])
    samples.write([replace(ROW, at=NOON + timedelta(seconds=5), outcome="tls")])
    assert count() == 5


@pytest.mark.django_db
def test_two_partly_known_batches_follow_each_other_in_one_transaction() -> None:
    with transaction.atomic():
        samples.write(rows(2))
        samples.write(rows(3))
    with transaction.atomic():
        samples.write(rows(4))
    assert count() == 4


@pytest.mark.django_db
@pytest.mark.parametrize(
    "bad",
    [
        {"reason": "cut\x00here"},
        {"reason": "surrogate \udcff"},
        {"outcome": "much too long an outcome"},
        {"status": 100_000},
        {"remote_address": "not an address"},
        {"remote_address": "fe80::1%eth0"},
    ],
)
def test_a_row_that_postgres_can_t_hold_costs_no_other(bad: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    batch = rows(20)
    batch[7] = replace(batch[7], **bad)
    samples.write(batch)
    assert count() == 19
    assert not ProbeSample.objects.filter(slot_at=batch[7].slot_at).exists()
    assert "dropped" in caplog.text


@pytest.mark.django_db
def test_a_row_that_can_t_be_held_among_known_ones() -> None:
    samples.write(rows(5))
    samples.write([*rows(10), replace(ROW, attempt=1, reason="\x00")])
    assert count() == 10


@pytest.mark.django_db
def test_a_row_that_breaks_another_rule_is_an_error_and_not_swallowed() -> None:
    with pytest.raises(IntegrityError):
        samples.write([replace(ROW, outcome=None)])  # type: ignore[arg-type]


@pytest.mark.django_db
def test_copys_errors_are_djangos() -> None:
    """The prober waits for Postgres by catching Django's errors; psycopg's own would get past it."""
    with pytest.raises(DataError), transaction.atomic():
        samples._copy("probe_samples", [replace(ROW, reason="\x00")])


@pytest.mark.django_db(transaction=True)
def test_a_connection_that_dies_under_copy_is_djangos_error_too() -> None:
    errors: list[BaseException] = []

    def write() -> None:
        try:
            samples.write([ROW])
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE probe_samples IN ACCESS EXCLUSIVE MODE")
        writer = threading.Thread(target=write)
        writer.start()
        killed = False
        while not killed:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks"
                " WHERE relation = 'probe_samples'::regclass AND NOT granted"
            )
            killed = bool(cursor.fetchall())
        writer.join(10)
    assert [type(error) for error in errors] == [OperationalError]
    assert count() == 0


@pytest.mark.django_db
def test_rows_land_in_the_partition_of_their_day() -> None:
    partitions.maintain(NOON)
    midnight = datetime(2026, 11, 24, tzinfo=UTC)
    moments = {
        NOON: "probe_samples_20261123",
        midnight - timedelta(microseconds=1): "probe_samples_20261123",
        midnight: "probe_samples_20261124",
        NOON + timedelta(days=3): "probe_samples_20261126",
        NOON + timedelta(days=4): "probe_samples_default",
        NOON - timedelta(days=1): "probe_samples_default",
    }
    samples.write([replace(ROW, slot_at=moment) for moment in moments])
    with connection.cursor() as cursor:
        cursor.execute("SELECT slot_at, tableoid::regclass::text FROM probe_samples")
        assert dict(cursor.fetchall()) == moments


@pytest.mark.django_db
def test_duplicates_are_found_across_partitions() -> None:
    partitions.maintain(NOON)
    batch = [replace(ROW, slot_at=NOON + timedelta(days=day)) for day in range(-1, 6)]
    samples.write(batch[2:4])
    samples.write(batch)
    assert count() == 7


@pytest.mark.django_db(transaction=True)
def test_two_recorders_of_the_same_rows_get_each_row_once() -> None:
    barrier, errors = threading.Barrier(2), []

    def write(reason: str) -> None:
        try:
            for n in range(10):
                barrier.wait(10)
                samples.write(rows(30, target_id=n, reason=reason))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    writers = [threading.Thread(target=write, args=(name,)) for name in ("one", "other")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert count() == 300
