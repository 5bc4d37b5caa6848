"""An outsider at every door: the routes are read from the URL configuration, so a new one can't be forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone
from rest_framework.test import APIClient

from billing import bill, drafting
from billing.models import Contract, Dispute, Invoice, InvoiceLineItem, Payment, SpendAlert, UsageSnapshot
from customers.models import (
    SCOPES,
    STAFF_SCOPES,
    ApiKey,
    Customer,
    DeliveryAttempt,
    Event,
    WebhookDelivery,
    WebhookEndpoint,
)
from customers.scoped import Scoped
from dns.models import BreakGlassScript, Drill, Freeze, Pin, SteeringTerms, WeightChange
from services.models import MaintenanceWindow, SampleMinute, Service, ServiceDomain, Target
from storms.models import Finding, StormPolicy
from tests import factories
from tests.samples import record

LINE = 4_000_001
"""The id of the tenant's line, for routes that name one besides their row."""
VERBS = ("get", "head", "post", "put", "patch", "delete", "options")

# Every route below /v1 is of one of these kinds. A new one fails the tests until it is listed here; what is not public
# wants a key, and what is a customer's own is then tried with another customer's.
PUBLIC = {"openapi", "docs"}
SHARED = {"cdn-list", "event-kind-list", "account", "break-glass-key"}
OWN = {
    "api-key-list", "api-key-detail", "api-key-rotate",
    "event-list", "event-detail",
    "webhook-endpoint-list", "webhook-endpoint-detail", "webhook-endpoint-rotate-secret", "webhook-endpoint-enable",
    "webhook-endpoint-test", "webhook-endpoint-replay-dead",
    "webhook-delivery-list", "webhook-delivery-detail", "webhook-delivery-attempts", "webhook-delivery-replay",
    "service-list", "service-detail", "service-timeline-svg",
    "domain-list", "domain-detail", "domain-check",
    "cdn-path-list", "cdn-path-detail",
    "availability-list", "sample-list",
    "maintenance-window-list", "maintenance-window-detail",
    "storm-policy-list", "storm-policy-detail", "storm-policy-versions",
    "cdn-incident-list", "cdn-incident-detail",
    "pin-list", "pin-detail", "freeze-list", "freeze-detail",
    "storm-list", "storm-detail", "storm-evidence", "storm-timeline-svg",
    "finding-list", "finding-detail",
    "backtest-list",
    "routing-list",
    "weight-change-list", "weight-change-detail",
    "steering-terms-list", "steering-terms-detail",
    "drill-list", "drill-detail", "drill-cancel",
    "break-glass-list",
    "usage-snapshot-list", "usage-snapshot-detail",
    "invoice-list", "invoice-detail", "invoice-document-html", "invoice-document-pdf", "invoice-document-csv",
    "invoice-annex-html", "invoice-line-evidence", "invoice-payments",
    "payment-list", "payment-detail",
    "dispute-list", "dispute-detail", "dispute-withdraw",
    "contract-list", "contract-detail",
    "spend-list",
    "spend-alert-list", "spend-alert-detail",
}  # fmt: skip


class Route(NamedTuple):
    name: str
    pattern: str
    view: Any

    @property
    def is_detail(self) -> bool:
        return "pk" in self.pattern

    def url(self, pk: int) -> str:
        pattern = re.sub(r"\(\?P<line>.*?\)", str(LINE), self.pattern)
        prefix, _, rest = pattern.replace("^", "").rstrip("$").partition("(?P<pk>")
        return "/" + prefix + (f"{pk}{rest.partition(')')[2]}" if rest else "")


def _routes(resolver: URLResolver, prefix: str = "") -> Iterator[Route]:
    for entry in resolver.url_patterns:
        pattern = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _routes(entry, pattern)
        elif isinstance(entry, URLPattern) and pattern.startswith("v1/") and pattern != "v1/":
            yield Route(entry.name or pattern, pattern, entry.callback)


ROUTES = [*_routes(get_resolver())]
CLOSED = [route for route in ROUTES if route.name not in PUBLIC]
OWN_ROUTES = [route for route in ROUTES if route.name in OWN]


def _name(route: Route) -> str:
    return route.name


