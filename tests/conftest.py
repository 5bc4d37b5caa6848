"""No test leaves this machine: sockets reach loopback and unix sockets only."""

from __future__ import annotations

import pytest
from pytest_socket import socket_allow_hosts

LOOPBACK = ["127.0.0.0/8", "::1"]


@pytest.fixture(autouse=True)
def _loopback_only() -> None:
    socket_allow_hosts(LOOPBACK, allow_unix_socket=True)
