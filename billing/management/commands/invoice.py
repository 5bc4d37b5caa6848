"""`manage.py invoice --period 2026-03`: drafts of a month; `--finalize` issues what is past its grace period."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import invoicing
from billing.money import format_minor
from billing.problems import InvoiceError
from billing.segments import Month
from customers.models import Customer


class Command(BaseCommand):
    help = "Draft a month's invoices (a dry run until --apply), or issue those that are due."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--period", metavar="YYYY-MM")
        parser.add_argument("--customer", type=int, metavar="ID")
        parser.add_argument("--as-of", type=_time, metavar="T", help="ISO 8601; usage and storms as they stand then")
        parser.add_argument("--finalize", action="store_true", help="issue drafts past their grace period")
        parser.add_argument("--apply", action="store_true", help="store; without it nothing is written")

    def handle(self, *args: Any, **options: Any) -> None:
        as_of = options["as_of"] or datetime.now(UTC)
        if options["finalize"]:
            self._finalize(as_of, apply=options["apply"])
            return
        if not options["period"]:
            raise CommandError("Name the month: --period YYYY-MM.")
        try:
            month = Month.parse(options["period"])
        except ValueError:
            raise CommandError(f"--period {options['period']}: write a month as YYYY-MM.") from None
        customers = Customer.objects.order_by("pk")
        if options["customer"]:
            customers = customers.filter(pk=options["customer"])
            if not customers:
                raise CommandError(f"--customer {options['customer']}: there is no such customer.")
        problems = [
            problem for customer in customers if (problem := self._one(customer, month, as_of, options["apply"]))
        ]
        if not options["apply"]:
            self.stdout.write("nothing was stored: add --apply")
        if problems:
            raise CommandError("; ".join(problems))

    def _one(self, customer: Customer, month: Month, as_of: datetime, apply: bool) -> str | None:
        try:
            run = invoicing.preview(customer, month, as_of)
            stored = invoicing.draft(customer, month, as_of) if apply else []
        except InvoiceError as error:
            return str(error)
        names = {(row.period_start, row.currency): f" ({row})" for row in stored}
        for drafted in run.drafts:
            bill, currency = drafted.bill, drafted.currency
            amounts = [
                format_minor(minor, currency)
                for minor in (bill.subtotal_minor, bill.discount_minor, bill.tax_minor, bill.total_minor)
            ]
            name = names.get((drafted.segment.start, currency), "")
            self.stdout.write(
                f"{customer}{name}: {len(bill.lines)} lines, {amounts[0]} − {amounts[1]} + {amounts[2]} tax"
                f" = {amounts[3]} {currency}"
            )
        return "; ".join(run.problems.values()) or None

    def _finalize(self, now: datetime, *, apply: bool) -> None:
        if not apply:
            raise CommandError("--finalize issues invoices for good: add --apply.")
        issued, problems = invoicing.finalize_due(now)
        for invoice in issued:
            self.stdout.write(
                f"{invoice.number}: {invoice.customer}, {format_minor(invoice.total_minor, invoice.currency)} {invoice.currency}"
            )
        if not issued:
            self.stdout.write("nothing is due")
        if problems:
            raise CommandError("; ".join(problems))


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
