"""The page of one service."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from dns.models import Drill, Freeze
from services.models import Service, ServiceDomain
from storms.models import PathVerdict
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tests.tranche_site import console_rows as rows
from tranche_site import roles
from tranche_site.console import service_page

pytestmark = pytest.mark.django_db


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def url(service: Service, name: str = "service") -> str:
    return reverse(f"admin:{name}", args=[service.pk])


def html(console: Client, service: Service, query: str = "") -> str:
    return console.get(url(service) + query).content.decode()


def headline(service: Service) -> tuple[str, str]:
    found = service_page.read(service.pk, "1h", timezone.now(), may_see_money=False)
    assert found
    return found.tone, found.headline


@pytest.fixture
def domain() -> ServiceDomain:
    return rows.protected_domain()


def test_what_is_so_now_in_one_sentence(domain: ServiceDomain) -> None:
    service = domain.service
    assert headline(service) == ("success", "All 3 paths are UP.")
    backup = PathVerdict.objects.get(target__role="backup")
    PathVerdict.objects.filter(pk=backup.pk).update(verdict="DOWN")
    assert headline(service) == ("danger", "DOWN: backup. No storm is open.")
    PathVerdict.objects.update(verdict="UP", evaluated_at=timezone.now() - timedelta(minutes=3))
    assert headline(service) == ("quiet", "UNKNOWN: backup, origin, primary. No storm is open.")  # an old UP is not UP
    now = timezone.now()
    row = factories.storm(service=service, started_at=now - timedelta(minutes=5), reason="half of the probes fail")
    tone, said = headline(service)
    assert tone == "danger" and said.endswith("half of the probes fail")
    type(row).objects.filter(pk=row.pk).update(ended_at=now)
    assert headline(service)[0] == "warning"
    assert headline(factories.service()) == (
        "quiet",
        "It has no domain yet: add one, then its paths on the domain’s page.",
    )


def test_it_shows_paths_domains_policy_drill_and_what_is_missing(console: Client, domain: ServiceDomain) -> None:
    service = domain.service
    policy = factories.policy(service=service)
    record_set = domain.record_set
    record_set.armed_at = None
    record_set.unarmed_reason = "the zone is not ours"
    record_set.checks = [
        {"name": "zone", "holds": False, "text": "no such zone", "advice": "Name the account.", "is_must": True},
        {"name": "ttl", "holds": True, "text": "30 s", "advice": "", "is_must": True},
    ]
    record_set.observed_weights = {str(domain.targets.get(role="primary").pk): 100}
    record_set.observed_at = timezone.now()
    record_set.save()
    own = {"customer": service.customer, "service": service}
    Drill.objects.create(**own, state="passed", started_at=timezone.now(), ended_at=timezone.now())
    factories.finding(**own, kind="backup_unfit", reason="it answers 403")
    page = html(console, service)
    for said in (
        "not armed: the zone is not ours", "<b>zone:</b> no such zone", "Name the account.", "backup_unfit", "it answers 403",
        "Last drill", "a storm below 90.0%", f"version {policy.version}", "<td>100 %</td>", "Nothing is billed yet",
        url(service, "service_live") + "?zoom=24h", reverse("admin:services_service_change", args=[service.pk]),
        f'{reverse("admin:backtest")}?service={service.pk}',
    ):  # fmt: skip
        assert said in page, said
    assert "<b>ttl:</b>" not in page
    assert page.count("<svg xmlns") == 2


def test_money_is_what_the_service_is_of_each_invoice_and_for_those_who_may_see_it(console: Client) -> None:
    from billing import invoicing

    customer, service = billed_customer()
    use(service, "primary", at(2, 12), 4000 * GB)
    use(service, "backup", at(5, 10, 5), 100 * GB)
    storm(service, at(5, 10), at(5, 10, 12))
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    type(draft).objects.update(period_start=timezone.now() - timedelta(days=40), period_end=timezone.now())
    lines = draft.lines.all()
    charged = sum(line.amount_minor for line in lines if line.kind != "cover")
    cover = sum(line.amount_minor for line in lines if line.kind == "cover")
    assert charged and cover
    page = html(console, service)
    assert f"{charged / 100:,.2f} USD" in page and f"cover −{cover / 100:,.2f}" in page
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    clerk.user_permissions.set(_permissions("view_service"))
    plain = Client()
    plain.force_login(clerk)
    assert "Money" not in plain.get(url(service)).content.decode()


def _permissions(*names: str) -> list[object]:
    from django.contrib.auth.models import Permission

    return list(Permission.objects.filter(codename__in=names))


@pytest.mark.parametrize("zoom", ["1h", "24h", "7d", "30d", "nonsense"])
def test_zoom_is_a_link(console: Client, domain: ServiceDomain, zoom: str) -> None:
    page = html(console, domain.service, f"?zoom={zoom}")
    current = "24h" if zoom == "nonsense" else zoom
    assert f'href="?zoom={current}" aria-current="true"' in page
    assert page.count('aria-current="true"') == 1


def test_an_operator_gets_it_with_twelve_queries_whatever_there_is(domain: ServiceDomain) -> None:
    roles.seed()
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    clerk.groups.set(Group.objects.filter(name="Tranche: operator"))
    client = Client()
    client.force_login(clerk)
    service = domain.service

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert client.get(url(service)).status_code == 200
        return len(queries)

    count()  # the first page of a session notes when it began
    few = count()
    for kind in ("blocked", "latency", "certificate"):
        factories.finding(service=service, customer=service.customer, kind=kind)
    for _ in range(4):
        other = rows.protected_domain(service=service)
        rows.weight_change(other.record_set)
        Freeze.objects.create(customer=service.customer, service=service, reason="a look")
    factories.storm(service=service)
    assert count() == few <= 12


def test_it_is_for_those_who_may_see_services() -> None:
    service = factories.service()
    client = Client()
    assert client.get(url(service)).status_code == 302
    answer = client.get(url(service, "service_live"))
    assert (answer.status_code, answer["HX-Refresh"]) == (401, "true")
    client.force_login(User.objects.create_user("clerk", password="a long enough word", is_staff=True))
    assert client.get(url(service)).status_code == 403
    assert client.get(url(service, "service_live")).status_code == 403
    client.force_login(rows.operator())
    assert client.get(reverse("admin:service", args=[10**9])).status_code == 404
    live = client.get(url(service, "service_live") + "?zoom=7d")
    assert (live.status_code, live["Cache-Control"]) == (200, "no-store")
    assert b"<html" not in live.content
