"""Celery's edge of billing."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from celery import shared_task

from billing import invoicing, metering

logger = logging.getLogger(__name__)


@shared_task(name="billing.collect_usage")
def collect_usage() -> None:
    metering.collect_all(apply=True, now=datetime.now(UTC))


@shared_task(name="billing.draft_invoices")
def draft_invoices() -> None:
    """This month's drafts, and last month's while late logs may come."""
    now = datetime.now(UTC)
    last_month = now.replace(day=1) - timedelta(days=1)
    for day in (last_month, now):
        _, problems = invoicing.draft_all(invoicing.Period.of(day.year, day.month), now)
        for problem in problems:
            logger.warning("not drafted: %s", problem)


@shared_task(name="billing.finalize_invoices")
def finalize_invoices() -> None:
    issued, problems = invoicing.finalize_due(datetime.now(UTC))
    for invoice in issued:
        logger.info("issued %s", invoice.number)
    for problem in problems:
        logger.warning("not finalized: %s", problem)
