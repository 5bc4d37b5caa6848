"""`manage.py up`: everything on this machine, from nothing."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from tranche_site.management.commands.prepare import LOCAL_VANTAGE_POINT
from tranche_site.supervisor import Plan, Stopped, Supervisor


class Command(BaseCommand):
    help = "Run Postgres, Valkey, workers, beat, web and (unless TRANCHE_DEMO=0) the demo world."
    requires_system_checks: list[str] = []  # there is no database yet

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8080)
        parser.add_argument("--stop-after", type=float, metavar="S", help="stop after so many seconds (smoke tests)")

    def handle(self, *args: Any, **options: Any) -> None:
        plan = make_plan(options["port"])
        limit = options["stop_after"]
        started = time.monotonic()
        try:
            Supervisor(plan, self._say).run(lambda: limit is not None and time.monotonic() - started > limit)
        except Stopped as stopped:
            raise CommandError(str(stopped)) from None

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def make_plan(port: int) -> Plan:
    """What `up` runs under today's settings."""
    from tranche_site.demo import world

    demo = settings.TRANCHE_DEMO
    return Plan(
        home=settings.TRANCHE_HOME,
        port=port,
        postgres=settings.EMBEDDED_POSTGRES,
        valkey=settings.EMBEDDED_VALKEY,
        vantage_points=[point.name for point in world.VANTAGE_POINTS] if demo else [LOCAL_VANTAGE_POINT],
        demo=demo,
        environment=world.environment() if demo else {},
        ports=world.ports() if demo else [],
    )
