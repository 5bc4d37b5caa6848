"""Celery on queues of one test's own in the shared Valkey, so that no other test's worker takes from them.

Import `broker_fixture`; tests ask for `broker`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tranche_site.celery import app


@pytest.fixture(name="broker")
def broker_fixture() -> Iterator[None]:
    before = app.conf.broker_transport_options
    app.conf.broker_transport_options = before | {"global_keyprefix": f"{uuid.uuid4()}:"}
    app._pool = app.amqp._producer_pool = None
    yield
    app.conf.broker_transport_options = before
    app._pool = app.amqp._producer_pool = None


def waiting(queue: str) -> int:
    """How many messages wait in a queue."""
    with app.connection_for_read() as connection:
        size: int = connection.default_channel.client.llen(queue)
        return size
