"""`manage.py steer`: what the records should be and why; acts only with --apply."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dns import outbox, planning, reconcile, steering
from services.models import Service


class Command(BaseCommand):
    help = "Print the plan of every steered service, with reasons and refusals. A dry run until --apply."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--service", type=int, metavar="ID")
        parser.add_argument("--apply", action="store_true", help="want what differs, write what is due, ask DNS")

    def handle(self, *args: Any, **options: Any) -> None:
        ids = None
        if options["service"] is not None:
            if not Service.objects.live().filter(pk=options["service"]).exists():
                raise CommandError(f"--service {options['service']}: there is no such service.")
            ids = [options["service"]]
        plans = planning.plan_services(datetime.now(UTC), ids)
        for plan in plans:
            self._print(plan)
        if not plans:
            self.stdout.write("no service is steered: a domain needs a record set")
        if options["apply"]:
            made = steering.steer(datetime.now(UTC), ids or [plan.service.pk for plan in plans])
            written = outbox.submit(datetime.now(UTC))
            seen = reconcile.observe(datetime.now(UTC))
            observed = sum(not observation.problem for observation in seen)
            self.stdout.write(f"{len(made)} changes wanted, {len(written)} written, {observed} observed")
        elif any(plan.changes for plan in plans):
            self.stdout.write("nothing was written: add --apply")

    def _print(self, plan: planning.ServicePlan) -> None:
        self.stdout.write(f"{plan.service.pk} {plan.service}: {plan.plan.reason}")
        for lane, (before, after) in plan.changes.items():
            self.stdout.write(f"  {lane}: {before} % → {after} %")
        if plan.refusal:
            self.stdout.write(f"  held: {plan.refusal[0]}: {plan.refusal[1]}")
