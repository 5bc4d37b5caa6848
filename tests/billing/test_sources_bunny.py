"""Bunny's logs: the days that are still there, each counted once though it grows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from billing.sources import Access, ListedObject, ObjectGone, SourceUnavailable
from billing.sources.bunny import Bunny
from tests.billing.fake_api import Reply
from tests.billing.fake_bunny import FakeBunny

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)
TODAY = NOW.date()
ZONE = "60367"


@pytest.fixture
def bunny() -> Iterator[FakeBunny]:
    with FakeBunny(NOW) as api:
        for age in range(6):
            api.days[ZONE, TODAY - timedelta(days=age)] = [line(TODAY - timedelta(days=age))]
        yield api


def line(day: date, number: int = 0, size: int = 1000) -> str:
    at = int(datetime(day.year, day.month, day.day, 10, tzinfo=UTC).timestamp()) * 1000
    url = "https://www.example.com/a"
    return f"HIT|200|{at}|{size}|{ZONE}|192.0.2.1|-|{url}|DE|test|{day:%m%d}{number:028}|DE"


def place(api: FakeBunny, now: datetime = NOW, **more: str) -> Bunny:
    return Bunny(Access(**{"location": ZONE, "endpoint_url": api.url, "secret": api.KEY} | more), now)  # type: ignore[arg-type]


def keys(place: Bunny, since: datetime | None = None) -> list[str]:
    return [item.key for item in place.objects(since)]


def test_the_days_that_are_kept_are_listed_and_asked_in_order_of_time(bunny: FakeBunny) -> None:
    days = ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]
    assert keys(place(bunny)) == [f"{day}/60367.log" for day in days]
    assert [call.path for call in bunny.calls] == [
        "/02-27-26/60367.log", "/02-28-26/60367.log", "/03-01-26/60367.log", "/03-02-26/60367.log",
    ]  # fmt: skip
    assert all(call.query == {"order": "asc"} for call in bunny.calls)


def test_days_that_are_over_are_listed_once_and_then_once_a_day(bunny: FakeBunny) -> None:
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert keys(place(bunny), since=NOW) == ["2026-03-02/60367.log"]
    assert keys(place(bunny), since=midnight + timedelta(minutes=59)) == [
        "2026-03-01/60367.log",
        "2026-03-02/60367.log",
    ]
    assert len(keys(place(bunny), since=None)) == 4


def test_a_day_without_a_file_is_none(bunny: FakeBunny) -> None:
    del bunny.days[ZONE, TODAY]
    assert keys(place(bunny), since=NOW) == []
    assert keys(place(bunny, location="99")) == []


@pytest.mark.parametrize("tells_length", [True, False])
def test_an_etag_stands_for_one_content(bunny: FakeBunny, tells_length: bool) -> None:
    bunny.tells_length = tells_length
    first = list(place(bunny).objects())
    assert list(place(bunny).objects()) == first
    bunny.days[ZONE, TODAY].append(line(TODAY, 1))
    second = list(place(bunny).objects())
    assert second[:-1] == first[:-1]
    assert second[-1].etag != first[-1].etag
    assert second[-1].size_bytes > first[-1].size_bytes > 0
    assert all(len(item.etag) <= 128 for item in first + second)


def test_a_new_time_of_modification_is_a_new_etag(bunny: FakeBunny) -> None:
    bunny.tells_length = True
    (first,) = place(bunny).objects(since=NOW)
    bunny.changed_at = "Sun, 01 Mar 2026 10:00:01 GMT"
    (second,) = place(bunny).objects(since=NOW)
    assert first.etag != second.etag


def test_what_is_fetched_is_the_day(bunny: FakeBunny) -> None:
    bunny.days[ZONE, TODAY] = [line(TODAY, number) for number in range(100)]
    (item,) = place(bunny).objects(since=NOW)
    with place(bunny).fetched(item) as path:
        assert path.read_text().splitlines() == bunny.days[ZONE, TODAY]
        assert path.stat().st_size == item.size_bytes
    assert not path.exists()


def test_a_day_that_went_between_listing_and_fetching_is_gone(bunny: FakeBunny) -> None:
    with pytest.raises(ObjectGone), place(bunny).fetched(ListedObject("2026-02-20/60367.log", "x", 1)):
        pass


@pytest.mark.parametrize(
    ("reply", "text", "seconds"),
    [
        (Reply(429, headers={"Retry-After": "9"}), "429 .too many calls.", 9),
        (Reply(500), "500$", 0),
        (Reply(302, headers={"Location": "http://127.0.0.1/"}), "302", 0),
        (Reply(200, b"x" * 10, is_chunked=True, is_cut=True), "closed|incomplete", 0),
        (Reply(200, b"x", {"Content-Encoding": "br"}), "encoding", 0),
    ],
)
def test_what_goes_wrong_is_said(bunny: FakeBunny, reply: Reply, text: str, seconds: int) -> None:
    bunny.next = [reply]
    with pytest.raises(SourceUnavailable, match=rf"^Bunny: /02-27-26/60367\.log: .*({text})") as caught:
        keys(place(bunny))
    assert caught.value.retry_seconds == seconds


def test_a_file_that_breaks_off_is_not_counted(bunny: FakeBunny) -> None:
    (item,) = place(bunny).objects(since=NOW)
    bunny.next = [Reply(200, b"half a line", is_chunked=True, is_cut=True)]
    with pytest.raises(SourceUnavailable), place(bunny).fetched(item):
        pass


@pytest.mark.parametrize("secret", ["wrong-key-canary", "", "two\nlines", "schlüssel"])
def test_a_wrong_key_is_said_and_not_shown(bunny: FakeBunny, secret: str) -> None:
    with pytest.raises(SourceUnavailable, match=r"^Bunny: ") as caught:
        keys(place(bunny, secret=secret))
    assert not secret or secret not in str(caught.value)


def test_the_key_goes_to_bunny_alone(bunny: FakeBunny, settings: Any) -> None:
    settings.LOGS_ALLOW_PRIVATE = False
    with pytest.raises(SourceUnavailable, match="endpoint_url must be empty"):
        place(bunny)
    assert bunny.calls == []
