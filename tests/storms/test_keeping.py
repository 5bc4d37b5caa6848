"""Raw samples that stay with their storm when the partition of their day is gone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from services import partitions
from services.models import Target, VantagePoint
from storms.keeping import AROUND, LATE, STEP, keep_samples
from storms.models import StormEvent, StormSample
from tests import factories
from tests.samples import record, times

pytestmark = pytest.mark.django_db

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def path() -> Target:
    return factories.target()


@pytest.fixture
def point() -> VantagePoint:
    return factories.vantage_point()


def storm_of(target: Target, **kw: object) -> StormEvent:
    assert target.domain
    times_ = {"started_at": START, "ended_at": START + 30 * MINUTE, "closed_at": START + 40 * MINUTE}
    return factories.storm(**{"service": target.domain.service, "cdn": target.cdn} | times_ | kw)


def kept(storm: StormEvent, targets: Iterable[Target]) -> list[datetime]:
    found = StormSample.objects.filter(storm=storm, target_id__in=[target.pk for target in targets])
    return sorted(found.values_list("slot_at", flat=True))


def test_an_hour_before_to_an_hour_after_is_kept_once_it_is_settled(path: Target, point: VantagePoint) -> None:
    storm = storm_of(path)
    record([path], [point], times(START - 2 * HOUR, START + 3 * HOUR, 60))
    assert keep_samples(START + 30 * MINUTE + AROUND + LATE - MINUTE) == 0
    assert keep_samples(START + 30 * MINUTE + AROUND + LATE) == 150
    slots = kept(storm, [path])
    assert (slots[0], slots[-1]) == (START - HOUR + MINUTE, START + 90 * MINUTE)
    assert keep_samples(START + 9 * HOUR) == 0


def test_the_copies_are_whole_and_outlive_their_partition(path: Target, point: VantagePoint) -> None:
    storm = storm_of(path)
    partitions.maintain(START)
    record([path], [point], [START], "http_5xx")
    keep_samples(START + 5 * HOUR)
    partitions.maintain(START + timedelta(days=30))
    (row,) = StormSample.objects.filter(storm=storm)
    assert (row.outcome, row.status, row.reason) == ("http_5xx", 503, "http_5xx, as the test wants")
    assert (row.service_id, row.customer_id, row.protocol) == (storm.service_id, storm.customer_id, "HTTP/1.1")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM probe_samples WHERE slot_at = %s", [START])
        assert cursor.fetchone() == (0,)


def test_witnesses_of_ours_are_kept_too_and_nothing_of_others(path: Target, point: VantagePoint) -> None:
    storm = storm_of(path)
    canary = factories.target("canary", hostname="canary.test")
    reference = factories.target("reference", hostname="reference.test", cdn=path.cdn)
    elsewhere = factories.target("reference", hostname="elsewhere.test", cdn=factories.cdn())
    stranger = factories.target()
    record([path, canary, reference, elsewhere, stranger], [point], [START])
    assert keep_samples(START + 5 * HOUR) == 3
    assert kept(storm, [canary]) == kept(storm, [reference]) == kept(storm, [path]) == [START]


def test_a_long_storm_is_copied_on_before_its_samples_are_dropped(path: Target, point: VantagePoint) -> None:
    storm = storm_of(path, ended_at=None, closed_at=None)
    record([path], [point], times(START, START + 30 * HOUR, 600))
    copied = [keep_samples(START + n * HOUR) for n in range(31)]
    slots = kept(storm, [path])
    assert sum(copied) == len(slots) and max(copied) <= STEP / timedelta(minutes=10)
    assert slots == times(START, START + 30 * HOUR, 600)[: len(slots)]
    assert slots[-1] > START + 23 * HOUR
    StormEvent.objects.update(ended_at=START + 26 * HOUR, closed_at=START + 27 * HOUR)
    keep_samples(START + 30 * HOUR)
    assert kept(storm, [path])[-1] >= START + 27 * HOUR


def test_a_relapse_is_copied_on(path: Target, point: VantagePoint) -> None:
    storm = storm_of(path)
    record([path], [point], times(START, START + 6 * HOUR, 600))
    keep_samples(START + 2 * HOUR)
    StormEvent.objects.update(ended_at=START + 4 * HOUR, closed_at=START + 5 * HOUR)
    keep_samples(START + 6 * HOUR)
    assert kept(storm, [path]) == times(START, START + 5 * HOUR + MINUTE, 600)


def test_two_runs_at_once_copy_each_sample_once(path: Target, point: VantagePoint) -> None:
    storm = storm_of(path)
    record([path], [point], times(START, START + HOUR, 60))
    keep_samples(START + 5 * HOUR)
    StormEvent.objects.update(samples_kept_until=None)
    assert keep_samples(START + 5 * HOUR) == 0
    assert len(kept(storm, [path])) == 60
