"""Any number of beats may run; one sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from tests.broker import broker_fixture, waiting  # noqa: F401
from tests.stack import until
from tranche_site.celery import app
from tranche_site.floor.leader import STANDBY_SECONDS, LeaderScheduler

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]

QUEUE = "leader-test"


@pytest.fixture
def task() -> PeriodicTask:
    """Due at once, and every hour."""
    hourly = IntervalSchedule.objects.create(every=3600, period=IntervalSchedule.SECONDS)
    return PeriodicTask.objects.create(
        name="Hourly", task="services.keep_probing", interval=hourly, queue=QUEUE,
        last_run_at=timezone.now() - timedelta(hours=2),
    )  # fmt: skip


@pytest.fixture
def beat(task: PeriodicTask) -> Iterator[Callable[[], LeaderScheduler]]:
    """Makes schedulers, each with its own connection, as processes of their own would have."""
    made: list[LeaderScheduler] = []

    def beat() -> LeaderScheduler:
        made.append(LeaderScheduler(app=app))
        return made[-1]

    yield beat
    for scheduler in made:
        scheduler.close()


def _leads(scheduler: LeaderScheduler) -> bool:
    """Whether it leads after a tick. A standby's tick waits a moment and does nothing else."""
    delay = scheduler.tick()
    assert scheduler._leads or delay == STANDBY_SECONDS
    return scheduler._leads


def _make_due(task: PeriodicTask) -> None:
    PeriodicTask.objects.filter(pk=task.pk).update(last_run_at=timezone.now() - timedelta(hours=2))


def _cut_connection(scheduler: LeaderScheduler) -> None:
    pid = scheduler._connection.connection.info.backend_pid
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_only_one_of_two_leads_and_sends(beat: Callable[[], LeaderScheduler], task: PeriodicTask) -> None:
    leader, standby = beat(), beat()
    for _ in range(3):
        assert _leads(leader)
        assert not _leads(standby)
    assert waiting(QUEUE) == 1
    task.refresh_from_db()
    assert task.total_run_count == 1
    assert timezone.now() - task.last_run_at < timedelta(minutes=1)


def test_the_standby_takes_over_when_the_leader_loses_its_connection(
    beat: Callable[[], LeaderScheduler], task: PeriodicTask
) -> None:
    leader, standby = beat(), beat()
    assert _leads(leader) and not _leads(standby)
    assert waiting(QUEUE) == 1

    _cut_connection(leader)
    until(lambda: _leads(standby))
    # What ran meanwhile is read again, so the takeover itself sends nothing.
    assert waiting(QUEUE) == 1
    _make_due(task)
    assert not any(_leads(leader) for _ in range(3))
    assert waiting(QUEUE) == 1

    # Neither is lost for good: the first leads again when the second goes.
    _cut_connection(standby)
    until(lambda: _leads(leader))
    assert _leads(leader) and not _leads(standby)
    assert waiting(QUEUE) == 2


def test_closing_the_leader_hands_over(beat: Callable[[], LeaderScheduler], task: PeriodicTask) -> None:
    leader, standby = beat(), beat()
    assert _leads(leader) and not _leads(standby)
    # Written past the console, so no beat was told; who takes over reads the schedule anew.
    PeriodicTask.objects.filter(pk=task.pk).update(enabled=False)
    _make_due(task)
    leader.close()
    until(lambda: _leads(standby))
    assert _leads(standby)
    assert "Hourly" not in standby.schedule
    assert waiting(QUEUE) == 1


def test_beat_adds_no_rows_of_its_own(beat: Callable[[], LeaderScheduler], task: PeriodicTask) -> None:
    beat().tick()
    assert list(PeriodicTask.objects.all()) == [task]
