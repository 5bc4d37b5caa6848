"""What all tests share: no test leaves this machine, and a client that speaks for a customer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.conf import settings
from pytest_socket import socket_allow_hosts
from rest_framework.test import APIClient

from tests import factories

if TYPE_CHECKING:
    from collections.abc import Callable

    from customers.models import Customer

LOOPBACK = ["127.0.0.0/8", "::1"]


@pytest.fixture(autouse=True)
def _loopback_only() -> None:
    # Unix sockets stay open: Postgres and Valkey answer there.
    socket_allow_hosts(LOOPBACK, allow_unix_socket=True)


@pytest.fixture(autouse=True, scope="session")
def _static_root() -> None:
    # WhiteNoise warns of a directory that isn't there, and warnings are errors.
    settings.STATIC_ROOT.mkdir(exist_ok=True)


@pytest.fixture
def client_of(db: None) -> Callable[[Customer], APIClient]:
    """A client of the v1 API with a key of the given customer."""

    def client_of(owner: Customer) -> APIClient:
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(owner)}")
        return client

    return client_of
