"""Celery's edge of billing."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from celery import shared_task

from billing import amending, compacting, corrections, estimating, invoicing, leftovers, metering, spending
from billing.segments import Month

logger = logging.getLogger(__name__)

LOOK_BACK = timedelta(days=2)
"""How far back a missed run of the hour may reach."""


@shared_task(name="billing.collect_usage")
def collect_usage() -> None:
    metering.collect_all(apply=True, now=datetime.now(UTC))


@shared_task(name="billing.estimate_usage")
def estimate_usage() -> None:
    estimating.estimate_all(datetime.now(UTC))


@shared_task(name="billing.compact_usage")
def compact_usage() -> None:
    compacting.compact(datetime.now(UTC))


@shared_task(name="billing.postpone_amendments")
def postpone_amendments() -> None:
    amending.postpone(datetime.now(UTC))


@shared_task(name="billing.draft_invoices")
def draft_invoices() -> None:
    """This month's drafts, last month's while late logs may come, and those of earlier months that were voided."""
    now = datetime.now(UTC)
    this = Month.at(now)
    problems = leftovers.draft_voided(now)
    for month in (this.before, this):
        problems += invoicing.draft_all(month, now)[1]
    _complain(problems)
    spending.fire_alerts(now)


@shared_task(name="billing.draft_late_months")
def draft_late_months() -> None:
    _complain(leftovers.draft_late(datetime.now(UTC)))


def _complain(problems: list[str]) -> None:
    for problem in problems:
        logger.warning("not drafted: %s", problem)


@shared_task(name="billing.finalize_invoices")
def finalize_invoices() -> None:
    """What is past its grace period is issued, what was issued wrong is corrected, what is overdue is asked for."""
    now = datetime.now(UTC)
    corrections.mark_ruled(now - LOOK_BACK)
    corrections.mark_limited(now - LOOK_BACK)
    issued, problems = invoicing.finalize_due(now)
    for invoice in (*issued, *corrections.credit_all(now)):
        logger.info("issued %s", invoice.number)
    for problem in problems:
        logger.warning("not finalized: %s", problem)
    invoicing.remind(now)
