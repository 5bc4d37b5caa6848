"""Prices move from the rate card into its first version; contracts of a customer are numbered; invoices name their prices."""

from typing import Any

from django.db import migrations

FORWARD = [
    # Foreign keys are checked at once: a table with checks to come can't be altered.
    "SET CONSTRAINTS ALL IMMEDIATE",
    """
    INSERT INTO rate_card_versions
        (rate_card_id, version, valid_from, tier_mode, primary_tiers, backup_tiers, cdn_tiers, per_10k_requests)
    SELECT id, version, '2000-01-01T00:00:00Z', tier_mode, primary_tiers, backup_tiers, '{}', '{}' FROM rate_cards
    """,
    """
    UPDATE contracts SET version = numbered.version, policy_from = coalesce(policy_from, valid_from),
        valid_from = date_bin('15 minutes', valid_from, 'epoch'), valid_until = date_bin('15 minutes', valid_until, 'epoch')
    FROM (SELECT id, row_number() OVER (PARTITION BY customer_id ORDER BY valid_from) AS version FROM contracts) AS numbered
    WHERE numbered.id = contracts.id
    """,
    "ALTER TABLE invoices DISABLE TRIGGER invoices_are_frozen",
    """
    UPDATE invoices SET prices_id = rate_card_versions.id, decisions = '{"storms": [], "events": []}',
        extras = '{"share": "1", "sells_delivery": true, "fixed_fee": "0", "premium": "0", "minimum_commitment": "0",
            "commit_on_net": false, "requests": [], "tax_rates": {}, "corrections": []}'
    FROM contracts JOIN rate_card_versions USING (rate_card_id) WHERE contracts.id = invoices.contract_id
    """,
    "ALTER TABLE invoices ENABLE TRIGGER invoices_are_frozen",
    # A usage line bills its path's usage of the whole period.
    "ALTER TABLE invoice_line_items DISABLE TRIGGER invoice_lines_are_frozen",
    """
    UPDATE invoice_line_items AS line
    SET claim = tstzrange(period_start, period_end), tax_category = 'delivery'
    FROM invoices WHERE invoices.id = line.invoice_id AND line.kind = 'usage' AND invoices.state <> 'void'
    """,
    "ALTER TABLE invoice_line_items ENABLE TRIGGER invoice_lines_are_frozen",
]


def forward(apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for statement in FORWARD:
            cursor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [("billing", "0003_terms_and_corrections")]

    operations = [migrations.RunPython(forward, migrations.RunPython.noop)]
