from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from services import chart, rollups, samples
from services.models import SampleMinute, Service, Target
from tests import factories
from tests.samples import record
from tests.services.test_samples import ROW
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 12, 7, 30, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


@pytest.fixture
def path() -> Target:
    return factories.target()


def service_of(target: Target) -> Service:
    assert target.domain
    return target.domain.service


def page(target: Target) -> str:
    return reverse("admin:services_service_change", args=[service_of(target).pk])


def minute(target: Target, at: datetime, **kw: Any) -> None:
    SampleMinute.objects.create(
        **{"minute_at": at.replace(second=0, microsecond=0), "target_id": target.pk, "vantage_point_id": 0} | kw
    )


def read(target: Target, days: int = 1) -> chart.Chart:
    return chart.read(service_of(target).pk, NOW, days)


def strips(target: Target, days: int = 1) -> list[chart.Strip]:
    """Of the first path. Minutes are from a vantage point without a name, unless they tell theirs: it has no strip."""
    return read(target, days).rows[0].strips


def test_cells_of_the_last_day_by_availability(path: Target) -> None:
    for cells_ago, counts in enumerate([(10, 0), (995, 5), (95, 5), (1, 9), (0, 0)]):
        minute(path, NOW - cells_ago * 15 * MINUTE, good=counts[0], bad=counts[1])
    (strip,) = strips(path)
    assert len(strip.cells) == 96
    assert [cell.colour for cell in strip.cells[-6:]] == ["none", "none", "few", "some", "most", "all"]
    assert strip.cells[-1].title == "2026-11-23 12:00–12:15 UTC: 100.00 % available, 0 of 10 bad"
    assert strip.cells[-5].title.endswith("no sample with a vote")
    assert strip.cells[-6].title.endswith("no data")
    assert strip.availability == (10 + 995 + 95 + 1) / (10 + 1000 + 100 + 10)


def test_seven_days_have_longer_cells(path: Target) -> None:
    minute(path, NOW - 6 * DAY, good=1)
    (strip,) = strips(path, 7)
    assert len(strip.cells) == 84
    assert [cell.colour for cell in strip.cells].count("all") == 1
    assert {cell.colour for cell in strips(path)[0].cells} == {"none"}


def test_latency_is_a_line_with_gaps(path: Target) -> None:
    for cells_ago, ms in ((0, 100), (1, 50), (3, 100)):
        minute(path, NOW - cells_ago * 15 * MINUTE, good=2, total_ms_sum=2 * ms, count_ms=2)
    seen = read(path)
    assert seen.slowest_ms == 100
    (strip,) = seen.rows[0].strips
    assert [len(line.split()) for line in strip.lines] == [2, 4]
    assert strip.mean_ms == pytest.approx(250 / 3)


def test_paths_stand_in_the_order_that_people_think_in(path: Target) -> None:
    domain = path.domain
    for role, kw in (("origin", {}), ("backup", {"rank": 2}), ("backup", {"rank": 1}), ("backup", {"enabled": False})):
        factories.target(role, domain=domain, **kw)
    seen = [(row.target.role, row.target.rank) for row in read(path).rows]
    assert seen == [("primary", 1), ("backup", 1), ("backup", 2), ("origin", 1)]


def test_a_path_by_its_vantage_points(path: Target) -> None:
    far, near, silent = (factories.vantage_point(name=name) for name in ("zrh-1", "ams-1", "fra-1"))
    minute(path, NOW, vantage_point_id=near.pk, good=3, total_ms_sum=30, count_ms=3)
    minute(path, NOW, vantage_point_id=far.pk, good=1, bad=3, total_ms_sum=90, count_ms=1)
    seen = read(path)
    everywhere, *parts = seen.rows[0].strips
    assert (everywhere.availability, everywhere.mean_ms) == (4 / 7, 30)
    assert everywhere.cells[-1].title.endswith("57.14 % available, 3 of 7 bad, 30 ms")
    assert [(part.name, part.availability, part.mean_ms) for part in parts] == [("ams-1", 1.0, 10), ("zrh-1", 0.25, 90)]
    assert silent.name not in {part.name for part in parts}
    assert (seen.slowest_ms, seen.points_left_out) == (90, False)


