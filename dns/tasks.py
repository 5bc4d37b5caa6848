"""Celery's edge of steering. Tasks carry ids; what is due is in the tables."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from dns import beacon, breakglass, drills, outbox, readiness, reconcile, steering

LOOK_AGAIN_SECONDS = 0.15


@shared_task(name="dns.steer")
def steer(service_ids: list[int] | None = None) -> None:
    """Plan, write what is due, and look at what is on its way, in one go: a storm does not wait for three ticks."""
    steering.steer(datetime.now(UTC), service_ids, then=lambda: outbox.submit(datetime.now(UTC)))
    outbox.submit(datetime.now(UTC))
    outbox.poll(datetime.now(UTC))
    reconcile.observe(datetime.now(UTC))
    if reconcile.is_any_on_its_way():
        look_again.apply_async(countdown=LOOK_AGAIN_SECONDS, expires=10)


@shared_task(name="dns.look_again")
def look_again(times: int = 8) -> None:
    """A write shows within milliseconds at some servers and within a minute at others; the first second is worth a look."""
    if reconcile.is_any_on_its_way() and times:
        reconcile.observe(datetime.now(UTC))
        look_again.apply_async((times - 1,), countdown=LOOK_AGAIN_SECONDS, expires=10)


@shared_task(name="dns.look_for_drift")
def look_for_drift() -> None:
    """The slow sweep: record sets whose turn it is, and what resolvers still answer."""
    reconcile.sweep(datetime.now(UTC))
    reconcile.give_up_drains()
    reconcile.watch_drain(datetime.now(UTC))


@shared_task(name="dns.check_readiness")
def check_readiness() -> None:
    """The check lists whose turn it is: looks at the world, so it takes its time, beside what steers."""
    readiness.check_due(datetime.now(UTC))


@shared_task(name="dns.tend_drills")
def tend_drills() -> None:
    drills.tend(datetime.now(UTC))


@shared_task(name="dns.refresh_break_glass")
def refresh_break_glass() -> None:
    """Make the scripts whose turn it is, and delete the health checks that no record names any more."""
    breakglass.refresh(datetime.now(UTC))
    beacon.tidy(datetime.now(UTC))
