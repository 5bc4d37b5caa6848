"""What all tests share: no test leaves this machine, and a client that speaks for a customer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from django.conf import settings
from pytest_socket import socket_allow_hosts
from rest_framework.test import APIClient

from tests import factories, flush, order

if TYPE_CHECKING:
    from collections.abc import Callable

    from customers.models import Customer

flush.install()
# A quarter of a second for each account would be a third of the whole run.
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if settings.EMBEDDED_POSTGRES:
    settings.DATABASES["default"]["TEST"]["TEMPLATE"] = settings.DATABASES["default"][
        "NAME"
    ]  # which tests.plugin migrated

LOOPBACK = ["127.0.0.0/8", "::1"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        order.longest_first(items, workers)


@pytest.fixture(autouse=True)
def _loopback_only() -> None:
    # Unix sockets stay open: Postgres and Valkey answer there.
    socket_allow_hosts(LOOPBACK, allow_unix_socket=True)


@pytest.fixture
def client_of(db: None) -> Callable[[Customer], APIClient]:
    """A client of the v1 API with a key of the given customer."""

    def client_of(owner: Customer) -> APIClient:
        client = APIClient()
        # Most tests change what they have just made, whatever its ETag; what If-Match is for, test_views asks.
        client.credentials(
            HTTP_AUTHORIZATION=f"Bearer {factories.api_key(owner)}",
            HTTP_IF_MATCH="*",
            HTTP_X_REQUEST_ID="asked-by-a-test",
        )
        return client

    return client_of
