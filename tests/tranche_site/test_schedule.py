"""The beat schedule: seeded once, and every row of it leads to a task that some worker takes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from tranche_site import schedule
from tranche_site.celery import app
from tranche_site.schedule import SCHEDULE, Entry
from tranche_site.supervisor import QUEUES

each_entry = pytest.mark.parametrize("entry", SCHEDULE, ids=lambda entry: entry.name)


@pytest.mark.django_db
def test_the_seed_makes_what_is_missing_and_no_more() -> None:
    assert schedule.seed() == [entry.name for entry in SCHEDULE]
    assert schedule.seed() == []
    PeriodicTask.objects.filter(name=SCHEDULE[0].name).delete()
    assert schedule.seed() == [SCHEDULE[0].name]
    assert PeriodicTask.objects.count() == len(SCHEDULE)


@pytest.mark.django_db
def test_an_operators_change_stays() -> None:
    schedule.seed()
    slower = IntervalSchedule.objects.create(every=7, period=IntervalSchedule.MINUTES)
    changes = {"interval": slower, "enabled": False, "queue": "storms", "expire_seconds": 3, "description": "Mine."}
    PeriodicTask.objects.filter(name="Steer DNS").update(**changes)
    schedule.seed()
    row = PeriodicTask.objects.get(name="Steer DNS")
    assert {field: getattr(row, field) for field in changes} == changes


@pytest.mark.django_db
@each_entry
def test_each_row_says_what_its_entry_says(entry: Entry) -> None:
    schedule.seed()
    row = PeriodicTask.objects.get(name=entry.name)
    assert (row.task, row.queue, row.enabled) == (entry.task, entry.queue, True)
    assert row.interval.schedule.run_every == timedelta(seconds=entry.every_seconds)
    # A message that nobody took before the next turn is worth nothing.
    assert row.expire_seconds == entry.every_seconds
    # Otherwise restarts more often than the interval would put it off for ever.
    assert row.last_run_at and timezone.now() - row.last_run_at < timedelta(minutes=1)


@each_entry
def test_each_entry_leads_to_a_task_that_a_worker_takes(entry: Entry) -> None:
    app.loader.import_default_modules()
    assert entry.task in app.tasks
    assert entry.queue in QUEUES
    assert entry.description.endswith(".")
    # Beat names the queue; a call by hand goes by the routes. Both must end at the same worker.
    routed = app.amqp.router.route({}, entry.task)["queue"].name
    assert routed == entry.queue


def test_names_differ() -> None:
    assert len({entry.name for entry in SCHEDULE}) == len({entry.task for entry in SCHEDULE}) == len(SCHEDULE)


def test_every_task_of_ours_goes_to_a_queue_that_a_worker_takes() -> None:
    app.loader.import_default_modules()
    ours = [name for name in app.tasks if not name.startswith("celery.")]
    assert len(ours) > len(SCHEDULE)
    # Probes are sent to their vantage point's own queue, and the workers of those are no part of this.
    to_probers = {"services.probe", "services.confirm"}
    for name in set(ours) - to_probers:
        assert app.amqp.router.route({}, name)["queue"].name in QUEUES, name
