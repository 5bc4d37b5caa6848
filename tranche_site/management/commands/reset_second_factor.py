"""`manage.py reset_second_factor NAME`: for the day on which nobody is left who could let a person in by the console."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from tranche_site.console.access_pages import reset_second_factor
from tranche_site.floor import audit_context, sealed


class Command(BaseCommand):
    help = "Let a member of staff set up another second factor with the next log-in. Ends all sessions of that person."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--reason", required=True, help="kept in the audit log")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["username"], is_staff=True, is_active=True).first()
        if user is None:
            raise CommandError(f"username: no active member of staff is called {options['username']!r}.")
        try:
            with audit_context.context(actor="manage.py", reason=options["reason"]):
                reset_second_factor(user)
        except sealed.SealedError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{user} has {settings.SECOND_FACTOR_HOURS} hours to set up another second factor.")
