"""Chains the steps for speed; the beat schedule sweeps the same steps for safety. Upstream apps know nothing of this."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from dns import tasks as dns_tasks
from storms.watch import watch


@shared_task(name="tranche_site.react")
def react(service_ids: list[int] | None = None) -> None:
    """Judge services (all, or those that were just seen failing), and steer those whose state changed."""
    changed = watch(datetime.now(UTC), service_ids).changed
    if changed:
        dns_tasks.steer.delay(sorted(set(changed)))


def react_to_bad_samples(service_ids: set[int]) -> None:
    react.apply_async((sorted(service_ids),), expires=10)
