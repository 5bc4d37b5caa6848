"""When workers were last heard of, by queue: one small hash in the broker, which each worker writes with its heartbeat."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

BROKER_TIMEOUT_SECONDS = 0.5
"""For each of connecting and answering."""
BROKER_ERRORS = (OperationalError, RedisError, OSError)

KEY = "tranche.workers"
EVERY_SECONDS = 5.0
FORGOTTEN_SECONDS = 24 * 3600
"""A queue that nobody serves any more is forgotten after a day; until then it is told how long."""

_last = 0.0


def tell(sender: Any = None, **_: Any) -> None:
    """Of `heartbeat_sent`, which comes every two seconds: every few of them, note that this worker's queues are served."""
    global _last
    now = time.monotonic()
    if now - _last < EVERY_SECONDS:
        return
    _last = now
    queues = list(current_app.amqp.queues.consume_from)
    try:
        with broker_client() as client:
            note(client, queues)
    except BROKER_ERRORS as error:
        logger.warning("the broker could not be told that this worker lives: %s", error)


@contextmanager
def broker_client() -> Iterator[Any]:
    """The broker as a Redis client that gives up soon. Raises one of BROKER_ERRORS."""
    timeouts = {"socket_timeout": BROKER_TIMEOUT_SECONDS, "socket_connect_timeout": BROKER_TIMEOUT_SECONDS}
    options = {**settings.CELERY_BROKER_TRANSPORT_OPTIONS, **timeouts}
    with current_app.connection_for_read(transport_options=options) as broker:
        broker.ensure_connection(max_retries=1, interval_start=0, timeout=1)
        channel: Any = broker.default_channel  # of Redis, which typing does not know
        yield channel.client


def note(client: Any, queues: list[str]) -> None:
    client.hset(KEY, mapping={queue: int(time.time()) for queue in queues})


def ages(client: Any) -> dict[str, float]:
    """Seconds since a worker of each queue was heard of."""
    now = time.time()
    told = {queue.decode(): max(now - int(at), 0.0) for queue, at in client.hgetall(KEY).items()}
    if old := [queue for queue, age in told.items() if age > FORGOTTEN_SECONDS]:
        client.hdel(KEY, *old)
    return {queue: age for queue, age in told.items() if queue not in old}
