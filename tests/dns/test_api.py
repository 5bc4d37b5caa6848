from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import Customer, Event
from dns.models import Drill, RecordSet, SteeringTerms, WeightChange
from dns.providers.contract import Check
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
            "is_armed": False,
            "unarmed_reason": None,
            "checks": [],
            "paths": {},
            "wanted_weights": None,
            "observed_weights": None,
            "generation": None,
            "observed_generation": None,
            "observed_at": None,
            "observation": None,
            "drifted_since": None,
            "is_left_alone": False,
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


def test_routing_tells_whether_a_domain_is_armed_and_what_is_the_matter(client: APIClient, owner: Customer) -> None:
    record_set, *_ = steered(owner)
    [told] = client.get("/v1/routing").json()
    assert (told["is_armed"], told["unarmed_reason"], told["checks"]) == (True, "", [])
    check = Check("delegation", False, "the world finds it elsewhere", "choose the zone that is delegated to")
    since = timezone.now()
    RecordSet.objects.update(
        checks=[asdict(check)], armed_at=None, unarmed_reason="delegation: …", drifted_since=since, is_held=True
    )
    [told] = client.get("/v1/routing").json()
    assert (told["is_steered"], told["is_armed"], told["unarmed_reason"]) == (True, False, "delegation: …")
    assert told["checks"] == [
        {
            "name": "delegation", "holds": False, "text": "the world finds it elsewhere",
            "advice": "choose the zone that is delegated to", "is_must": True, "is_unclear": False,
        }
    ]  # fmt: skip
    assert (told["drifted_since"], told["is_left_alone"]) == (since.isoformat().replace("+00:00", "Z"), True)
    RecordSet.objects.filter(pk=record_set.pk).update(released_at=since)
    assert client.get("/v1/routing").json()[0]["is_steered"] is False


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
    held = change(
        record_set, weights, state="held", refusal="blast_radius", held_reason="blast radius", is_urgent=True,
        trouble="foreign_record", drain=[{"after_seconds": 30.5, "answers": {str(primary.pk): 3, "other": 1}}],
    )  # fmt: skip

    def ids(query: str = "") -> list[int]:
        return [row["id"] for row in client.get(f"/v1/weight-changes?{query}").json()]

    assert ids() == ids(f"service={record_set.domain.service_id}") == [held.pk, seen.pk]
    assert ids("state=held") == [held.pk]
    assert client.get("/v1/weight-changes?state=lost").status_code == 400
    told = client.get(f"/v1/weight-changes/{held.pk}").json()
    assert told["domain"] == record_set.domain_id
    assert told["weights"] == weights
    assert told["held_reason"] == "blast radius"
    assert (told["refusal"], told["trouble"], told["is_urgent"]) == ("blast_radius", "foreign_record", True)
    assert told["drain"] == [{"after_seconds": 30.5, "answers": {str(primary.pk): 3, "other": 1}}]
    assert_problem(client.post("/v1/weight-changes", {}), 405)


@pytest.mark.parametrize(
    ("path", "queries"), [("routing", 4), ("weight-changes", 2), ("steering-terms", 2), ("drills", 2)]
)
def test_a_list_costs_the_same_however_long(client: APIClient, owner: Customer, path: str, queries: int) -> None:
    def make() -> None:
        record_set, primary, backup = steered(owner)
        change(record_set, {str(primary.pk): 100, str(backup.pk): 0})
        of_service = {"customer": owner, "service": record_set.domain.service}
        SteeringTerms.objects.create(**of_service)
        Drill.objects.create(**of_service)

    make()
    one = queries_of(client, f"/v1/{path}")
    for _ in range(19):
        make()
    assert len(client.get(f"/v1/{path}").json()) == 20
    assert queries_of(client, f"/v1/{path}") == one == queries


# --- steering terms -------------------------------------------------------------------------------------------------


def test_terms_are_made_read_and_changed(client: APIClient, owner: Customer) -> None:
    service = factories.service(customer=owner)
    answer = client.post("/v1/steering-terms", {"service": service.pk, "failback": "approval", "standing_percent": 2})
    assert answer.status_code == 201
    told = answer.json()
    terms = SteeringTerms.objects.get()
    assert (terms.customer, terms.failback, terms.standing_percent) == (owner, "approval", 2)
    assert told == client.get(f"/v1/steering-terms/{terms.pk}").json()
    assert (told["spread"], told["window_start"], told["window_weekdays"], told["drill_percent"]) == (
        "rank",
        None,
        [],
        2,
    )
    changed = client.patch(
        f"/v1/steering-terms/{terms.pk}",
        {"failback": "window", "window_start": "02:00", "window_seconds": 7200, "window_weekdays": ["sat", "sun"]},
    )
    assert changed.status_code == 200
    assert changed.json()["window_start"] == "02:00:00"
    assert client.get(f"/v1/steering-terms?service={service.pk}").json() == [changed.json()]
    assert client.get("/v1/steering-terms?service=1000000").json() == []
    assert_problem(client.delete(f"/v1/steering-terms/{terms.pk}"), 405)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"failback": "window"}, "window_start"),
        ({"window_start": "02:00"}, "window_seconds"),
        ({"window_start": "02:00+01:00", "window_seconds": 7200}, "window_start"),
        ({"standing_percent": 6}, "standing_percent"),
        ({"drill_percent": 0}, "drill_percent"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"parity_paths": ["/a"]}, "parity_paths"),
        ({"parity_paths": ["a", "b", "c", "d", "e"]}, "parity_paths"),
        ({"window_weekdays": ["holiday"]}, "window_weekdays/0"),
        ({"spread": "wide"}, "spread"),
        ({"standing": 1}, "standing"),
    ],
)  # fmt: skip
def test_terms_of_no_sense_are_refused_at_their_field(
    client: APIClient, owner: Customer, fields: dict[str, Any], pointer: str
) -> None:
    service = factories.service(customer=owner)
    answer = client.post("/v1/steering-terms", {"service": service.pk} | fields)
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{pointer}"]
    assert not SteeringTerms.objects.exists()


