"""The dashboard's picture of traffic by path."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.models import LogObject, UsageBucket, UsageSource
from services.models import Target
from tests import factories
from tranche_site.console import traffic

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def use(target: Target, minutes_ago: int, size: int) -> None:
    at = NOW.replace(second=0) - timedelta(minutes=minutes_ago)
    source, _ = UsageSource.objects.get_or_create(
        name=f"logs {target.pk}",
        cdn=target.cdn,
        defaults={"kind": "directory", "format": "cloudfront", "location": "/x"},
    )
    log = LogObject.objects.create(source=source, key=f"{at}", etag="", size_bytes=1, state="counted")
    UsageBucket.objects.create(
        customer=target.customer, service=target.domain.service, target=target, log_object=log, minute_at=at,  # type: ignore[union-attr]
        bytes=size, requests=1,
    )  # fmt: skip


@pytest.mark.django_db
def test_bars_stack_the_backup_on_the_primary() -> None:
    assert traffic.read(NOW) is None
    domain = factories.domain()
    primary, backup = (factories.target(role, domain=domain) for role in ("primary", "backup"))
    use(primary, 1, 3_000_000)
    use(backup, 1, 1_000_000)
    use(backup, 0, 2_000_000)
    use(primary, traffic.MINUTES, 9_000_000)  # before the picture begins
    seen = traffic.read(NOW)
    assert seen and seen.peak == "4.00 MB a minute at most"
    before, last = seen.bars[-2:]
    assert (before.primary_height, before.backup_height) == (72, 24)
    assert before.backup_y + before.backup_height == before.primary_y
    assert (last.primary_height, last.backup_height, last.backup_y) == (0, 48, 48)
    assert last.title == "12:00 UTC: primary 0.00 MB, backup 2.00 MB"
    assert sum(bar.primary_height + bar.backup_height for bar in seen.bars[:-2]) == 0
