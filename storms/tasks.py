"""Celery's edge of storms. Judging them is chained with steering, in `tranche_site.flow`."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from celery import shared_task

from storms import keeping, packs

logger = logging.getLogger(__name__)


@shared_task(name="storms.keep_samples")
def keep_samples() -> None:
    now = datetime.now(UTC)
    if copied := keeping.keep_samples(now):
        logger.info("%s samples are kept with their storms", copied)
    if done := packs.seal(now):
        logger.info("the evidence of %s storms is complete and sealed", done)
