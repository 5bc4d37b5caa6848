"""`manage.py prepare`: migrations, static files, and the rows that a fresh database needs. Safe to run again."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

import environ
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import BaseCommand

from services import partitions
from services.models import VantagePoint
from tranche_site import roles, schedule

LOCAL_VANTAGE_POINT = "local"


class Command(BaseCommand):
    help = "Migrate, collect static files, seed the beat schedule, the roles of staff and the first account."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--demo", action="store_true", help="also the demo world's rows")
        parser.add_argument("--no-static", action="store_true", help="static files are there already, as in an image")

        parser.add_argument(
            "--reset-roles", action="store_true", help="make the roles' groups anew, as they are shipped"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=0)
        if not options["no_static"]:
            call_command("collectstatic", interactive=False, verbosity=0)
        partitions.maintain(datetime.now(UTC))
        partitions.maintain_months(datetime.now(UTC))
        schedule.seed()
        roles.seed(reset=options["reset_roles"])
        self.stdout.write(f"console  {self._first_account()}")
        if options["demo"]:
            from tranche_site.demo import seed

            key = seed.seed()
            self.stdout.write(f"API key  {key}  (of “{seed.CUSTOMER}”; also in {seed.api_key_file()})")
            self.stdout.write("break    .venv/bin/python manage.py edge primary 500")
            self.stdout.write("mend     .venv/bin/python manage.py edge primary ok")
            self.stdout.write(f"ask DNS  dig @127.0.0.1 -p {settings.DEMO_DNS_PORT} www.shop.demo.test")
        elif not VantagePoint.objects.exists():
            VantagePoint.objects.create(name=LOCAL_VANTAGE_POINT, region="local", network="unknown")

    def _first_account(self) -> str:
        """One superuser, so that somebody can log in. The random password is in a file of mode 600 in the home."""
        if User.objects.filter(is_superuser=True).exists():
            return "log in with the account that you have (the first one is in the home's file “admin-password”)"
        password = environ.Env().str("ADMIN_PASSWORD", default="") or secrets.token_urlsafe(12)
        User.objects.create_superuser("admin", password=password)
        kept = settings.TRANCHE_HOME / "admin-password"
        kept.touch(mode=0o600)
        kept.write_text(password + "\n")
        return f"log in as admin / {password}  (also in {kept})"
