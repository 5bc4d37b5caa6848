"""The one picture: what it reads, what it says, and how it is drawn."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing import invoicing
from billing.models import UsageBucket, UsageSnapshot
from billing.timeline import drawing, reading
from billing.timeline.facts import Band, Lane, Mark, Step, Timeline, at_time, together
from billing.timeline.reading import Read
from billing.timeline.span import CELLS, MOST_CELLS, ZOOMS, Span, covering, zoomed
from dns.models import Drill, Freeze, Pin, WeightChange
from services.models import SampleMinute, Service, Target
from storms.keeping import keep_samples
from storms.models import StormEvent
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tests.samples import record, times
from tests.tranche_site import console_rows as rows

SVG = "{http://www.w3.org/2000/svg}"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
START = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
NOW = START + 3 * HOUR
PRIMARY, BACKUP, SECOND = ("primary", 1), ("backup", 1), ("backup", 2)


# --- spans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", ZOOMS)
def test_a_zoom_ends_with_the_cell_that_goes_on(zoom: str) -> None:
    span = zoomed(zoom, NOW)
    length, cell = ZOOMS[zoom]
    assert span.end - span.start == length
    assert span.end - cell < NOW <= span.end
    assert len(span.cells) * cell == length
    assert span.cells[span.place(NOW)] <= NOW


@pytest.mark.parametrize("days", [0, 0.001, 0.1, 1, 6.9, 45, 400, 4000])
def test_any_span_is_covered_in_a_bounded_number_of_cells(days: float) -> None:
    span = covering(START, START + timedelta(days=days))
    assert span.start <= START and span.end >= START + timedelta(days=days)
    assert 1 <= len(span.cells) <= MOST_CELLS + 2
    assert span.cell in CELLS


# --- weights -------------------------------------------------------------------------------------------------------


def test_the_weights_of_several_record_sets_are_their_mean() -> None:
    home, away = {PRIMARY: 100.0}, {PRIMARY: 0.0, BACKUP: 100.0}
    steps = together([(NOW, 2, away), (START, 1, home), (START, 2, home), (START + HOUR, 1, away)])
    assert [(step.at, dict(step.shares)) for step in steps] == [
        (START, {PRIMARY: 100}),
        (START + HOUR, {PRIMARY: 50, BACKUP: 50}),
        (NOW, {PRIMARY: 0, BACKUP: 100}),
    ]
    assert at_time(steps, START - MINUTE) is None
    assert at_time(steps, NOW - MINUTE) == {PRIMARY: 50, BACKUP: 50}


# --- reading -------------------------------------------------------------------------------------------------------


def service_of(target: Target) -> Service:
    assert target.domain
    return target.domain.service


def minute(target: Target, at: datetime, good: int, bad: int = 0) -> None:
    SampleMinute.objects.create(
        minute_at=at.replace(second=0, microsecond=0), target_id=target.pk, vantage_point_id=1, good=good, bad=bad
    )


def storm_of(target: Target, **kw: Any) -> StormEvent:
    """Two spells of ten minutes within half an hour, closed ten minutes later."""
    moments = [START, START + 10 * MINUTE, START + 20 * MINUTE, START + 30 * MINUTE]
    ends = [moment.isoformat() for moment in moments]
    defaults = {
        "started_at": START, "detected_at": START + MINUTE, "ended_at": moments[3], "closed_at": moments[3] + 10 * MINUTE,
        "spells": [ends[:2], ends[2:]], "service": service_of(target), "cdn": target.cdn,
    }  # fmt: skip
    return factories.storm(**defaults | kw)


def seen(target: Target, zoom: str = "24h", now: datetime = NOW, **kw: Any) -> Read:
    return reading.of_service(service_of(target), zoomed(zoom, now), now, **kw)


def lane(found: Read, way: tuple[str, int]) -> Lane:
    return next(lane for lane in found.timeline.lanes if lane.way == way)


@pytest.mark.django_db
def test_a_storm_is_shown_with_an_hour_around_it_its_spells_and_the_threshold_it_began_under() -> None:
    primary = factories.target(cdn=factories.cdn(name="Edgeline"))
    backup = factories.target("backup", domain=primary.domain)
    policy = factories.policy(service=service_of(primary))
    storm = storm_of(primary, policy=policy, policy_version=1)
    policy.threshold_avail = "0.5"
    policy.save()
    minute(primary, START - 2 * HOUR, good=10)
    minute(primary, START, good=1, bad=3)
    minute(primary, START + MINUTE, good=4)
    minute(backup, START, good=4)
    found = reading.of_storm(storm, START + 9 * HOUR)
    timeline = found.timeline
    assert (timeline.span.start, timeline.span.end) == (
        START.replace(second=0) - HOUR,
        START.replace(second=0) + 91 * MINUTE,
    )
    assert timeline.threshold == 0.9
    assert [(band.start, band.end) for band in timeline.bands] == [
        (START, START + 10 * MINUTE), (START + 20 * MINUTE, START + 30 * MINUTE),
    ]  # fmt: skip
    assert [(moment.text, moment.at) for moment in timeline.moments] == [
        ("detected", START + MINUTE), ("closed", START + 40 * MINUTE),
    ]  # fmt: skip
    one, two = timeline.lanes
    assert (one.name, two.way) == ("primary Edgeline", BACKUP)
    assert [share for share in one.availability if share is not None] == [0.25, 1.0]
    said = drawing.in_words(timeline)
    for words in (
        "primary Edgeline: 25.00 % at its lowest, Nov 23, 12:00, bad below 0.9",
        f"storm {storm.pk} from 2026-11-23 12:00:30 to 2026-11-23 12:10:30 UTC",
        "closed 2026-11-23 12:40:30 UTC",
    ):
        assert words in said


@pytest.mark.django_db
def test_a_way_is_as_good_as_the_worst_of_its_domains_and_facets() -> None:
    one = factories.target()
    two = factories.target(domain=factories.domain(service=service_of(one)), cdn=one.cdn)
    minute(one, START, good=4)
    minute(two, START, good=3, bad=1)
    found = lane(seen(one), PRIMARY)
    assert (found.name, found.lowest) == (f"primary {one.cdn}, the worst of 2 domains", 0.75)
    service = service_of(one)
    service.probe_ipv6 = True
    service.save()
    facet = Target.objects.get(facet="ipv6", facet_of=two)
    minute(facet, START, good=0, bad=4)
    assert lane(seen(one), PRIMARY).lowest == 0


@pytest.mark.django_db
def test_a_storm_that_rages_is_shown_up_to_now() -> None:
    target = factories.target()
    storm = storm_of(target, ended_at=None, closed_at=None, spells=[])
    timeline = reading.of_storm(storm, START + 5 * MINUTE).timeline
    assert timeline.span.end == START.replace(second=0) + 6 * MINUTE
    assert [(band.end, f"storm {storm.pk} since " in band.text) for band in timeline.bands] == [(None, True)]
    assert reading.of_storm(storm, START + timedelta(days=3)).timeline.span.cell == 30 * MINUTE


@pytest.mark.django_db
def test_when_the_minutes_are_gone_the_samples_kept_with_a_storm_are_counted() -> None:
    primary = factories.target()
    storm = storm_of(primary)
    record([primary], [factories.vantage_point()], times(START - MINUTE, START + 2 * MINUTE, 20))
    record([primary], [factories.vantage_point()], [START + 3 * MINUTE], "http_5xx")
    keep_samples(START + 5 * HOUR)
    (early,) = reading.of_storm(storm, START + 5 * HOUR).timeline.lanes
    assert early.lowest is None  # nothing was rolled up here
    (late,) = reading.of_storm(storm, START + timedelta(days=500)).timeline.lanes
    assert late.lowest == 0


@pytest.mark.django_db
def test_weights_begin_with_what_stood_there_before() -> None:
    domain = rows.protected_domain()
    primary, backup = domain.targets.get(role="primary"), domain.targets.get(role="backup")

    def change(generation: int, away: int, wanted: datetime, observed: datetime | None, **kw: Any) -> WeightChange:
        weights = {str(primary.pk): 100 - away, str(backup.pk): away}
        return rows.weight_change(
            domain.record_set, generation=generation, weights=weights, wanted_at=wanted, observed_at=observed, **kw
        )

    change(1, 0, NOW - timedelta(days=9), NOW - timedelta(days=9) + MINUTE)
    change(2, 100, NOW - 2 * HOUR, NOW - 2 * HOUR + MINUTE)
    change(3, 50, NOW - HOUR, None, state="held")
    timeline = seen(primary).timeline
    assert [dict(step.shares) for step in timeline.observed] == [{PRIMARY: 100, BACKUP: 0}, {PRIMARY: 0, BACKUP: 100}]
    assert [step.at for step in timeline.wanted] == [
        NOW - timedelta(days=9),
        NOW - 2 * HOUR,
    ]  # nobody let the held one go
    assert dict(at_time(timeline.observed, timeline.span.start) or {}) == {PRIMARY: 100, BACKUP: 0}
    assert "DNS sent 100 % to backups at its end" in drawing.in_words(timeline)
    assert "weights primary 0 %, backup 100 %" in drawing.draw(timeline)


@pytest.mark.django_db
@pytest.mark.parametrize(("zoom", "expected"), [("1h", 300), ("24h", 1100), ("7d", 77)])
def test_traffic_is_of_minutes_in_short_cells_and_of_hours_in_long_ones(zoom: str, expected: int) -> None:
    path = factories.target()
    service = service_of(path)
    own = {"customer": service.customer, "service": service, "target": path, "requests": 1}
    for when, size in ((NOW - 5 * MINUTE, 300), (NOW - 2 * HOUR, 800)):
        UsageBucket.objects.create(**own, minute_at=when.replace(second=0), bytes=size, minutes=15)
    begin = (NOW - HOUR).replace(minute=0, second=0)
    UsageSnapshot.objects.create(**own, window_start=begin, window_end=begin + HOUR, bytes=77)
    traffic = seen(path, zoom).timeline.traffic
    assert {way: sum(sizes) for way, sizes in traffic.items()} == {PRIMARY: expected}


@pytest.mark.django_db
def test_what_people_did_is_marked_and_words_of_ours_stay_ours() -> None:
    path = factories.target()
    service = service_of(path)
    own = {"customer": service.customer, "service": service}
    Pin.objects.create(**own, backup_percent=30, reason="a try", created_at=NOW - HOUR, expires_at=NOW + HOUR)
    Pin.objects.create(**own, backup_percent=1, reason="old", created_at=NOW - 99 * HOUR, expires_at=NOW - 98 * HOUR)
    Freeze.objects.create(reason="their NOC called", created_at=NOW - 2 * HOUR)
    Freeze.objects.create(customer=factories.customer(), reason="another customer's", created_at=NOW - 2 * HOUR)
    Drill.objects.create(**own, started_at=NOW - 3 * HOUR, ended_at=NOW - 2 * HOUR, state="passed")
    factories.maintenance_window(NOW - 4 * HOUR, service=service, reason="a new rack")
    factories.maintenance_window(NOW - 4 * HOUR, cdn=path.cdn, reason="of the CDN")
    marks = seen(path).timeline.marks
    assert sorted((mark.kind, mark.text) for mark in marks) == [
        ("drill", "drill of 2 %, passed"),
        ("freeze", "freeze of everything: their NOC called"),
        ("maintenance", "maintenance: a new rack"),
        ("maintenance", "maintenance: of the CDN"),
        ("pin", "pinned, backup 30 %: a try"),
    ]
    told = [mark.text for mark in seen(path, of_ours=False).timeline.marks]
    assert "freeze of all changes" in told and not any("NOC" in text or "CDN" in text for text in told)


# --- drawing -------------------------------------------------------------------------------------------------------


def a_timeline(**kw: Any) -> Timeline:
    span = Span(START.replace(second=0), START.replace(second=0) + HOUR, MINUTE)
    hour: dict[str, Any] = {
        "span": span, "now": span.end, "title": "app", "lanes": [Lane(PRIMARY, "primary", [1.0] * 30 + [0.5] * 15 + [None] * 15)],
        "bands": [], "wanted": [], "observed": [], "traffic": {}, "marks": [],
    }  # fmt: skip
    return Timeline(**hour | kw)


def parts(svg: str, kind: str) -> list[ElementTree.Element]:
    found = ElementTree.fromstring(svg).iter()
    return [part for part in found if part.get("class") == kind]


def test_cells_of_one_colour_are_one_shape() -> None:
    svg = drawing.draw(a_timeline(), 600, tooltips=False)
    shapes = {
        kind: [(part.get("x"), part.get("width")) for part in parts(svg, kind)] for kind in ("all", "few", "none")
    }
    assert shapes == {"all": [("0.0", "300.0")], "few": [("300.0", "150.0")], "none": [("450.0", "150.0")]}


def test_weights_stack_up_to_the_whole_and_the_wanted_share_is_a_line() -> None:
    span = a_timeline().span
    steps = [Step(span.start, {PRIMARY: 100}), Step(span.start + 30 * MINUTE, {PRIMARY: 20, BACKUP: 50, SECOND: 30})]
    svg = drawing.draw(a_timeline(observed=steps, wanted=steps), 600, tooltips=False)
    tall = {
        kind: [(p.get("x"), float(p.get("height") or 0)) for p in parts(svg, kind) if p.get("width") == "300.0"]
        for kind in ("w-primary", "w-backup", "w-other")
    }
    assert [height for x, height in tall["w-primary"]] == [drawing.PLOT, pytest.approx(0.2 * drawing.PLOT, abs=0.1)]
    assert sum(dict(shapes)["300.0"] for shapes in tall.values()) == pytest.approx(drawing.PLOT, abs=0.2)
    (line,) = (part for part in parts(svg, "wanted") if part.tag == f"{SVG}polyline")
    assert (line.get("points") or "").count(",") == 4


def test_a_band_of_seconds_can_be_seen_and_leads_to_its_storm() -> None:
    band = Band(7, START, START + timedelta(seconds=1), "storm 7 <b>", is_armed=True)
    svg = drawing.draw(a_timeline(bands=[band]), 100, links=lambda kind, pk: f"/{kind}/{pk}?a=1&b=2")
    (shape,) = parts(svg, "storm")
    assert float(shape.get("width") or 0) == drawing.LEAST_BAND
    (link,) = ElementTree.fromstring(svg).iter(f"{SVG}a")
    assert link.get("href") == "/storm/7?a=1&b=2"


def test_marks_that_would_overlap_lie_below_each_other() -> None:
    marks = [Mark("pin", n, START, START + 30 * MINUTE, f"pinned {n}") for n in range(20)]
    svg = drawing.draw(a_timeline(marks=marks), 600)
    places = [part.get("y") for part in parts(svg, "mark")]
    assert len(places) == len(set(places)) == drawing.MOST_ROWS
    assert f"and {20 - drawing.MOST_ROWS} more" in svg


@pytest.mark.parametrize("width", [200, 360, 1920])
@pytest.mark.parametrize("hours", [1, 168, 9000])
def test_nothing_lies_outside_and_ticks_have_room(width: int, hours: int) -> None:
    span = covering(START, START + timedelta(hours=hours))
    lanes = [Lane(PRIMARY, "a name that is far too long for a phone, the worst of 20 domains", [0.5] * len(span.cells))]
    marks = [Mark("drill", 1, span.end - MINUTE, None, "drill of 2 %, running for all who look at it")]
    svg = drawing.draw(a_timeline(span=span, now=span.end, lanes=lanes, marks=marks), width)
    root = ElementTree.fromstring(svg)
    height = float(root.get("height") or 0)
    for part in root.iter(f"{SVG}rect"):
        x, y = float(part.get("x") or 0), float(part.get("y") or 0)
        assert x >= 0 and y >= 0
        assert x + float(part.get("width") or 0) <= width + 4.5
        assert y + float(part.get("height") or 0) <= height
    ticks = [float(p.get("x") or 0) for p in root.iter(f"{SVG}text") if "n d" in (p.get("class") or "") and p.get("y")]
    assert len(ticks) <= width / 60 + 5


def test_no_name_breaks_out_of_the_picture() -> None:
    evil = "</title><script>alert(1)</script>\x01\"'&"
    lanes = [Lane(PRIMARY, evil, [0.5] * 60)]
    marks = [Mark("pin", 1, START, None, evil)]
    bands = [Band(1, START, None, evil, is_armed=False)]
    svg = drawing.draw(a_timeline(title=evil, lanes=lanes, marks=marks, bands=bands), links=lambda kind, pk: evil)
    assert "<script" not in svg and "\x01" not in svg
    ElementTree.fromstring(svg)


def test_an_empty_timeline_says_so() -> None:
    svg = drawing.draw(a_timeline(lanes=[]))
    assert "No path is probed" in svg and "not steered" in svg and "none in the CDNs" in svg
    assert "nothing is probed. no storm" in drawing.in_words(a_timeline(lanes=[]))


def test_on_a_page_the_stylesheet_has_the_last_word() -> None:
    assert "var(--tl-ink,#1c1917)" in drawing.draw(a_timeline(), colours=drawing.ON_A_PAGE)
    assert "var(" not in drawing.draw(a_timeline())  # PDFs and viewers of pictures know none


# --- pages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


@pytest.mark.django_db
def test_a_storms_page_draws_it(console: Client) -> None:
    primary = factories.target()
    storm = storm_of(primary)
    minute(primary, START, good=1, bad=3)
    html = console.get(reverse("admin:storms_stormevent_change", args=[storm.pk])).content.decode()
    wide, narrow = re.findall(r"<svg xmlns.*?</svg>", html, re.DOTALL)
    assert wide.count('class="storm"') == narrow.count('class="storm"') == 2
    assert wide.count('class="when"') == 2
    assert "2026-11-23 12:00–12:01 UTC: primary" in wide and "<title>2026-11-23 12:00" not in narrow
    assert f'aria-label="Storm {storm.pk} of ' in wide


@pytest.mark.django_db
def test_a_read_asks_no_more_for_more() -> None:
    domain = rows.protected_domain()
    path = domain.targets.get(role="primary")

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            seen(path, "30d")
        return len(queries)

    few = count()
    for n in range(3):
        other = rows.protected_domain(service=domain.service)
        rows.weight_change(other.record_set)
        storm_of(path, kind=["tls", "dns", "latency"][n])
        Drill.objects.create(
            customer=domain.customer, service=domain.service, started_at=NOW - HOUR, ended_at=NOW, state="passed"
        )
    assert count() == few <= 6


# --- the API -------------------------------------------------------------------------------------------------------


def client_of(service: Service) -> Client:
    return Client(headers={"Authorization": f"Bearer {factories.api_key(service.customer)}"})


@pytest.mark.django_db
def test_customers_get_the_picture_of_a_service_and_of_a_storm() -> None:
    path = factories.target()
    service, storm = service_of(path), storm_of(path)
    ask = client_of(service)
    answer = ask.get(f"/v1/services/{service.pk}/timeline.svg?zoom=7d&width=500")
    assert (answer.status_code, answer["Content-Type"]) == (200, "image/svg+xml; charset=utf-8")
    assert answer["Content-Security-Policy"].startswith("default-src 'none'")
    root = ElementTree.fromstring(answer.content)
    assert (root.get("width"), (root.get("aria-label") or "").startswith(service.name)) == ("500", True)
    assert not list(root.iter(f"{SVG}a"))  # the console's pages are not for them
    root = ElementTree.fromstring(ask.get(f"/v1/storms/{storm.pk}/timeline.svg").content)
    assert (root.get("width"), f"Storm {storm.pk} of" in (root.get("aria-label") or "")) == ("960", True)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "field"), [("zoom=2h", "zoom"), ("width=199", "width"), ("width=1e9", "width"), ("from=1", "from")]
)
def test_what_is_no_picture_is_refused_in_words(query: str, field: str) -> None:
    service = factories.service()
    answer = client_of(service).get(f"/v1/services/{service.pk}/timeline.svg?{query}")
    assert answer.status_code == 400
    assert [error["parameter"] for error in answer.json()["errors"]] == [field]


@pytest.mark.django_db
def test_the_annex_of_an_invoice_has_a_picture_of_every_covered_storm(console: Client) -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2, 12), 4000 * GB)
    use(service, "backup", at(5, 10, 5), 100 * GB)
    struck, refused = (
        storm(service, at(5, 10), at(5, 10, 12)),
        storm(service, at(11), at(11, 2), attribution="origin_fault"),
    )
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    page = console.get(reverse("admin:billing_invoice_annex", args=[draft.pk])).content.decode()
    told = client_of(service).get(f"/v1/invoices/{draft.pk}/annex.html").content.decode()
    for said in (page, told):
        assert said.count("<svg xmlns") == 1
        assert f"Storm {struck.pk} of" in said and f"Storm {refused.pk} of" not in said
    assert "/admin" not in told
