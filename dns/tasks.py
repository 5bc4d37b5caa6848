"""Celery's edge of steering. Tasks carry ids; what is due is in the tables."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from dns import steering


@shared_task(name="dns.steer")
def steer(service_ids: list[int] | None = None) -> None:
    """Plan, write what is due, and look at what is on its way, in one go: a storm does not wait for three ticks."""
    steering.steer(datetime.now(UTC), service_ids)
    steering.submit(datetime.now(UTC))
    steering.observe(datetime.now(UTC))


@shared_task(name="dns.look_for_drift")
def look_for_drift() -> None:
    """The slow sweep over every record set."""
    steering.observe(datetime.now(UTC), all_sets=True)