@pytest.fixture
def tenant(db: None) -> Customer:
    """A customer with something of every kind."""
    contract: Contract = factories.contract()
    customer = contract.customer
    service = factories.service(customer=customer)
    domain = factories.domain(service=service)
    path = factories.target(domain=domain)
    now, march, april = timezone.now(), datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    of_service: dict[str, Any] = {"customer": customer, "service": service}
    factories.maintenance_window(service=service)
    factories.storm(service=service, policy=factories.policy(service=service), incident=factories.incident())
    ApiKey.issue(customer, "terraform", ["read"])
    Pin.objects.create(**of_service, backup_percent=10, reason="a look", expires_at=now + timedelta(days=1))
    Freeze.objects.create(**of_service, reason="a look")
    Finding.objects.create(**of_service, kind="blocked", reason="403", first_seen_at=now, last_seen_at=now)
    record_set = factories.record_set(domain=domain)
    WeightChange.objects.create(
        **of_service,
        record_set=record_set,
        generation=1,
        weights={str(path.pk): 100},
        reason="first plan",
    )
    SteeringTerms.objects.create(**of_service)
    Drill.objects.create(**of_service)
    BreakGlassScript.objects.create(customer=customer, record_set=record_set, direction="shift", text="exit 0")
    SampleMinute.objects.create(
        customer_id=customer.pk,
        service_id=service.pk,
        target_id=path.pk,
        vantage_point_id=1,
        minute_at=now.replace(second=0, microsecond=0) - timedelta(minutes=5),
        good=1,
    )
    record([path], [factories.vantage_point()], [now - timedelta(minutes=5)])
    UsageSnapshot.objects.create(**of_service, target=path, window_start=march, window_end=april, bytes=1, requests=1)
    prices = contract.rate_card.versions.get()
    draft = Invoice.objects.create(
        customer=customer,
        contract=contract,
        prices=prices,
        currency="USD",
        period_start=march,
        period_end=april,
        as_of=now,
        formula="F1",
        inputs=drafting.terms_of(contract, prices, {}) | {"storms": [], "usage": []},
        extras=bill.to_json(bill.Charges()),
        decisions={"storms": [], "events": []},
    )
    line = InvoiceLineItem.objects.create(
        **of_service, id=LINE, invoice=draft, position=1, kind="usage", path="primary", description="Delivery",
        amount_minor=0, details={},
    )  # fmt: skip
    Payment.objects.create(customer=customer, invoice=draft, amount_minor=1, reference="R-1", recorded_by="ann")
    Dispute.objects.create(customer=customer, line=line, reason="not ours", opened_by="key")
    SpendAlert.objects.create(customer=customer, threshold_minor=100)
    endpoint = WebhookEndpoint.objects.create(customer=customer, url="https://hook.example.org/", kinds=["*"])
    event = Event.record("storm.opened", service, "a storm", customer_id=customer.pk)
    delivery = WebhookDelivery.objects.create(
        customer=customer, endpoint=endpoint, event=event, sequence=1, next_attempt_at=now
    )
    DeliveryAttempt.objects.create(delivery=delivery, at=now, milliseconds=1, status=500)
    return customer


def _rows(route: Route, customer: Customer) -> Any:
    return route.view.cls.queryset.all().filter(**{route.view.cls.owner: customer})


def _client(secret: str | None) -> APIClient:
    client = APIClient()
    if secret:
        client.credentials(
            HTTP_AUTHORIZATION=f"Bearer {secret}", HTTP_IF_MATCH="*", HTTP_X_REQUEST_ID="asked-by-a-test"
        )
    return client


def _outcome(response: Any) -> tuple[int, str, bytes]:
    return response.status_code, response["Content-Type"], response.content


def test_every_route_is_classified() -> None:
    names = {route.name for route in ROUTES}
    assert names == PUBLIC | SHARED | OWN


def test_every_own_route_goes_through_the_one_scope() -> None:
    for route in OWN_ROUTES:
        assert issubclass(route.view.cls, Scoped), route.name
        assert route.view.cls.get_queryset is Scoped.get_queryset, route.name