def test_a_service_has_one_row_of_terms_and_keeps_it(client: APIClient, owner: Customer) -> None:
    service, other = factories.service(customer=owner), factories.service(customer=owner)
    terms = SteeringTerms.objects.create(customer=owner, service=service)
    answer = client.post("/v1/steering-terms", {"service": service.pk})
    assert answer.status_code == 409
    assert answer.json()["errors"][0]["pointer"] == "#/service"
    assert client.patch(f"/v1/steering-terms/{terms.pk}", {"service": other.pk}).status_code == 400


# --- drills ---------------------------------------------------------------------------------------------------------


def test_a_drill_is_asked_for_and_called_off(client: APIClient, owner: Customer) -> None:
    service = steered(owner)[0].domain.service
    later = (timezone.now() + timedelta(days=1)).replace(microsecond=0)
    answer = client.post(
        "/v1/drills", {"service": service.pk, "percent": 3, "minutes": 20, "scheduled_at": later.isoformat()}
    )
    assert answer.status_code == 201
    drill = Drill.objects.get()
    assert (drill.customer, drill.percent, drill.minutes, drill.scheduled_at) == (owner, 3, 20, later)
    assert answer.json() == client.get(f"/v1/drills/{drill.pk}").json()
    assert answer.json()["state"] == "scheduled"

    again = client.post("/v1/drills", {"service": service.pk})
    assert again.status_code == 409
    assert again.json()["detail"] == "This service has a drill that is not over."

    cancelled = client.post(f"/v1/drills/{drill.pk}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert cancelled.json()["outcome"] == "cancelled by the API key “tests”"
    assert Event.objects.filter(kind="drill.cancelled", customer=owner).exists()
    assert_problem(client.post(f"/v1/drills/{drill.pk}/cancel"), 409)
    assert [row["id"] for row in client.get("/v1/drills?state=cancelled").json()] == [drill.pk]
    assert client.get("/v1/drills?state=running").json() == []


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"percent": 6}, "percent"),
        ({"percent": 0}, "percent"),
        ({"minutes": 121}, "minutes"),
        ({"scheduled_at": "soon"}, "scheduled_at"),
        ({"scheduled_at": "0001-01-01T00:00:00+14:00"}, "scheduled_at"),
        ({"state": "passed"}, "state"),
        ({"outcome": "fine"}, "outcome"),
    ],
)  # fmt: skip
def test_drills_of_no_sense_are_refused(
    client: APIClient, owner: Customer, fields: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/drills", {"service": steered(owner)[0].domain.service_id} | fields)
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{pointer}"]
    assert not Drill.objects.exists()


def test_what_is_not_steered_is_not_drilled(client: APIClient, owner: Customer) -> None:
    answer = client.post("/v1/drills", {"service": factories.service(customer=owner).pk})
    assert (answer.status_code, answer.json()["detail"]) == (400, "None of its domains is steered.")


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_a_vendor_says_of_a_shared_account_is_not_for_its_customers(client_of: Any, is_shared: bool) -> None:
    record_set = factories.record_set()
    said = "User: arn:aws:sts::111122223333:assumed-role/ours may not ChangeResourceRecordSets on hostedzone/ZOTHER"
    account = record_set.account
    account.customer = None if is_shared else record_set.customer
    account.save()
    check = {"name": "permissions", "holds": False, "text": said, "advice": "", "is_must": True, "is_unclear": False}
    record_set.checks = [check, check | {"name": "proof", "text": "the TXT record is gone"}]
    record_set.armed_at, record_set.unarmed_reason = None, f"permissions: {said}"
    record_set.save()
    [told] = client_of(record_set.customer).get("/v1/routing").json()
    assert ("arn:aws" in str(told)) is not is_shared
    assert told["checks"][1]["text"] == "the TXT record is gone"
    if is_shared:
        assert told["unarmed_reason"] == "permissions: our DNS account is in trouble with it; we have been told"
