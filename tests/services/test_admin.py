from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from customers.models import Event
from services import proof
from services.models import Service, ServiceDomain, Target
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def page(domain: ServiceDomain) -> str:
    return reverse("admin:services_servicedomain_change", args=[domain.pk])


def test_a_new_domain_is_normalized_owned_and_leads_to_its_record(console: Client) -> None:
    service = factories.service()
    data = {"service": service.pk, "hostname": "WWW.Example.COM."}
    answer = console.post(reverse("admin:services_servicedomain_add"), data)
    domain = ServiceDomain.objects.get()
    assert (domain.hostname, domain.customer) == ("www.example.com", service.customer)
    assert answer.headers["Location"] == page(domain)
    html = console.get(page(domain)).content.decode()
    assert "_tranche-challenge.www.example.com" in html
    assert domain.challenge_value in html


def test_hostname_and_service_stay(console: Client) -> None:
    domain = factories.domain(hostname="www.example.com")
    other = factories.service()
    console.post(page(domain), {"hostname": "www.example.org", "service": other.pk, **_inline(domain)})
    domain.refresh_from_db()
    assert domain.hostname == "www.example.com"
    assert domain.service != other


def test_two_claims_of_one_customer_are_refused_in_words(console: Client) -> None:
    domain = factories.domain()
    data = {"service": domain.service.pk, "hostname": domain.hostname}
    html = console.post(reverse("admin:services_servicedomain_add"), data).content.decode()
    assert "This customer has this hostname already." in html


