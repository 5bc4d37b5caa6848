"""Celery's edge of steering. Tasks carry ids; what is due is in the tables."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from dns import steering

LOOK_AGAIN_SECONDS = 0.15


@shared_task(name="dns.steer")
def steer(service_ids: list[int] | None = None) -> None:
    """Plan, write what is due, and look at what is on its way, in one go: a storm does not wait for three ticks."""
    steering.steer(datetime.now(UTC), service_ids)
    written = steering.submit(datetime.now(UTC))
    steering.observe(datetime.now(UTC))
    if written:
        look_again.apply_async(countdown=LOOK_AGAIN_SECONDS, expires=10)


@shared_task(name="dns.look_again")
def look_again(times: int = 8) -> None:
    """A write shows within milliseconds at some servers and within a minute at others; the first second is worth a look."""
    if steering.is_any_on_its_way() and times:
        steering.observe(datetime.now(UTC))
        look_again.apply_async((times - 1,), countdown=LOOK_AGAIN_SECONDS, expires=10)


@shared_task(name="dns.look_for_drift")
def look_for_drift() -> None:
    """The slow sweep over every record set."""
    steering.observe(datetime.now(UTC), all_sets=True)
