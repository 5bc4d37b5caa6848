from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from customers import keys
from customers.models import ApiKey, Customer
from tests import factories

pytestmark = pytest.mark.django_db


def get(authorization: str | None = None, path: str = "/v1/services") -> Any:
    headers = {} if authorization is None else {"authorization": authorization}
    return APIClient().get(path, headers=headers)


def assert_challenged(response: Any) -> None:
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Unauthorized", 401)
    assert problem["detail"]


def test_a_key_opens_the_api() -> None:
    response = get(f"Bearer {factories.api_key(factories.customer())}")
    assert (response.status_code, response.json()) == (200, [])


def test_the_scheme_is_not_case_sensitive() -> None:
    assert get(f"bearer {factories.api_key(factories.customer())}").status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Bearer a b",
        "Basic dTpw",
        "Token x",
        "Bearer \xe9\x00",
        "\xff",
    ],
)
def test_no_key_or_a_malformed_one_is_challenged(authorization: str | None) -> None:
    assert_challenged(get(authorization))


def test_an_unknown_key_is_challenged() -> None:
    assert_challenged(get(f"Bearer {keys.generate()}"))


def test_the_right_prefix_with_another_secret_is_challenged(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = factories.api_key(factories.customer())
    monkeypatch.setattr("secrets.token_hex", lambda n: secret[4:12])
    forged = keys.generate()
    assert keys.prefix(forged) == keys.prefix(secret) and forged != secret
    assert_challenged(get(f"Bearer {forged}"))


@pytest.mark.parametrize("field", ["revoked_at", "expires_at"])
def test_a_revoked_or_expired_key_is_challenged(field: str) -> None:
    secret = factories.api_key(factories.customer(), **{field: timezone.now()})
    assert_challenged(get(f"Bearer {secret}"))


def test_a_key_works_until_it_expires() -> None:
    secret = factories.api_key(factories.customer(), expires_at=timezone.now() + timedelta(minutes=1))
    assert get(f"Bearer {secret}").status_code == 200


def test_a_deleted_customer_is_refused() -> None:
    owner = factories.customer()
    secret = factories.api_key(owner)
    Customer.objects.filter(pk=owner.pk).update(deleted_at=timezone.now())
    assert_challenged(get(f"Bearer {secret}"))


def test_use_is_noted_at_most_once_a_minute() -> None:
    secret = factories.api_key(factories.customer())
    get(f"Bearer {secret}")
    first = ApiKey.objects.get().last_used_at
    assert first is not None
    with CaptureQueriesContext(connection) as queries:
        get(f"Bearer {secret}")
    assert not [q for q in queries if q["sql"].startswith("UPDATE")]
    assert ApiKey.objects.get().last_used_at == first

    ApiKey.objects.update(last_used_at=first - timedelta(seconds=61))
    get(f"Bearer {secret}")
    assert ApiKey.objects.get().last_used_at >= first


@pytest.mark.parametrize(
    ("scopes", "method", "status"),
    [
        (["read"], "get", 200),
        (["read"], "post", 403),
        (["write"], "get", 403),
        (["write"], "post", 400),  # allowed, and then there is no body
        ([], "get", 403),
        ([], "post", 403),
    ],
)
def test_scopes(scopes: list[str], method: str, status: int) -> None:
    secret = factories.api_key(factories.customer(), scopes=scopes)
    response = getattr(APIClient(), method)("/v1/services", headers={"authorization": f"Bearer {secret}"})
    assert response.status_code == status
    if status == 403:
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["title"] == "Forbidden"