def test_more_vantage_points_than_fit_count_all_the_same(path: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart, "MAX_STRIPS", 3)
    off = factories.vantage_point(name="a", state="off")
    points = [off, *(factories.vantage_point(name=name) for name in "dcb")]
    for point in points:
        minute(path, NOW, vantage_point_id=point.pk, good=1)
    seen = read(path)
    assert [strip.name for strip in seen.rows[0].strips[1:]] == ["b", "c"]
    assert seen.points_left_out
    assert seen.rows[0].strips[0].cells[-1].title.endswith("0 of 4 bad")


def test_facets_stand_under_their_path(path: Target) -> None:
    backup = factories.target("backup", domain=path.domain)
    factories.target("origin", domain=path.domain)
    service = service_of(path)
    service.uncacheable_path, service.probe_ipv6 = "/alive", True
    service.save()
    seen = [(row.target.facet_of_id or row.target.pk, row.target.facet) for row in read(path).rows[:-1]]
    assert seen == [(pk, facet) for pk in (path.pk, backup.pk) for facet in ("", "ipv6", "uncacheable")]
    assert read(path).rows[-1].target.role == "origin"
    service.probe_ipv6 = False
    service.save()
    assert [row.target.facet for row in read(path).rows] == ["", "uncacheable", "", "uncacheable", ""]


@pytest.mark.parametrize(
    ("left", "text", "tone"),
    [
        (timedelta(days=83, hours=3), "certificate: 83 days left, to 2027-02-14", ""),
        (timedelta(days=21), "certificate: 21 days left, to 2026-12-14", ""),
        (timedelta(days=21) - MINUTE, "certificate: 20 days left, to 2026-12-14", "soon"),
        (timedelta(days=1), "certificate: 1 day left, to 2026-11-24", "soon"),
        (MINUTE, "certificate: 0 days left, to 2026-11-23", "soon"),
        (timedelta(), "certificate expired on 2026-11-23", "expired"),
        (-2 * DAY, "certificate expired on 2026-11-21", "expired"),
    ],
)
def test_what_is_said_of_a_certificate(path: Target, left: timedelta, text: str, tone: str) -> None:
    minute(path, NOW - 6 * DAY, certificate_expires_at=NOW + left)  # also the view of one day tells it
    told = read(path).rows[0].certificate
    assert told and (told.text, told.tone) == (text, tone)
    assert told.title == f"{NOW + left:%Y-%m-%d %H:%M} UTC"


def test_the_issuer_is_told_beside_the_certificate(path: Target) -> None:
    failing(path, NOW - 5 * MINUTE, certificate_expires_at=NOW + DAY, certificate_issuer="CN = CA")
    rollups.roll_up(NOW)
    told = read(path).rows[0].certificate
    assert told and told.title == "2026-11-24 12:07 UTC, issued by CN = CA"


def test_a_path_without_a_certificate(path: Target) -> None:
    minute(path, NOW, good=1)
    assert read(path).rows[0].certificate is None


def test_what_is_not_quite_everything_is_not_shown_as_everything() -> None:
    assert chart.shown(0.99999) == "99.99 %"
    assert chart.shown(1.0) == "100.00 %"
    assert chart.shown(0.9999) == "99.99 %"


def failing(target: Target, at: datetime, **kw: Any) -> None:
    row = {
        "slot_at": at, "at": at, "target_id": target.pk, "service_id": service_of(target).pk,
        "customer_id": target.customer_id, "outcome": "http_5xx", "reason": "status 503",
    }  # fmt: skip
    samples.write([samples.Row(**{name: getattr(ROW, name) for name in ROW.__slots__} | row | kw)])


def test_the_newest_failures_of_the_last_day_with_a_vote(path: Target) -> None:
    point = factories.vantage_point()
    for n in range(12):
        failing(path, NOW - n * MINUTE, vantage_point_id=point.pk, reason=f"failure {n}")
    found = read(path).failures
    assert [failure.sample.reason for failure in found] == [f"failure {n}" for n in range(10)]
    assert {(failure.path, failure.vantage_point) for failure in found} == {(str(path), point.name)}


def test_a_failure_names_its_facet(path: Target) -> None:
    service = service_of(path)
    service.probe_ipv6 = True
    service.save()
    failing(path.facets.get(), NOW - MINUTE)
    assert [failure.path for failure in read(path).failures] == [f"{path.host} via {path.cdn} (IPv6)"]


