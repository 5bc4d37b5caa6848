"""`manage.py collect_usage [--apply]`: what is new in every usage source; stores it only with --apply."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand

from billing import metering


class Command(BaseCommand):
    help = "Look at every usage source: print what is new, or count it with --apply."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--apply", action="store_true", help="count the new objects and store their usage")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, **options: Any) -> None:
        reports = metering.collect_all(apply=options["apply"], now=datetime.now(UTC))
        if options["json"]:
            document = {"applied": options["apply"], "sources": [report.as_dict() for report in reports]}
            self.stdout.write(json.dumps(document, indent=2))
        else:
            for report in reports:
                self._print(report)
            if any(report.objects for report in reports) and not options["apply"]:
                self.stdout.write("Nothing was stored: run again with --apply.")
        for report in reports:
            if report.error:
                self.stderr.write(f"{report.source}: {report.error}")
        if any(report.error for report in reports):
            raise SystemExit(1)

    def _print(self, report: metering.CollectReport) -> None:
        self.stdout.write(f"{report.source}: {report.listed} objects, {len(report.objects)} to count")
        for entry in report.objects:
            text = f"  {entry.action} {entry.key} ({entry.size_bytes:,} bytes)"
            if entry.outcome == metering.Outcome.COUNTED:
                text += (
                    f": {entry.rows:,} rows, {entry.bad_rows:,} bad; {entry.requests:,} requests,"
                    f" {entry.bytes:,} bytes delivered, {entry.unknown_bytes:,} of them of unknown hosts"
                )
            elif entry.outcome:
                text += f": {entry.outcome}: {entry.reason}"
            self.stdout.write(text)
