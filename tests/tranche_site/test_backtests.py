"""Backtests over samples as the prober writes them: the run itself, the API, the console's page and its picture."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from customers.models import Customer
from services.models import Service
from storms import backtest, recorded
from storms.recordings import CODES, RecordedPath, Recording, Series, to_micros
from storms.verdicts import Policy, VantagePoint
from storms.watch import watch
from tests import factories
from tests.answers import assert_problem
from tests.billing.test_invoicing import GB, use
from tests.storms.test_watch import NOW, Site, at
from tests.tranche_site import console_rows as rows
from tranche_site import backtests
from tranche_site.backtests import Backtest, Side
from tranche_site.console import backtest_chart

ClientOf = Callable[[Customer], APIClient]
SHORT_TERMS = {"minimum_seconds": 60, "cooldown_seconds": 60, "holdoff_seconds": 60, "holdoff_max_seconds": 60}


def outage(site: Site, first: float = 90, last: float = 230) -> None:
    """Good, then bad from `first` to `last`, then good again."""
    site.see(-300, first - 10, "ok", "primary")
    site.see(first, last, "http_5xx", "primary")
    site.see(last + 10, 600, "ok", "primary")
    site.see(-300, 600, "ok", "backup", "origin")


def outage_and_a_blink(site: Site) -> None:
    """The outage, and four bad samples in a row before it."""
    site.see(-200, -170, "http_5xx", "primary")
    outage(site)  # what is there stays as it is


def service_of(site: Site) -> Service:
    return site.policy.service


def replayed(site: Site, policy: Policy | None = None, against: Policy | None = None) -> Backtest:
    service = service_of(site)
    return backtests.run(service, at(-300), at(610), policy or backtests.policy_of(service), against)


# --- the run -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_it_finds_what_the_watch_finds() -> None:
    site = Site.build(**SHORT_TERMS)
    outage(site)
    for seconds in range(60, 605, 5):
        watch(at(seconds))
    [found] = replayed(site).side.result.storms
    storm = site.storm
    assert (storm.started_at, storm.ended_at) == (at(90), at(240))
    assert storm.closed_at is not None
    for name in ("kind", "started_at", "detected_at", "ended_at", "closed_at", "relapses", "attribution"):
        assert getattr(found, name) == getattr(storm, name), name
    assert found.reason == storm.reason.replace(": saw http_5xx", "")  # a recording keeps no sample's own words
    assert list(found.regions) == storm.regions
    assert [[start.isoformat(), end and end.isoformat()] for start, end in found.spells] == storm.spells
    assert found.domains == (site.domain.hostname,)


@pytest.mark.django_db
def test_what_only_one_policy_finds_is_told() -> None:
    site = Site.build(**SHORT_TERMS)
    outage_and_a_blink(site)
    own = backtests.policy_of(service_of(site))
    result = replayed(site, own, replace(own, min_failures=6))
    assert result.against
    assert [storm.started_at for storm in result.side.result.storms] == [at(-200), at(90)]
    assert [storm.started_at for storm in result.against.result.storms] == [at(90)]
    assert [storm.started_at for storm in result.side.alone] == [at(-200)]
    assert result.against.alone == ()


@pytest.mark.django_db
def test_without_a_policy_of_its_own_a_service_has_the_default_at_its_interval() -> None:
    service = factories.service(interval_seconds=5)
    assert backtests.policy_of(service) == Policy(interval_seconds=5)
    factories.policy(service=service, kind="tls", threshold_avail=Decimal("0.5"))
    assert backtests.policy_of(service) == Policy(interval_seconds=5)


def billed(site: Site) -> None:
    """Primary at 0.10, backup at 0.20 a GB, of which we bear half; 100 GB on the primary in each of five minutes."""
    factories.contract(customer=service_of(site).customer, merge_gap_seconds=0)
    for minute in range(5):
        use(service_of(site), "primary", NOW + timedelta(minutes=minute), 100 * GB)


@pytest.mark.django_db
def test_what_it_would_have_cost() -> None:
    site = Site.build(**SHORT_TERMS)
    outage(site)  # 12:01:30 to 12:04:00
    assert replayed(site).side.ledger is None
    billed(site)
    ledger = replayed(site).side.ledger
    assert ledger
    assert ledger.currency == "USD"
    assert ledger.moved_bytes == 250 * GB  # half of 12:01, all of 12:02 and 12:03
    assert ledger.extra_minor == 25_00  # 250 × (0.20 − 0.10)
    # The storm has half of the minute in which 50 GB move: (50 / 2 + 200) × 0.20 × ½.
    assert ledger.discount_minor == 22_50
    assert ledger.net_minor == 2_50


# --- the API -------------------------------------------------------------------------------------------------------


def asked(site: Site, **more: Any) -> dict[str, Any]:
    start, end = (f"{moment:%Y-%m-%dT%H:%M:%S}Z" for moment in (at(-300), at(610)))
    return {"service": service_of(site).pk, "start": start, "end": end} | more


@pytest.fixture
def site(db: None) -> Site:
    built = Site.build(**SHORT_TERMS)
    outage_and_a_blink(built)
    return built


@pytest.fixture
def client(site: Site, client_of: ClientOf) -> APIClient:
    return client_of(service_of(site).customer)


def test_the_api_tells_all_of_it(site: Site, client: APIClient) -> None:
    billed(site)
    response = client.post("/v1/backtests", asked(site))
    assert response.status_code == 200
    told = response.json()
    side = replayed(site).side
    assert (told["service"], told["start"], told["end"]) == (
        service_of(site).pk, "2026-11-23T11:55:00Z", "2026-11-23T12:10:10Z"
    )  # fmt: skip
    assert told["policy"]["threshold_avail"] == "0.9000" and told["policy"]["minimum_seconds"] == 60
    assert told["storms"][1] == {
        "domains": [site.domain.hostname],
        "kind": "http_availability",
        "started_at": "2026-11-23T12:01:30Z",
        "detected_at": told["storms"][1]["detected_at"],
        "ended_at": "2026-11-23T12:04:00Z",
        "closed_at": told["storms"][1]["closed_at"],
        "attribution": "cdn_fault",
        "regions": ["eu"],
        "relapses": 0,
        "reason": side.result.storms[1].reason,
        "spells": [{"start": "2026-11-23T12:01:30Z", "end": "2026-11-23T12:04:00Z"}],
    }
    assert len(told["storms"]) == 2
    assert told["samples"] == side.result.samples == 3 * 3 * 91
    assert told["covered_seconds"] == side.result.covered_seconds == 40 + 150
    # The blink before the first minute with usage moves nothing.
    assert told["would_have"] == {
        "currency": "USD", "moved_bytes": 250 * GB, "extra_minor": 25_00, "discount_minor": 22_50, "net_minor": 2_50,
    }  # fmt: skip
    assert (told["alone"], told["against"], told["findings"]) == ([], None, [])


def test_the_api_sets_two_policies_side_by_side(site: Site, client: APIClient) -> None:
    lax = SHORT_TERMS | {"min_failures": 6, "threshold_avail": 0.85}
    told = client.post("/v1/backtests", asked(site, against=lax)).json()
    against = told["against"]
    assert (len(told["storms"]), len(against["storms"])) == (2, 1)
    assert (told["alone"], against["alone"]) == (["2026-11-23T11:56:40Z"], [])
    assert (against["policy"]["threshold_avail"], against["policy"]["min_failures"]) == ("0.85", 6)
    assert (told["would_have"], against["would_have"]) == (None, None)
    assert set(told) == set(against) | {"service", "start", "end", "against"}


def test_what_a_policy_leaves_out_has_its_default_and_the_services_interval(site: Site, client: APIClient) -> None:
    Service.objects.update(interval_seconds=5, minimum_certificate_days=9)
    told = client.post("/v1/backtests", asked(site, policy={}, against=None)).json()
    assert told["policy"]["cooldown_seconds"] == Policy().cooldown_seconds
    assert (told["policy"]["interval_seconds"], told["policy"]["minimum_certificate_days"]) == (5, 9)
    assert told["against"] is None


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"service": None}, ["service"]),
        ({"service": "x"}, ["service"]),
        ({"service": 1.5}, ["service"]),
        ({"start": None}, ["start"]),
        ({"start": "yesterday", "end": "today"}, ["start", "end"]),
        ({"start": "2026-11-23T13:00:00Z"}, ["start"]),
        ({"start": "2026-11-23T12:10:10Z"}, ["start"]),
        ({"start": "2026-10-23T12:10:09Z"}, ["start"]),
        ({"start": "0001-01-01T00:00:00+14:00"}, ["start"]),
        ({"end": "9999-12-31T23:59:59-12:00"}, ["end"]),
        ({"colour": "red"}, ["colour"]),
        ({"policy": None}, ["policy"]),
        ({"policy": []}, ["policy"]),
        ({"policy": "lax"}, ["policy"]),
        ({"policy": {"threshold_avail": 1.5}}, ["policy/threshold_avail"]),
        ({"policy": {"threshold_avail": "NaN"}}, ["policy/threshold_avail"]),
        ({"policy": {"min_samples": True}}, ["policy/min_samples"]),
        ({"policy": {"min_samples": 6.5}}, ["policy/min_samples"]),
        ({"policy": {"min_samples": {}}}, ["policy/min_samples"]),
        ({"policy": {"kind": "manual"}}, ["policy/kind"]),
        ({"policy": {"kind": []}}, ["policy/kind"]),
        ({"policy": {"mood: good": 1}}, ["policy/mood: good"]),
        ({"policy": {"window_seconds": 30}}, ["policy/window_seconds"]),
        ({"policy": {"min_samples": 7}}, ["policy/window_seconds"]),
        ({"against": {"holdoff_seconds": 4000}}, ["against/holdoff_max_seconds"]),
        ({"policy": {"slow_ms": 0}, "against": {"slow_ms": "0"}}, ["policy/slow_ms", "against/slow_ms"]),
    ],
)
def test_bad_questions_are_refused_by_field(
    site: Site, client: APIClient, change: dict[str, Any], fields: list[str]
) -> None:
    response = client.post("/v1/backtests", asked(site) | change)
    assert_problem(response, 400, *fields)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e-400", "9" * 5000])
def test_numbers_beyond_all_bounds_are_refused(site: Site, client: APIClient, number: str) -> None:
    body = json.dumps(asked(site, policy={"threshold_avail": "?"})).replace('"?"', number)
    assert client.post("/v1/backtests", body, content_type="application/json").status_code == 400


def test_a_question_needs_service_and_time(client: APIClient) -> None:
    assert_problem(client.post("/v1/backtests", {}), 400, "service", "start", "end")


def test_31_days_are_not_too_many(site: Site, client: APIClient) -> None:
    assert client.post("/v1/backtests", asked(site, start="2026-10-23T12:10:10Z")).status_code == 200


def test_too_many_samples_are_refused(site: Site, client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST_SAMPLES", 100)
    [error] = assert_problem(client.post("/v1/backtests", asked(site)), 400, "start")
    assert error["detail"] == "There are more than 100 samples: take a shorter time."


def test_somebody_elses_service_is_like_none(site: Site, client_of: ClientOf) -> None:
    outsider = client_of(factories.customer())
    pk = service_of(site).pk
    foreign, absent = (
        outsider.post("/v1/backtests", asked(site) | {"service": number}) for number in (pk, 10**12)
    )  # fmt: skip
    assert_problem(foreign, 400, "service")
    # In quotes: alone, 4 is in “400” too.
    said = [answer.json()["detail"] for answer in (foreign, absent)]
    assert said[0].replace(f'"{pk}"', "?") == said[1].replace('"1000000000000"', "?")
    assert foreign.json().keys() == absent.json().keys()


@pytest.mark.parametrize(("scopes", "status"), [(("read",), 200), (("write",), 403)])
def test_it_is_reading(site: Site, scopes: tuple[str, ...], status: int) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(service_of(site).customer, scopes)}")
    assert client.post("/v1/backtests", asked(site)).status_code == status


def test_the_api_asks_no_more_for_more_storms(client_of: ClientOf) -> None:
    counts = []
    for happen in (outage, outage_and_a_blink):
        site = Site.build(**SHORT_TERMS)
        happen(site)
        billed(site)
        client = client_of(service_of(site).customer)
        client.post("/v1/backtests", {})
        with CaptureQueriesContext(connection) as captured:
            assert client.post("/v1/backtests", asked(site, against={"min_failures": 6})).status_code == 200
        counts.append(len(captured))
    assert counts[0] == counts[1] <= 20


# --- the page ------------------------------------------------------------------------------------------------------

PAGE = "/admin/backtest"


@pytest.fixture
def console(db: None) -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def html_of(console: Client, **query: Any) -> str:
    response = console.get(PAGE, query)
    assert response.status_code == 200
    return response.content.decode()


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def question(site: Site, **more: Any) -> dict[str, Any]:
    return {"service": service_of(site).pk, "start": "2026-11-23T11:55", "end": "2026-11-23T12:10:10"} | more


def figures(html: str) -> dict[str, list[str]]:
    """Of the table of results."""
    found = re.findall(r'<th scope="row">([^<]+)</th>((?:<td>[^<]*</td>)+)', html)
    return {label: re.findall(r"<td>([^<]*)</td>", cells) for label, cells in found}


def test_the_page_says_what_to_do(console: Client) -> None:
    assert "There is no service yet." in text_of(html_of(console))
    factories.service()
    html = html_of(console)
    assert "Choose a service and press “Replay”" in text_of(html)
    assert re.search(r'name="start" value="\d{4}-\d\d-\d\dT\d\d:\d\d:00"', html)
    assert html.count(f'href="{PAGE}"') == 1  # the menu's


def test_a_service_alone_is_enough(console: Client) -> None:
    service = factories.service(interval_seconds=5)
    text = text_of(html_of(console, service=service.pk))
    assert "Nothing was recorded of" in text and "Samples are kept for 14 days" in text


def test_the_page_shows_figures_and_a_picture(console: Client, site: Site) -> None:
    billed(site)
    html = html_of(console, **question(site))
    assert figures(html) == {
        "Storms": ["2"],
        "Minutes covered": ["3.2"],
        "Detected after, median": ["20.0 s"],
        "Detected after, at most": ["20.0 s"],
        "Bytes that the backup would have served": ["250.00 GB"],
        "Delivery would have cost more": ["25.00 USD"],
        "Cover would have paid": ["-22.50 USD"],
        "Net": ["2.50 USD"],
        "Findings": ["0"],
    }
    assert (html.count('class="tr-bt-spell"'), html.count('class="tr-bt-held"')) == (2, 2)
    assert "<title>storm 12:01:30 UTC to 12:04:00 UTC</title>" in html
    cdn = site.targets["primary"].cdn
    assert f"primary {cdn}: 0.00 % at its lowest" in html and "Policy: storm 11:56:40 UTC" in html
    assert 'placeholder="60"' in html  # the service's own window
    assert "2026-11-23 12:01:30 UTC" in text_of(html) and "2 min 30 s" in text_of(html)


def test_the_page_sets_two_policies_side_by_side(console: Client, site: Site) -> None:
    html = html_of(console, **question(site, against_min_failures="6", against_threshold_avail="0.5"))
    told = figures(html)
    assert told["Storms"] == ["2", "1"] and told["Storms that the other has not"] == ["1", "0"]
    assert told["Failures for DOWN"] == ["3", "6"] and told["Bad below this share"] == ["0.9", "0.5"]
    assert "Window, seconds" not in told
    assert html.count('class="tr-bt-spell"') == 3
    assert text_of(html).count("only here") == 1
    assert "bad is below 90 %" in html and "bad is below 50 %" in html
    assert "No amounts: the customer has no contract" in text_of(html)


def test_against_is_as_the_policy_where_it_is_blank(console: Client, site: Site) -> None:
    told = figures(html_of(console, **question(site, min_failures="6", against_window_seconds="61")))
    assert told["Storms"] == ["1", "1"] and "Failures for DOWN" not in told


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        ({"service": ""}, "service", "This field is required."),
        ({"service": "999999"}, "service", "Select a valid choice."),
        ({"start": "soon"}, "start", "Enter a valid date/time."),
        ({"start": "0001-01-01T00:00:00+14:00"}, "start", "This is outside of the calendar."),
        ({"start": "2026-11-23T13:00"}, "start", "This is not before the end."),
        ({"start": "2026-10-01T00:00"}, "start", "That is more than 31 days before the end."),
        ({"threshold_avail": "2"}, "threshold_avail", "must be a number from 0.0001 to 1"),
        ({"min_samples": "7"}, "window_seconds", "6 samples fit into it at 10 s each; a verdict needs 7"),
        ({"against_cooldown_seconds": "-1"}, "against_cooldown_seconds", "must be a whole number from 0 to 86400"),
    ],
)
def test_errors_stand_at_their_field(
    console: Client, site: Site, change: dict[str, str], field: str, said: str
) -> None:
    response = console.get(PAGE, question(site) | change)
    form = response.context["form"]
    assert list(form.errors) == [field] and said in form.errors[field][0]
    html = response.content.decode()
    assert said in html and "tr-bt-answer" not in html


def test_too_many_samples_are_told_on_the_page(console: Client, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "MOST_SAMPLES", 100)
    assert "There are more than 100 samples: take a shorter time." in html_of(console, **question(site))


def test_a_link_may_write_times_with_their_zone(console: Client, site: Site) -> None:
    html = html_of(console, **question(site, start="2026-11-23T13:01:00+02:00"))
    assert 'name="start" value="2026-11-23T11:01:00"' in html


def test_who_may_look(site: Site) -> None:
    billed(site)
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    client = Client()
    assert client.get(PAGE).status_code == 302
    client.force_login(clerk)
    assert client.get(PAGE).status_code == 403
    clerk.user_permissions.add(Permission.objects.get(codename="view_stormpolicy"))
    told = figures(html_of(client, **question(site)))
    assert told["Storms"] == ["2"] and "Net" not in told
    clerk.user_permissions.add(Permission.objects.get(codename="view_invoice"))
    assert figures(html_of(client, **question(site)))["Net"] == ["2.50 USD"]


def test_the_page_asks_no_more_for_more_storms(console: Client) -> None:
    counts = []
    console.get("/admin/")  # the first page of a session notes when it began
    for happen in (outage, outage_and_a_blink):
        site = Site.build(**SHORT_TERMS)
        happen(site)
        billed(site)
        with CaptureQueriesContext(connection) as captured:
            html_of(console, **question(site, against_min_failures="6"))
        counts.append(len(captured))
    assert counts[0] == counts[1] <= 22


# --- the picture ---------------------------------------------------------------------------------------------------

START = datetime(2026, 3, 1, tzinfo=UTC)


def a_series(outcomes: list[str], every: int = 10, blind: tuple[int, ...] = ()) -> Series:
    series = Series()
    for place, outcome in enumerate(outcomes):
        moment = to_micros(START + timedelta(seconds=place * every))
        series.append(moment, CODES[outcome], is_blind=place in blind)
    return series


def a_backtest(paths: list[RecordedPath], length: timedelta, *policies: Policy) -> Backtest:
    recording = Recording((VantagePoint("a", "eu", "AS1"),), [paths])
    sides = [Side(policy, backtest.replay(recording, policy), None) for policy in policies or (Policy(min_vantages=1),)]
    service: Any = None
    return Backtest(service, START, START + length, recording, sides[0], sides[1] if len(sides) > 1 else None)


def test_buckets_hold_what_counts_and_the_worst_of_path_and_facet() -> None:
    seen = ["ok", "ok", "http_5xx", "ok", "blocked", "unknown", "http_5xx", "ok", "ok", "ok"]
    paths = [
        RecordedPath(1, "a.test", "primary One", "primary", series={"a": a_series(seen, blind=(6,))}),
        RecordedPath(2, "a.test", "facet", "facet", facet="ipv6", facet_of=1, series={"a": a_series(["timeout"] * 2)}),
        RecordedPath(3, "a.test", "backup Two", "backup", rank=1, series={"a": a_series(["ok"] * 10)}),
        RecordedPath(4, "a.test", "origin", "origin", series={"a": a_series(["timeout"] * 10)}),
    ]
    picture = backtest_chart.draw(a_backtest(paths, timedelta(seconds=100)))
    primary, backup = picture.lines
    assert (primary.name, primary.is_backup, backup.name, backup.is_backup) == (
        "primary One",
        False,
        "backup Two",
        True,
    )
    shares = re.findall(r"UTC: primary One ([^;]+);", picture.cells)
    assert shares == ["0.00 %", "50.00 %", "no data", "100.00 %", "100.00 %"]
    assert primary.points[0].startswith("0,116.0 200,116.0") and len(primary.points) == 2
    assert (primary.lowest, backup.lowest) == ("0.00 % at its lowest, at 00:00:00 UTC", "100.00 % at its lowest")
    assert picture.bucket == "20 seconds"


@pytest.mark.parametrize("length", [timedelta(seconds=1), timedelta(hours=1), timedelta(days=1), timedelta(days=31)])
def test_there_are_never_too_many_buckets(length: timedelta) -> None:
    paths = [RecordedPath(1, "a.test", "primary", "primary", series={"a": a_series(["ok"] * 10)})]
    picture = backtest_chart.draw(a_backtest(paths, length))
    assert 1 <= picture.cells.count("<rect") <= backtest_chart.MOST_BUCKETS


def test_thresholds_and_bands_have_their_place() -> None:
    seen = ["ok"] * 20 + ["http_5xx"] * 20 + ["ok"] * 60
    paths = [
        RecordedPath(1, "a.test", "primary", "primary", series={"a": a_series(seen)}),
        RecordedPath(2, "a.test", "backup", "backup", series={"a": a_series(["ok"] * 100)}),
        RecordedPath(3, "a.test", "origin", "origin", series={"a": a_series(["ok"] * 100)}),
    ]
    one = Policy(min_vantages=1, minimum_seconds=0, cooldown_seconds=0)
    other = replace(one, threshold_avail=Decimal("0.5"), min_failures=32)
    picture = backtest_chart.draw(a_backtest(paths, timedelta(seconds=1000), one, other))
    policy, against = picture.lanes
    assert (policy.threshold, policy.threshold_y) == ("90 %", 15.2)
    assert (against.threshold, against.threshold_y, against.bands) == ("50 %", 60.0, [])
    held, spell = policy.bands
    assert (spell.kind, spell.x, spell.width) == ("spell", 200.0, 200.0)
    assert spell.text == "storm 00:03:20 UTC to 00:06:40 UTC"
    assert (held.kind, held.x) == ("held", 200.0) and held.width >= spell.width
    assert against.alternative == "Against: no storm"
    assert policy.alternative in picture.alternative and "bad is below 50 %" in picture.alternative