def test_what_is_no_failure_of_this_service_today(path: Target) -> None:
    failing(path, NOW - DAY - MINUTE)
    failing(path, NOW - MINUTE, is_blind=True)
    failing(path, NOW - 2 * MINUTE, outcome="blocked")
    failing(path, NOW - 3 * MINUTE, outcome="ok")
    failing(factories.target(), NOW - MINUTE)
    assert read(path).failures == []


@pytest.mark.parametrize("rolled_up", [True, False])
def test_failures_are_found_whether_they_are_counted_yet_or_not(path: Target, rolled_up: bool) -> None:
    off = factories.target("backup", domain=path.domain, enabled=False)
    for target, ago in ((path, 23 * HOUR), (off, 12 * HOUR), (path, 10 * MINUTE), (path, timedelta(seconds=20))):
        failing(target, NOW - ago)
        failing(path, NOW - ago, attempt=1, outcome="ok")
        if rolled_up:
            rollups.roll_up(NOW)
    assert len(read(path).failures) == 4


def test_a_good_day_is_not_searched(path: Target) -> None:
    minute(path, NOW - 20 * HOUR, good=1)
    minute(path, NOW - 20 * MINUTE, good=1)
    first = chart._since(NOW, chart.series([path.pk], NOW.replace(second=0) - DAY, NOW, 60))
    assert first == (NOW - 20 * MINUTE).replace(second=0)


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_draws_it_and_leads_to_seven_days(console: Client, path: Target) -> None:
    now = timezone.now()
    record([path], [factories.vantage_point()], [now - n * MINUTE for n in range(1, 20)])
    failing(path, now - MINUTE, attempt=1, reason="<b>503</b>")
    rollups.roll_up(now)
    html = console.get(page(path)).content.decode()
    assert html.count('<rect class="tr-cell-') == 2 * 96  # everywhere, and from one vantage point
    assert "tr-latency" in html and "Last failures" in html
    assert "&lt;b&gt;503&lt;/b&gt;" in html and "<b>503</b>" not in html
    assert 'href="?days=7#seen"' in html
    week = console.get(f"{page(path)}?days=7").content.decode()
    assert week.count('<rect class="tr-cell-') == 2 * 84
    assert console.get(f"{page(path)}?days=x").content.decode().count("<rect class") == 2 * 96


def test_the_page_unfolds_every_path_and_warns_of_its_certificate(console: Client, path: Target) -> None:
    service, now = service_of(path), timezone.now()
    service.uncacheable_path = "/alive"
    service.save()
    minute(path, now, good=1, vantage_point_id=factories.vantage_point(name="ams-1").pk, certificate_expires_at=now)
    html = console.get(page(path)).content.decode()
    assert html.count('<details class="tr-seen-path') == 2
    assert html.count('<details class="tr-seen-path tr-seen-facet') == 1
    assert "<span>ams-1</span>" in html
    assert re.search(r'tr-certificate-expired" title="[^"]+ UTC">certificate expired on \d{4}-', html)


def test_a_service_without_paths_and_the_form_for_a_new_one(console: Client) -> None:
    service = factories.service()
    html = console.get(reverse("admin:services_service_change", args=[service.pk])).content.decode()
    assert "No path is probed." in html
    assert "Last failures" not in console.get(reverse("admin:services_service_add")).content.decode()


def test_somebody_without_the_right_to_look_sees_nothing(path: Target) -> None:
    client = Client()
    client.force_login(rows.User.objects.create_user("nobody", is_staff=True))
    assert client.get(page(path)).status_code == 403


def test_it_costs_five_queries_however_much_there_is(
    console: Client, path: Target, django_assert_num_queries: Any
) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            console.get(page(path))
        return len(queries)

    console.get(page(path))
    few = count()
    for rank in range(1, 20):
        target = factories.target("backup", domain=path.domain, rank=rank)
        failing(target, timezone.now() - MINUTE)
        point = factories.vantage_point()
        minute(target, timezone.now(), good=1, vantage_point_id=point.pk, certificate_expires_at=timezone.now())
    assert count() == few
    with django_assert_num_queries(5):
        read(path)


def test_more_paths_than_fit(path: Target) -> None:
    for rank in range(1, chart.MAX_ROWS + 3):
        factories.target("backup", domain=path.domain, rank=rank)
    seen = read(path)
    assert (len(seen.rows), seen.left_out) == (chart.MAX_ROWS, True)
