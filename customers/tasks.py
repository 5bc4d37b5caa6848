from datetime import UTC, datetime

from celery import shared_task

from customers import idempotency
from customers.webhooks import outbox

TURNS = 5
"""While there is something to send, a task goes on for some turns before the next one takes over."""


@shared_task(name="customers.send_webhooks")
def send_webhooks() -> None:
    outbox.fan_out(datetime.now(UTC))
    for _ in range(TURNS):
        if not outbox.send_due(failing=False):
            return


@shared_task(name="customers.retry_webhooks")
def retry_webhooks() -> None:
    """To receivers that failed lately: each may take its whole time again, and nobody else should wait for that."""
    outbox.send_due(failing=True)


@shared_task(name="customers.prune")
def prune() -> None:
    idempotency.prune(datetime.now(UTC))
