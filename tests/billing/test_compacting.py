"""Minutes become quarters of an hour; no sum changes, and nothing is counted twice."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models import Sum

from billing import compacting, invoicing, metering
from billing.models import LogObject, UsageBucket, UsageSource
from services.models import Target
from tests.billing.log_lines import logpush
from tests.billing.story import GB, MARCH, at, billed_customer, storm, use
from tests.billing.test_metering import deliver
from tranche_site.floor import faults

LATER = at(1) + timedelta(days=140)


class Killed(BaseException):
    """Stands for a SIGKILL."""


def sums() -> Any:
    return UsageBucket.objects.aggregate(bytes=Sum("bytes"), requests=Sum("requests"))


@pytest.mark.django_db
def test_minutes_become_quarters_save_around_storms_and_the_invoice_is_the_same() -> None:
    customer, service = billed_customer()
    for hour in (1, 9, 10, 11, 14, 20):
        for minute in (0, 7, 14, 15, 59):
            use(service, "backup", at(5, hour, minute), 7 * GB)
    use(service, "primary", at(4), 100 * GB)
    storm(service, at(5, 10), at(5, 11))
    (before,) = invoicing.draft(customer, MARCH, LATER)
    was = sums()

    assert compacting.compact(LATER) == 9 + 1  # of the hours 1, 14 and 20, each in three quarters, and of the 4th
    kept = UsageBucket.objects.filter(minutes=1)
    assert {row.minute_at.hour for row in kept} == {9, 10, 11}
    assert sums() == was
    assert set(UsageBucket.objects.filter(minutes=15).values_list("log_object", flat=True)) == {None}
    (after,) = invoicing.draft(customer, MARCH, LATER)
    assert (after.pk, after.sha256) == (before.pk, before.sha256)
    assert compacting.compact(LATER) == 0


@pytest.mark.django_db
def test_what_is_young_stays_by_the_minute() -> None:
    _, service = billed_customer()
    use(service, "primary", at(5), GB)
    assert compacting.compact(at(5) + timedelta(days=99)) == 0


@pytest.mark.django_db(transaction=True)
def test_killed_while_merging_nothing_is_lost() -> None:
    _, service = billed_customer()
    for minute in range(30):
        use(service, "primary", at(5, 1, minute), GB)
    was = sums()

    def die() -> None:
        raise Killed

    faults.arm("billing.merged", die)
    with pytest.raises(Killed):
        compacting.compact(LATER)
    faults.disarm()
    assert (sums(), UsageBucket.objects.filter(minutes=15).count()) == (was, 0)
    assert compacting.compact(LATER) == 2 and sums() == was


@pytest.mark.django_db
def test_late_minutes_join_their_quarter_and_a_merged_object_can_not_be_replaced(tmp_path: Path) -> None:
    _, service = billed_customer()
    target = Target.objects.get(domain__service=service, role="primary")
    assert target.domain and target.cdn
    type(target.domain).objects.update(
        hostname="www.example.com", verified_at=datetime(2020, 1, 1, tzinfo=at(1).tzinfo)
    )
    source = UsageSource.objects.create(
        name="logs", cdn=target.cdn, kind="directory", format="cloudflare_logpush", location=str(tmp_path)
    )
    moment = str(int(at(5, 1, 3).timestamp()))

    def collect(name: str, size: int) -> None:
        deliver(tmp_path, name, logpush(EdgeStartTimestamp=moment, EdgeResponseBytes=size, RayID=f"{name}{size}"))
        report = metering.collect(source, apply=True, now=LATER)
        assert not report.error, report

    collect("a.log", 1000)
    compacting.compact(LATER)
    assert LogObject.objects.get().merged_at == LATER
    collect("b.log", 500)  # late, and new: it is added
    assert sums() == {"bytes": 1500, "requests": 2}
    compacting.compact(LATER)
    assert UsageBucket.objects.get().bytes == 1500
    collect("a.log", 9999)  # what it counted can't be told from b's any more
    for _ in range(metering.TRIES):
        metering.collect(source, apply=True, now=LATER)
    assert sums()["bytes"] == 1500
    refused = LogObject.objects.get(state="quarantined")
    assert "merged into sums on 2026-07-19" in refused.reason
