from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import Customer
from dns.models import RecordSet, WeightChange
from services.models import Target
from tests import factories
from tests.answers import assert_problem, queries_of


@pytest.fixture
def owner(db: None) -> Customer:
    return factories.customer()


@pytest.fixture
def client(owner: Customer, client_of: Callable[[Customer], APIClient]) -> APIClient:
    return client_of(owner)


def steered(owner: Customer, **kw: Any) -> tuple[RecordSet, Target, Target]:
    """A record set with its primary and its backup."""
    domain = factories.domain(service=factories.service(customer=owner))
    primary, backup = factories.target(domain=domain), factories.target("backup", domain=domain)
    return factories.record_set(domain=domain, **kw), primary, backup


def change(record_set: RecordSet, weights: dict[str, int], **kw: Any) -> WeightChange:
    return WeightChange.objects.create(
        **{
            "customer": record_set.customer,
            "service": record_set.domain.service,
            "record_set": record_set,
            "generation": record_set.changes.count() + 1,
            "weights": weights,
            "reason": "made by a test",
        }
        | kw
    )


def test_a_domain_without_a_record_set_is_not_steered(client: APIClient, owner: Customer) -> None:
    domain = factories.domain(service=factories.service(customer=owner))
    assert client.get("/v1/routing").json() == [
        {
            "domain": domain.pk,
            "service": domain.service_id,
            "hostname": domain.hostname,
            "is_steered": False,
            "paths": {},
            "wanted_weights": None,
            "observed_weights": None,
            "generation": None,
            "observed_generation": None,
            "observed_at": None,
            "observation": None,
            "change": None,
        }
    ]


def test_routing_tells_what_is_wanted_and_what_was_seen(client: APIClient, owner: Customer) -> None:
    record_set, primary, backup = steered(owner, generation=2)
    before, after = {str(primary.pk): 100, str(backup.pk): 0}, {str(primary.pk): 0, str(backup.pk): 100}
    RecordSet.objects.update(observed_weights=before, observed_generation=1, observed_at=timezone.now())
    change(record_set, before, state="observed")
    live = change(record_set, after, state="submitted", reason="the primary is down")

    [told] = client.get(f"/v1/routing?service={record_set.domain.service_id}").json()

    assert told["is_steered"] is True
    assert (told["wanted_weights"], told["observed_weights"]) == (after, before)
    assert (told["generation"], told["observed_generation"]) == (2, 1)
    assert primary.cdn and told["paths"][str(primary.pk)] == {
        "role": "primary",
        "rank": 1,
        "cdn": primary.cdn.slug,
        "address": primary.address,
    }
    assert set(told["paths"]) == set(after)
    assert (told["change"]["id"], told["change"]["state"]) == (live.pk, "submitted")
    assert told["change"]["reason"] == "the primary is down"
    assert client.get(f"/v1/routing?service={factories.service(customer=owner).pk}").json() == []


def test_what_failed_or_was_superseded_is_no_longer_wanted(client: APIClient, owner: Customer) -> None:
    record_set, primary, _ = steered(owner)
    change(record_set, {str(primary.pk): 100}, state="observed")
    change(record_set, {str(primary.pk): 50}, state="superseded")
    change(record_set, {str(primary.pk): 0}, state="failed")
    [told] = client.get("/v1/routing").json()
    assert told["wanted_weights"] == {str(primary.pk): 100}
    assert told["change"] is None


def test_weight_changes_are_told_and_filtered(client: APIClient, owner: Customer) -> None:
    record_set, primary, _ = steered(owner)
    weights = {str(primary.pk): 100}
    seen = change(record_set, weights, state="observed")
    held = change(record_set, weights, state="held", held_reason="blast radius")

    def ids(query: str = "") -> list[int]:
        return [row["id"] for row in client.get(f"/v1/weight-changes?{query}").json()]

    assert ids() == ids(f"service={record_set.domain.service_id}") == [held.pk, seen.pk]
    assert ids("state=held") == [held.pk]
    assert client.get("/v1/weight-changes?state=lost").status_code == 400
    told = client.get(f"/v1/weight-changes/{held.pk}").json()
    assert told["domain"] == record_set.domain_id
    assert told["weights"] == weights
    assert told["held_reason"] == "blast radius"
    assert_problem(client.post("/v1/weight-changes", {}), 405)


@pytest.mark.parametrize(("path", "queries"), [("routing", 4), ("weight-changes", 2)])
def test_a_list_costs_the_same_however_long(client: APIClient, owner: Customer, path: str, queries: int) -> None:
    def make() -> None:
        record_set, primary, backup = steered(owner)
        change(record_set, {str(primary.pk): 100, str(backup.pk): 0})

    make()
    one = queries_of(client, f"/v1/{path}")
    for _ in range(19):
        make()
    assert len(client.get(f"/v1/{path}").json()) == 20
    assert queries_of(client, f"/v1/{path}") == one == queries
