"""Collecting from places that are listed bit by bit: nothing that comes late is lost, and nobody is asked too often."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from billing import metering
from billing.models import LogObject, UsageBucket, UsageSource
from billing.sources import ListedObject, Place, SourceUnavailable
from tests import factories
from tests.billing.fake_api import Reply
from tests.billing.fake_bunny import FakeBunny
from tests.billing.log_lines import AT, logpush, write

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
TODAY = NOW.date()
ZONE = "60367"
MINUTE = datetime.fromtimestamp(AT, UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture
def source(tmp_path: Path) -> UsageSource:
    path = factories.target(domain=factories.domain(hostname="www.example.com"))
    return UsageSource.objects.create(
        name="logs", cdn=path.cdn, kind="directory", format="cloudflare_logpush", location=str(tmp_path)
    )


def test_how_far_usage_goes_is_noted(source: UsageSource, tmp_path: Path) -> None:
    tomorrow = int((NOW + timedelta(days=1)).timestamp())
    write(tmp_path / "b.log", f"{logpush()}\n{logpush(EdgeStartTimestamp=AT + 600)}\n")
    write(tmp_path / "c.log", f"{logpush(EdgeStartTimestamp=tomorrow)}\n")
    metering.collect(source, apply=True, now=NOW)
    source.refresh_from_db()
    assert source.newest_usage_at == MINUTE + timedelta(minutes=10)
    assert (source.cursor, source.listed_at, source.listed_whole_at) == ("c.log", NOW, NOW)
    write(tmp_path / "a.log", f"{logpush(EdgeStartTimestamp=AT - 600)}\n")
    metering.collect(source, apply=True, now=NOW)
    source.refresh_from_db()
    assert source.newest_usage_at == MINUTE + timedelta(minutes=10)


class Seen(Place):
    """A place that notes since when it was listed, and lists more than anybody should keep in memory."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.since: list[datetime | None] = []
        self.ahead = 0

    def objects(self, since: datetime | None = None) -> Iterator[ListedObject]:
        self.since.append(since)
        for number in range(self.count):
            self.ahead = number
            yield ListedObject(f"{number:09}", "etag", 1)

    def fetched(self, item: ListedObject) -> object:  # type: ignore[override]
        raise SourceUnavailable(f"listed up to {self.ahead}")


def test_a_listing_is_read_as_it_comes(source: UsageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Seen(100_000)
    monkeypatch.setattr(metering, "place_of", lambda *_: place)
    report = metering.collect(source, apply=True, now=NOW)
    assert report.error == "listed up to 999"
    assert report.listed == 1000
    source.refresh_from_db()
    assert (source.listed_at, source.listed_whole_at, source.last_error) == (None, None, "listed up to 999")


def test_all_is_listed_once_a_day(source: UsageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Seen()
    monkeypatch.setattr(metering, "place_of", lambda *_: place)
    times = [NOW + timedelta(hours=hours) for hours in (0, 1, 2, 24, 25)]
    for now in times:
        metering.collect(source, apply=True, now=now)
        source.refresh_from_db()
    assert place.since == [None, times[0], times[1], None, times[3]]
    metering.collect(source, apply=False, now=NOW + timedelta(hours=26))
    source.refresh_from_db()
    assert source.listed_at == times[4]


@pytest.fixture
def bunny() -> Iterator[FakeBunny]:
    with FakeBunny(NOW) as api:
        yield api


@pytest.fixture
def bunny_source(bunny: FakeBunny) -> UsageSource:
    path = factories.target(domain=factories.domain(hostname="www.example.com"))
    source = UsageSource.objects.create(
        name="bunny", cdn=path.cdn, kind="bunny", format="bunny", location=ZONE, endpoint_url=bunny.url
    )
    source.full_clean()
    source.seal(bunny.KEY)
    source.save()
    return source


def line(day: date, number: int = 0) -> str:
    at = int(datetime(day.year, day.month, day.day, 10, tzinfo=UTC).timestamp()) * 1000
    url = "https://www.example.com/a"
    return f"HIT|200|{at}|1000|{ZONE}|192.0.2.1|-|{url}|DE|test|{day:%m%d}{number:028}|DE"


def test_a_growing_day_replaces_what_it_had_counted(bunny: FakeBunny, bunny_source: UsageSource) -> None:
    yesterday = TODAY - timedelta(days=1)
    bunny.days = {(ZONE, TODAY): [line(TODAY)], (ZONE, yesterday): [line(yesterday)]}
    outcomes = []
    for minutes in (0, 5, 10, 15):
        (report,) = metering.collect_all(apply=True, now=NOW + timedelta(minutes=minutes))
        assert report.error == ""
        outcomes.append([entry.outcome for entry in report.objects])
        if minutes == 5:
            bunny.days[ZONE, TODAY] += [line(TODAY, 1), line(TODAY, 2)]
    assert outcomes == [["counted", "counted"], [], ["counted"], []]
    assert sorted(UsageBucket.objects.values_list("requests", flat=True)) == [1, 3]
    assert sorted(LogObject.objects.values_list("key", "state")) == [
        ("2026-03-01/60367.log", "counted"), ("2026-03-02/60367.log", "counted"), ("2026-03-02/60367.log", "replaced"),
    ]  # fmt: skip


def test_what_was_listed_and_then_grew_counts_once_in_the_end(bunny: FakeBunny, bunny_source: UsageSource) -> None:
    bunny.days = {(ZONE, TODAY): [line(TODAY)]}
    place = metering.place_of(bunny_source, NOW)
    (item,) = place.objects(since=NOW)
    bunny.days[ZONE, TODAY].append(line(TODAY, 1))
    with place.fetched(item) as path:
        assert len(path.read_text().splitlines()) == 2
    for minutes in (0, 5, 10):
        metering.collect_all(apply=True, now=NOW + timedelta(minutes=minutes))
    assert UsageBucket.objects.get().requests == 2


def test_an_api_is_asked_no_more_often_than_it_wants(bunny: FakeBunny, bunny_source: UsageSource) -> None:
    assert len(metering.collect_all(apply=True, now=NOW)) == 1
    assert metering.collect_all(apply=True, now=NOW + timedelta(seconds=299)) == []
    bunny.next = [Reply(429, headers={"Retry-After": "1000"})]
    then = NOW + timedelta(seconds=300)
    (report,) = metering.collect_all(apply=True, now=then)
    assert report.error == "Bunny: /03-02-26/60367.log: 429 (too many calls)"
    assert metering.collect_all(apply=True, now=then + timedelta(seconds=999)) == []
    (report,) = metering.collect_all(apply=True, now=then + timedelta(seconds=1000))
    assert report.error == ""
    bunny_source.refresh_from_db()
    assert bunny_source.last_error == ""


def test_estimates_are_no_logs(source: UsageSource) -> None:
    UsageSource.objects.create(
        name="stats", cdn=source.cdn, kind="fastly_stats", options={"service_ids": {"a": "www.example.com"}}
    )
    assert [report.source for report in metering.collect_all(apply=True, now=NOW)] == ["logs"]
