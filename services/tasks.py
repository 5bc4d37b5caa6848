"""Celery's edge of probing. A probe worker keeps one resident prober; the tasks only wake it."""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from datetime import UTC, datetime

from celery import shared_task

from services import facets, partitions, proof, rollups, schedule
from services.models import VantagePoint, queue_of
from services.prober import Prober

logger = logging.getLogger(__name__)

KEEP_PROBING_SECONDS = 5.0

_prober: Prober | None = None


def start_prober(posts: list[str], on_bad: Callable[[set[int]], None]) -> Prober:
    """Make this process the prober of these posts (`NAME` or `NAME.SHARD`); the roof calls it when a worker is ready."""
    global _prober
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the usual 1,024 are fewer than probes may be in flight
    _prober = Prober(posts, on_bad=on_bad, on_first_bad=_ask_others(posts))
    _prober.ensure_running()
    return _prober


def stop_prober() -> None:
    if _prober:
        _prober.stop()


def _ask_others(own: list[str]) -> Callable[[int, float], None]:
    ours = {f"probe.{post}" for post in own}

    def ask(domain_id: int, slot: float) -> None:
        for point in VantagePoint.objects.exclude(state=VantagePoint.State.OFF):
            queue = queue_of(point.name, schedule.shard_of(domain_id, point.shards))
            if queue not in ours:
                confirm.apply_async((domain_id, slot), queue=queue, expires=KEEP_PROBING_SECONDS)

    return ask


@shared_task(name="services.keep_probing")
def keep_probing() -> None:
    """Wake the prober of every vantage point that is not off."""
    for point in VantagePoint.objects.exclude(state=VantagePoint.State.OFF):
        for queue in point.queues:
            probe.apply_async(queue=queue, expires=KEEP_PROBING_SECONDS)


@shared_task(name="services.probe")
def probe() -> None:
    if _prober:
        _prober.ensure_running()
        _prober.look_for_changes()


@shared_task(name="services.confirm")
def confirm(domain_id: int, slot: float) -> None:
    """Confirming shots at a domain that another vantage point saw fail."""
    if _prober:
        _prober.confirm(domain_id, slot)


@shared_task(name="services.maintain_partitions")
def maintain_partitions() -> None:
    now = datetime.now(UTC)
    for maintain in (partitions.maintain, partitions.maintain_months):
        made, dropped = maintain(now)
        if made or dropped:
            logger.info("sample partitions: made %s, dropped %s", made, dropped)


@shared_task(name="services.keep_facets")
def keep_facets() -> None:
    """Every save of a service or a path keeps its own; this mends what was changed past them."""
    facets.keep()


@shared_task(name="services.check_proofs")
def check_proofs() -> None:
    """Leaves half of the time that a task may take to what it began."""
    proof.check_due(datetime.now(UTC), seconds=25)


@shared_task(name="services.roll_up")
def roll_up() -> None:
    now = datetime.now(UTC)
    rollups.roll_up(now)
    rollups.roll_up_hours(now)