@pytest.mark.parametrize("route", CLOSED, ids=_name)
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("key", ["none", "revoked"])
def test_without_a_valid_key_every_verb_is_challenged(db: None, route: Route, verb: str, key: str) -> None:
    secret = factories.api_key(factories.customer(), revoked_at=timezone.now()) if key == "revoked" else None
    response = getattr(_client(secret), verb)(route.url(1), {} if verb != "head" else None)
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert response["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("route", OWN_ROUTES, ids=_name)
def test_the_owner_sees_its_own(tenant: Customer, route: Route) -> None:
    if "get" not in route.view.actions:
        return
    row = _rows(route, tenant).first()
    assert row is not None, "give the tenant one of these"
    response = _client(factories.api_key(tenant)).get(route.url(row.pk))
    assert response.status_code == 200
    assert response["Content-Type"] != "application/json" or response.json() != []


@pytest.mark.parametrize("route", OWN_ROUTES, ids=_name)
@pytest.mark.parametrize("verb", VERBS)
def test_somebody_elses_is_like_nothing(tenant: Customer, route: Route, verb: str) -> None:
    row = _rows(route, tenant).first()
    assert row is not None, "give the tenant one of these"
    outsider = _client(factories.api_key(factories.customer(), (*SCOPES, *STAFF_SCOPES)))
    before = [*_rows(route, tenant).values()]

    foreign = getattr(outsider, verb)(route.url(row.pk))
    absent = getattr(outsider, verb)(route.url(10**12))

    assert _outcome(foreign) == _outcome(absent)
    assert foreign.status_code == _expected(route, verb)
    if verb == "get" and not route.is_detail and foreign.status_code == 200:
        # Who asks has a key, which is its own, and heard that it was made.
        own: dict[str, list[Any]] = {
            "api-key-list": [key.pk for key in ApiKey.objects.exclude(customer=tenant)],
            "event-list": [f"evt_{event.pk}" for event in Event.objects.exclude(customer=tenant)],
        }
        assert [line["id"] for line in foreign.json()] == own.get(route.name, [])
    assert [*_rows(route, tenant).values()] == before


def _expected(route: Route, verb: str) -> int:
    if verb not in route.view.cls.http_method_names or verb not in route.view.actions:
        return 405
    if route.is_detail:
        return 404
    return 400 if verb == "post" else 200


def test_somebody_elses_rows_cannot_be_named_in_a_body(tenant: Customer) -> None:
    outsider = _client(factories.api_key(factories.customer()))
    service, domain = Service.objects.get(customer=tenant), ServiceDomain.objects.get(customer=tenant)
    path = Target.objects.select_related("cdn").get(customer=tenant)
    assert path.cdn
    line = InvoiceLineItem.objects.get(customer=tenant)
    attempts = [
        ("domains", {"service": service.pk, "hostname": "mine.example.org"}),
        ("storm-policies", {"service": service.pk, "kind": "tls"}),
        (
            "maintenance-windows",
            {
                "service": service.pk, "first_day": "2026-11-23", "local_time": "02:30", "duration_seconds": 3600,
                "reason": "not yours",
            },
        ),
        ("cdn-paths", {"domain": domain.pk, "role": "backup", "cdn": path.cdn.slug, "address": "edge.example.org"}),
        ("steering-terms", {"service": service.pk}),
        ("drills", {"service": service.pk}),
        ("pins", {"service": service.pk, "backup_percent": 50, "reason": "x", "expires_at": "2099-01-01T00:00:00Z"}),
        ("freezes", {"service": service.pk, "reason": "x"}),
        ("disputes", {"line": line.pk, "reason": "too much"}),
        ("backtests", {"service": service.pk, "start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}),
    ]  # fmt: skip
    models = (ServiceDomain, StormPolicy, Target, MaintenanceWindow, SteeringTerms, Drill, Dispute, Pin, Freeze)
    before = [model._default_manager.count() for model in models]
    for collection, body in attempts:
        field = next(name for name in ("domain", "service", "line") if name in body)
        told = set()
        for pk in (body[field], 10**12):
            answer = outsider.post(f"/v1/{collection}", body | {field: pk})
            assert answer.status_code == 400
            told.add(answer.content.replace(f'\\"{pk}\\"'.encode(), b"?"))  # in quotes: alone, 4 is in “400” too
        assert len(told) == 1
    assert [model._default_manager.count() for model in models] == before


def test_somebody_elses_rows_cannot_be_filtered_out(tenant: Customer) -> None:
    outsider = _client(factories.api_key(factories.customer()))
    service = Service.objects.get(customer=tenant)
    for route in OWN_ROUTES:
        filters = getattr(getattr(route.view.cls, "filterset_class", None), "base_filters", {})
        if not route.is_detail and "get" in route.view.actions and "service" in filters:
            response = outsider.get(f"{route.url(0)}?service={service.pk}")
            assert (response.status_code, response.json()) == (200, []), route.name


def test_a_row_is_never_moved_to_another_tenant(tenant: Customer) -> None:
    other = factories.service()
    client = _client(factories.api_key(tenant))
    collections = {
        "services": Service, "storm-policies": StormPolicy, "cdn-paths": Target, "steering-terms": SteeringTerms
    }  # fmt: skip
    for collection, model in collections.items():
        row = model._default_manager.get(customer=tenant)
        for body in ({"customer": other.customer_id}, {"customer_id": other.customer_id}, {"service_id": other.pk}):
            assert client.patch(f"/v1/{collection}/{row.pk}", body).status_code == 400
        row.refresh_from_db()
        assert row.customer == tenant


def test_the_account_is_that_of_the_key(tenant: Customer) -> None:
    for customer in (tenant, factories.customer()):
        account = _client(factories.api_key(customer)).get("/v1/account").json()
        assert account["customer"]["id"] == customer.pk
    assert ApiKey.objects.exclude(name="terraform").count() == 2


@pytest.mark.parametrize("route", [route for route in ROUTES if route.name in PUBLIC], ids=_name)
def test_what_is_public_needs_no_key_and_changes_nothing(db: None, route: Route) -> None:
    assert APIClient().get(route.url(0)).status_code == 200
    for verb in ("post", "put", "patch", "delete"):
        assert getattr(APIClient(), verb)(route.url(0)).status_code == 405
