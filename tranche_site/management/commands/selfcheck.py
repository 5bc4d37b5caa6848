"""`manage.py selfcheck`: the invariants, asked of the live database; exit 1 on a violation."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand

from tranche_site import invariants


class Command(BaseCommand):
    help = "Check what must always hold in the database. Reads only."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = invariants.check(datetime.now(UTC))
        if options["json"]:
            self.stdout.write(json.dumps({"invariants": [asdict(finding) for finding in findings]}, indent=2))
        else:
            for finding in findings:
                self.stdout.write(f"{finding.id:4} {'holds   ' if finding.holds else 'VIOLATED'} {finding.title}")
                for text in finding.violations:
                    self.stdout.write(f"       {text}")
        if not all(finding.holds for finding in findings):
            raise SystemExit(1)