@pytest.mark.parametrize("found", [True, False])
def test_the_proof_is_checked_by_a_post_alone(console: Client, monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    domain = factories.domain(verified=False)

    def check(row: ServiceDomain, **kw: Any) -> ServiceDomain:
        row.check_result = "The token is there." if found else "No server has the token."
        row.verified_at = timezone.now() if found else None
        row.save()
        return row

    monkeypatch.setattr(proof, "check", check)
    url = reverse("admin:services_servicedomain_check_proof", args=[domain.pk])
    console.get(url)
    domain.refresh_from_db()
    assert domain.check_result == ""
    console.post(url, {"_form_submitted": "True", "reason": "they asked"})
    html = console.get(page(domain)).content.decode()
    assert ("The token is there." if found else "No server has the token.") in html


def _inline(domain: ServiceDomain, *paths: dict[str, Any]) -> dict[str, Any]:
    existing = domain.targets.count()
    form: dict[str, Any] = {"targets-TOTAL_FORMS": existing + len(paths), "targets-INITIAL_FORMS": existing}
    for number, target in enumerate(domain.targets.order_by("role", "rank", "id")):
        fields = {"id": target.pk, "cdn": target.cdn_id or "", "role": target.role, "enabled": "on"}
        fields |= {name: getattr(target, name) for name in ("rank", "address", "port", "capacity_percent")}
        form |= {f"targets-{number}-{name}": value for name, value in fields.items()}
    for number, path in enumerate(paths, start=existing):
        fields = {"rank": 1, "port": 443, "capacity_percent": 100, "enabled": "on"} | path
        form |= {f"targets-{number}-{name}": value for name, value in fields.items()}
    return form


def test_paths_are_added_on_the_domain(console: Client) -> None:
    domain = factories.domain()
    cdn = factories.cdn()
    paths = [
        {"role": "primary", "cdn": cdn.pk, "address": "a.edge.example"},
        {"role": "backup", "cdn": cdn.pk, "address": "b.edge.example"},
        {"role": "origin", "cdn": "", "address": "192.0.2.1"},
    ]
    answer = console.post(page(domain), _inline(domain, *paths))
    assert answer.status_code == 302
    assert {(t.role, t.customer_id) for t in domain.targets.all()} == {
        (path["role"], domain.customer_id) for path in paths
    }


def test_a_second_primary_is_refused_without_a_crash(console: Client) -> None:
    domain = factories.domain()
    factories.target(domain=domain)
    second = {"role": "primary", "cdn": factories.cdn().pk, "address": "b.edge.example"}
    assert console.post(page(domain), _inline(domain, second)).status_code == 200
    assert domain.targets.count() == 1


def test_a_reference_site_of_a_domain_is_refused_in_words(console: Client) -> None:
    data = {
        "role": "reference", "rank": 1, "domain": factories.domain().pk, "cdn": factories.cdn().pk,
        "address": "edge.example.net", "port": 443, "capacity_percent": 100, "hostname": "ref.example.net",
    }  # fmt: skip
    errors = console.post(reverse("admin:services_target_add"), data).context["adminform"].form.errors
    (rule,) = (c for c in Target._meta.constraints if c.name == "targets_role_has_its_owner")
    assert errors == {"__all__": [rule.violation_error_message]}
    assert not Target.objects.exists()


def test_a_deleted_service_gives_its_hostnames_back(console: Client) -> None:
    domain = factories.domain()
    url = reverse("admin:services_service_delete_softly", args=[domain.service.pk])
    console.post(url, {"_form_submitted": "True", "reason": "they asked"})
    domain.refresh_from_db()
    assert domain.deleted_at is not None
    assert domain.service.deleted_at == domain.deleted_at
    assert Service.objects.count() == 1


ASKED = {"_form_submitted": "True", "reason": "the wrong one"}


def delete(console: Client, row: Any) -> None:
    console.post(reverse(f"admin:services_{row._meta.model_name}_delete_softly", args=[row.pk]), ASKED)


def bring_back(console: Client, row: Any) -> str:
    """Tries; returns what the page says then."""
    page = reverse(f"admin:services_{row._meta.model_name}_restore", args=[row.pk])
    assert console.post(page, ASKED).status_code == 302
    row.refresh_from_db()
    return console.get(reverse(f"admin:services_{row._meta.model_name}_change", args=[row.pk])).content.decode()


def test_what_was_deleted_together_comes_back_together_and_nothing_else(console: Client) -> None:
    service = factories.service()
    gone, kept = factories.domain(service=service), factories.domain(service=service)
    policy = factories.policy(service=service)
    delete(console, gone)
    delete(console, service)
    assert console.post(reverse("admin:services_service_delete_softly", args=[service.pk]), ASKED).status_code == 403
    assert f"The service {service} is deleted itself: restore it first." in bring_back(console, gone)
    assert "is restored" in bring_back(console, service)
    for row in (gone, kept, policy):
        row.refresh_from_db()
    assert (service.deleted_at, kept.deleted_at, policy.deleted_at) == (None, None, None)
    assert gone.deleted_at is not None
    bring_back(console, gone)
    assert gone.deleted_at is None
    assert console.post(reverse("admin:services_service_restore", args=[service.pk]), ASKED).status_code == 403
    told = Event.objects.filter(kind__endswith=".restored").order_by("id").values_list("kind", flat=True)
    assert list(told) == ["service.restored", "domain.restored"]


def test_nothing_comes_back_whose_place_is_taken(console: Client) -> None:
    domain = factories.domain()
    delete(console, domain.service)
    factories.service(customer=domain.customer, name=domain.service.name)
    other = factories.domain(hostname=domain.hostname)  # another customer proved it meanwhile
    assert "has taken the place of" in bring_back(console, domain.service)
    domain.refresh_from_db()
    assert (domain.deleted_at, domain.service.deleted_at) != (None, None) and other.verified_at
    assert not Event.objects.filter(kind="service.restored").exists()


def test_what_is_deleted_is_not_offered_for_new_rows(console: Client) -> None:
    factories.service(name="alive")
    factories.service(name="dead", deleted_at=timezone.now())
    found = console.get(
        "/admin/autocomplete/?app_label=services&model_name=servicedomain&field_name=service&term="
    ).json()
    assert [row["text"] for row in found["results"]] == ["alive"]
