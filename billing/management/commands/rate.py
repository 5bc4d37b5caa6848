"""`manage.py rate FILE.json`: one document to lines, by the pure function; no database, no broker."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import document, rating
from billing.money import format_minor


class Command(BaseCommand):
    help = "Rate one document of usage, storms and terms, and print the lines."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            parsed = document.loads(options["file"].read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{options['file']}: {error}") from None
        except document.DocumentError as error:
            raise CommandError(str(error)) from None
        rated = rating.rate(parsed.terms, parsed.usage, parsed.storms)
        if options["json"]:
            self.stdout.write(json.dumps(document.to_json(rated), indent=2))
            return
        currency = parsed.terms.currency
        for line in rated.lines:
            sign = "-" if line.kind == "cover" else ""
            amount = sign + format_minor(line.amount_minor, currency)
            self.stdout.write(
                f"{line.kind:6} {line.service:20} {line.path:8} {line.bytes:>16,} bytes {amount:>14} {currency}"
            )
        self.stdout.write(f"{'total':53} {format_minor(rated.total_minor, currency):>14} {currency}  ({rated.formula})")
