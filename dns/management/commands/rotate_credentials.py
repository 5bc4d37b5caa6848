"""`manage.py rotate_credentials`: seal with the current key what was sealed with another; acts only with --apply.

It is for every table that has sealed credentials, whichever app's.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.db.models import Model, QuerySet

from tranche_site.floor import sealed

BATCH = 100
Failed = list[tuple[type[Model], int]]


class Command(BaseCommand):
    help = "Seal all credentials that are kept with the first of CREDENTIAL_KEYS. A dry run until --apply."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--apply", action="store_true", help="write; safe while everything runs, and to run again")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            current = sealed.current_key_id()
        except sealed.SealedError as error:
            raise CommandError(str(error)) from None
        total = sum(_stale(model, current).count() for model in models())
        self.stdout.write(f"{total} accounts are sealed with another key than “{current}”")
        failed = self._rotate(current, total) if options["apply"] else self._look(current)
        if failed:
            raise CommandError(f"can't be opened, so left as they are: {_listed(failed)}")
        if not options["apply"]:
            if total:
                self.stdout.write("nothing was written: add --apply")
        elif left := [(model, pk) for model in models() for pk in _stale(model, current).values_list("pk", flat=True)]:
            raise CommandError(f"in use meanwhile, so left as they are; run this again: {_listed(left)}")

    def _look(self, current: str) -> Failed:
        """Which can't be opened; says how many are sealed with which key."""
        failed: Failed = []
        counts: Counter[str] = Counter()
        for account in (row for model in models() for row in _stale(model, current).iterator(BATCH)):
            try:
                sealed.open_sealed(account.sealed_credentials, account.credentials_aad)
            except sealed.SealedError as error:
                self._complain(account, error)
                failed.append((type(account), account.pk))
            else:
                counts[sealed.key_id(account.sealed_credentials)] += 1
        for key, count in sorted(counts.items()):
            self.stdout.write(f"  {count} with “{key}”, which can be opened")
        return failed

    def _rotate(self, current: str, total: int) -> Failed:
        """Which can't be opened; all others are sealed anew, but for those that somebody else has locked."""
        failed: Failed = []
        done = 0
        for model in models():
            last = 0
            while batch := list(_stale(model, current).filter(pk__gt=last).values_list("pk", flat=True)[:BATCH]):
                last = batch[-1]
                done += self._rotate_batch(model, current, batch, failed)
                self.stdout.write(f"  {done} of {total} sealed anew")
        return failed

    def _rotate_batch(self, model: type[Model], current: str, batch: list[int], failed: Failed) -> int:
        fresh = []
        with transaction.atomic():
            # Read again under the lock: somebody may have set other credentials since.
            for account in _stale(model, current).filter(pk__in=batch).select_for_update(skip_locked=True):
                try:
                    account.sealed_credentials = sealed.reseal(account.sealed_credentials, account.credentials_aad)
                except sealed.SealedError as error:
                    self._complain(account, error)
                    failed.append((model, account.pk))
                else:
                    fresh.append(account)
            model._default_manager.bulk_update(fresh, ["sealed_credentials"])
        return len(fresh)

    def _complain(self, account: Any, error: sealed.SealedError) -> None:
        self.stderr.write(f"{account._meta.verbose_name} {account.pk}: {error}")


def models() -> list[type[Model]]:
    """Those whose rows have `sealed_credentials`, bound to them by `credentials_aad`."""
    return [model for model in apps.get_models() if hasattr(model, "credentials_aad")]


def _stale(model: type[Model], current: str) -> QuerySet[Any]:
    """Rows with credentials that another key sealed, or nobody."""
    rows = model._default_manager.exclude(sealed_credentials="")
    return rows.exclude(sealed_credentials__startswith=sealed.prefix(current)).order_by("pk")


def _listed(rows: Failed) -> str:
    """“DNS accounts 3, 5; usage sources 7”."""
    ids: dict[type[Model], list[str]] = {}
    for model, pk in rows:
        ids.setdefault(model, []).append(str(pk))
    return "; ".join(f"{model._meta.verbose_name_plural} {', '.join(pks)}" for model, pks in ids.items())
