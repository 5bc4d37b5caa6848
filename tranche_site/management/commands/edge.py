"""`manage.py edge primary 500`: break and mend the demo world."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from tranche_site.demo.servers import Mode

PARTS = ("primary", "backup", "origin", "canary-1", "canary-2", "canary-3", "prober")


class Command(BaseCommand):
    help = "Tell a part of the demo world how to behave."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("part", choices=PARTS)
        parser.add_argument("mode", choices=[*Mode, "blind"], help="“blind” and “ok” are the prober's")

    def handle(self, *args: Any, **options: Any) -> None:
        part, mode = options["part"], options["mode"]
        url = f"http://127.0.0.1:{settings.DEMO_CONTROL_PORT}/{part}/{mode}"
        try:
            response = httpx.post(url, trust_env=False, timeout=5)
        except httpx.HTTPError as error:
            raise CommandError(f"the demo world does not answer ({error}): is `make run` running?") from None
        if response.status_code != 200:
            raise CommandError(response.json()["error"])
        self.stdout.write(f"{part}: {mode}")
