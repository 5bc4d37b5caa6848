"""The invariants hold after a whole story, and each one notices what breaks it."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from billing import invoicing
from billing.models import Invoice
from customers.models import Event
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tranche_site import flow, invariants


def violated() -> dict[str, list[str]]:
    return {finding.id: finding.violations for finding in invariants.check(APRIL_3) if not finding.holds}


@pytest.fixture
def story(db: None) -> Any:
    customer, service = billed_customer()
    use(service, "primary", at(2), 1000 * GB)
    use(service, "backup", at(5, 10, 30), 50 * GB)
    row = storm(service, at(5, 10), at(5, 11))
    factories.storm_entry(row)
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    return invoicing.finalize(draft, APRIL_3)


def test_all_hold_after_a_month_with_a_storm(story: Invoice) -> None:
    assert story.discount_minor == 5_00
    assert violated() == {}
    out = StringIO()
    call_command("selfcheck", "--json", stdout=out)
    told = json.loads(out.getvalue())["invariants"]
    assert [entry["id"] for entry in told] == [invariant.id for invariant in invariants.INVARIANTS]


BROKEN = [
    ("I3", "UPDATE storm_entries SET action = 'note'"),
    ("I5", "UPDATE weight_changes SET confirmed_at = '2026-03-01', submitted_at = '2026-03-01' WHERE generation = 2;"
           "UPDATE weight_changes SET submitted_at = '2026-03-02' WHERE generation = 1"),
    ("I6", "UPDATE weight_changes SET weights = '{\"1\": 99}' WHERE generation = 1"),
    ("I7", "UPDATE weight_changes SET state = 'submitted', wanted_at = '2026-03-01' WHERE generation = 2"),
    ("I8", "UPDATE service_domains SET verified_at = NULL; UPDATE weight_changes SET submitted_at = now()"),
    ("I11", "UPDATE log_objects SET rows = 7, processed_at = now()"),
    ("I12", "UPDATE usage_snapshots SET bytes = bytes + 1"),
    ("I13", "UPDATE invoice_line_items SET amount_minor = amount_minor + 1 WHERE kind = 'usage' AND path = 'primary'"),
    ("I14", "UPDATE invoices SET paid_minor = 5"),
    ("I14", "UPDATE invoice_counters SET last_number = 7"),
    ("I17", "UPDATE usage_snapshots SET customer_id = (SELECT max(id) FROM customers)"),
    ("I18", "UPDATE dns_accounts SET writing_until = now() + interval '1 day'"),
    ("I20", "UPDATE storm_events SET detected_at = started_at - interval '1 hour'"),
]  # fmt: skip


@pytest.mark.parametrize(("invariant", "statement"), BROKEN)
def test_what_breaks_an_invariant_is_found(story: Invoice, invariant: str, statement: str) -> None:
    factories.customer()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # past the triggers, as only a mishap could
        cursor.execute(statement)
        cursor.execute("SET LOCAL session_replication_role = origin")
    assert invariant in violated()


def test_the_nightly_task_tells_staff(story: Invoice) -> None:
    flow.selfcheck()
    assert not Event.objects.filter(kind="selfcheck.violated").exists()
    Invoice.objects.update(paid_minor=5)
    flow.selfcheck()
    with pytest.raises(SystemExit):
        call_command("selfcheck", stdout=StringIO())
    told = Event.objects.get(kind="selfcheck.violated")
    assert told.customer_id is None and "I14" in told.summary
