"""Customers that manage their own keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import ApiKey, Customer, IdempotentRequest
from tests import factories
from tests.answers import assert_problem


@pytest.fixture
def owner(db: None) -> Customer:
    return factories.customer()


def with_key(secret: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


def master(owner: Customer, *scopes: str) -> APIClient:
    return with_key(factories.api_key(owner, scopes or ("read", "write", "keys")))


def test_a_key_is_issued_and_shown_once(owner: Customer) -> None:
    client = master(owner)
    made = client.post("/v1/api-keys", {"name": "ci", "scopes": ["write", "read"]}, headers={"Idempotency-Key": "k1"})
    assert made.status_code == 201 and made["Cache-Control"] == "no-store"
    secret = made.json()["secret"]
    assert made.json()["scopes"] == ["read", "write"]
    assert with_key(secret).get("/v1/account").json()["key"]["id"] == made.json()["id"]
    again = client.post("/v1/api-keys", {"name": "ci", "scopes": ["write", "read"]}, headers={"Idempotency-Key": "k1"})
    assert again.json() == made.json() | {"secret": None}
    assert secret not in IdempotentRequest.objects.get().body
    assert secret not in client.get("/v1/api-keys").content.decode()


def test_nobody_grants_what_it_may_not(owner: Customer) -> None:
    client = master(owner)
    for scopes in (["steer"], ["payments"], ["read", "payments"], [], ["root"], "read"):
        assert_problem_in(client.post("/v1/api-keys", {"name": "x", "scopes": scopes}), "scopes")
    assert master(owner, "read", "write").post("/v1/api-keys", {"name": "x", "scopes": ["read"]}).status_code == 403
    assert master(owner, "read", "write").get("/v1/api-keys").status_code == 403
    strong = ApiKey.issue(owner, "strong", ["read", "steer"])[0]
    assert client.post(f"/v1/api-keys/{strong.pk}/rotate", {}).status_code == 403
    past = (timezone.now() - timedelta(hours=1)).isoformat()
    assert_problem_in(client.post("/v1/api-keys", {"name": "x", "scopes": ["read"], "expires_at": past}), "expires_at")


def assert_problem_in(answer: Any, field: str) -> None:
    assert answer.status_code == 400
    assert {error["pointer"].split("/")[1] for error in answer.json()["errors"]} == {field}


def test_both_keys_work_while_they_overlap_and_then_the_new_one(owner: Customer) -> None:
    client = master(owner)
    old, secret = ApiKey.issue(owner, "ci", ["read"])
    made = client.post(f"/v1/api-keys/{old.pk}/rotate", {"overlap_seconds": 3600})
    assert made.status_code == 201
    new = made.json()["secret"]
    assert [with_key(s).get("/v1/services").status_code for s in (secret, new)] == [200, 200]
    old.refresh_from_db()
    assert old.expires_at is not None
    assert timedelta(minutes=59) < old.expires_at - timezone.now() <= timedelta(hours=1)
    ApiKey.objects.filter(pk=old.pk).update(expires_at=timezone.now())
    assert [with_key(s).get("/v1/services").status_code for s in (secret, new)] == [401, 200]
    assert client.post(f"/v1/api-keys/{old.pk}/rotate", {}).status_code == 409
    assert_problem(
        client.post(f"/v1/api-keys/{made.json()['id']}/rotate", {"overlap_seconds": 10**6}), 400, "overlap_seconds"
    )


def test_a_rotation_never_lengthens_a_life(owner: Customer) -> None:
    soon = timezone.now() + timedelta(minutes=5)
    old = ApiKey.issue(owner, "ci", ["read"], soon)[0]
    new, _ = old.rotate(timezone.now(), timedelta(days=1))
    old.refresh_from_db()
    assert (old.expires_at, new.expires_at) == (soon, soon)


def test_revoked_it_is_refused_with_the_next_request(owner: Customer) -> None:
    key, secret = ApiKey.issue(owner, "ci", ["read"])
    assert with_key(secret).get("/v1/services").status_code == 200
    assert master(owner).delete(f"/v1/api-keys/{key.pk}").status_code == 204
    assert with_key(secret).get("/v1/services").status_code == 401
    key.refresh_from_db()
    first = key.revoked_at
    assert master(owner).delete(f"/v1/api-keys/{key.pk}").status_code == 204
    key.refresh_from_db()
    assert key.revoked_at == first


def test_what_a_key_makes_ends_with_it(owner: Customer) -> None:
    soon = timezone.now() + timedelta(minutes=5)
    lent = with_key(factories.api_key(owner, ("read", "keys"), expires_at=soon))
    for asked in ({}, {"expires_at": (soon + timedelta(days=9)).isoformat()}):
        made = lent.post("/v1/api-keys", {"name": "for ever", "scopes": ["read"], **asked}, format="json")
        assert made.status_code == 201
        assert ApiKey.objects.get(pk=made.json()["id"]).expires_at == soon


def test_a_key_revokes_none_that_may_do_more(owner: Customer) -> None:
    weak = master(owner, "read", "keys")
    strong = ApiKey.issue(owner, "strong", ["read", "steer"])[0]
    assert weak.delete(f"/v1/api-keys/{strong.pk}").status_code == 403
    strong.refresh_from_db()
    assert strong.revoked_at is None
