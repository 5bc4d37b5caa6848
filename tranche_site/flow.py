"""Chains the steps for speed; the beat schedule sweeps the same steps for safety. Upstream apps know nothing of this."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from celery import shared_task
from django.utils import timezone

from customers.models import Event
from dns import tasks as dns_tasks
from storms.models import StormEvent
from storms.watch import watch
from tranche_site import audit, invariants
from tranche_site.digests import collecting, mailing
from tranche_site.floor import logs
from tranche_site.paging import sending, sync

logger = logging.getLogger(__name__)


@shared_task(name="tranche_site.react")
def react(service_ids: list[int] | None = None) -> None:
    """Judge services (all, or those that were just seen failing), and steer those whose state changed."""
    report = watch(datetime.now(UTC), service_ids)
    if report.changed:
        changed = sorted(set(report.changed))
        # Named in the lines of the task that steers them, too.
        logs.about(service_ids=changed, storm_ids=StormEvent.objects.ids_of(report.opened))
        dns_tasks.steer.delay(changed)


@shared_task(name="tranche_site.seal_audit")
def seal_audit() -> None:
    audit.seal(timezone.now())


@shared_task(name="tranche_site.selfcheck")
def selfcheck(now: datetime | None = None) -> None:
    """The nightly audit: what does not hold is an event for staff, and in the log."""
    for finding in invariants.check(now or datetime.now(UTC)):
        for text in finding.violations:
            logger.error("%s does not hold: %s: %s", finding.id, finding.title, text)
        if not finding.holds:
            Event.objects.create(
                kind="selfcheck.violated", subject_type="invariant", subject_id=0,
                summary=f"{finding.id} does not hold ({finding.title}): {finding.violations[0]}",
                payload={"id": finding.id, "violations": finding.violations},
            )  # fmt: skip


@shared_task(name="tranche_site.page")
def page() -> None:
    """Calls people about what burns, and tells them when it is over."""
    sync.sync(datetime.now(UTC))
    sending.send_due(datetime.now(UTC))


@shared_task(name="tranche_site.mail_digests")
def mail_digests() -> None:
    """Mails customers and staff what happened, few mails whatever did."""
    collecting.collect(datetime.now(UTC))
    mailing.mail_due(datetime.now(UTC))
    mailing.tidy(datetime.now(UTC))


def react_to_bad_samples(service_ids: set[int]) -> None:
    react.apply_async((sorted(service_ids),), expires=10)
