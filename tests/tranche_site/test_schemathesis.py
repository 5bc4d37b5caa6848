"""The document against the API: generated requests of a tenant that has something of everything, beside another tenant.

SCHEMATHESIS_CASES says how many for each operation; 200 is the full run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from customers.models import SCOPES, STAFF_SCOPES, Customer
from tests import factories
from tests.tranche_site.test_tenancy import tenant  # noqa: F401
from tranche_site.wsgi import application

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "2"))

IS_FULL = CASES >= 50

schema = schemathesis.openapi.from_wsgi("/v1/openapi.json", application)
schema.config.phases.coverage.enabled = IS_FULL  # some hundred boundary values for each operation


@schema.auth(refresh_interval=None)
class Key:
    secret = ""

    def get(self, case: Any, context: Any) -> str:
        return self.secret

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


@pytest.fixture
def key(tenant: Customer) -> Iterator[None]:  # noqa: F811
    # Else each request would close the connection that the test's transaction is open on.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    Key.secret = factories.api_key(tenant, (*SCOPES, *STAFF_SCOPES))
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@schema.parametrize()
@settings(
    max_examples=CASES, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much, HealthCheck.too_slow],
)  # fmt: skip
def test_it_does_what_it_says(case: Any, key: None) -> None:
    # A request may be of the right shape and yet say what can't be, such as a window too short for its samples, or more
    # time than one answer holds.
    says_more = case.method in ("POST", "PATCH") or case.path in ("/v1/availability", "/v1/samples")
    excluded = [positive_data_acceptance] if says_more else []
    case.call_and_validate(headers={"If-Match": "*"}, excluded_checks=excluded)
