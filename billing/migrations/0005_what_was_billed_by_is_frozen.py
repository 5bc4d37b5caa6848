"""What an invoice was issued by can't change any more, nor what it says, nor what was paid; the database refuses."""

import django.db.models.deletion
from django.db import migrations, models

FREE_COLUMNS = "ARRAY['state', 'paid_minor', 'credited_minor', 'settled_at', 'state_reason', 'reminders', 'stale_at']"

CREATE = f"""
CREATE OR REPLACE FUNCTION invoices_are_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'draft' THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF TG_OP = 'DELETE' OR NEW.state = 'draft' OR to_jsonb(OLD) - {FREE_COLUMNS} <> to_jsonb(NEW) - {FREE_COLUMNS} THEN
        RAISE EXCEPTION 'invoice % is finalized: its money can not change, write a correction instead', OLD.number
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF OLD.state = 'void' AND NEW.state <> 'void' THEN
        RAISE EXCEPTION 'invoice % is void, and stays so', OLD.number USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION invoice_lines_are_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    line record := CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END;
    is_of varchar;
BEGIN
    SELECT state INTO is_of FROM invoices WHERE id = line.invoice_id;
    -- A void invoice bills nothing, so it lets its usage go; nothing else of it changes.
    IF is_of = 'void' AND TG_OP = 'UPDATE' AND NEW.claim IS NULL
       AND to_jsonb(OLD) - 'claim' = to_jsonb(NEW) - 'claim' THEN
        RETURN NEW;
    END IF;
    IF is_of <> 'draft' OR TG_OP = 'UPDATE' AND NEW.invoice_id <> OLD.invoice_id THEN
        RAISE EXCEPTION 'invoice % is finalized: its lines can not change', line.invoice_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;

CREATE FUNCTION contracts_are_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    billed_until timestamptz := (SELECT max(period_end) FROM invoices WHERE contract_id = OLD.id AND state NOT IN ('draft', 'void'));
BEGIN
    IF billed_until IS NOT NULL
       AND (to_jsonb(OLD) - 'valid_until' <> to_jsonb(NEW) - 'valid_until' OR NEW.valid_until < billed_until) THEN
        RAISE EXCEPTION 'contract % was billed until %: amend it by a new version', OLD.id, billed_until
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION rate_card_versions_are_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    billed_until timestamptz := (SELECT max(period_end) FROM invoices WHERE prices_id = OLD.id AND state NOT IN ('draft', 'void'));
BEGIN
    IF billed_until IS NOT NULL
       AND (to_jsonb(OLD) - 'valid_until' <> to_jsonb(NEW) - 'valid_until' OR NEW.valid_until < billed_until) THEN
        RAISE EXCEPTION 'prices % were billed by until %: add a new version', OLD.id, billed_until
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION rate_cards_are_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.currency, OLD.unit) IS DISTINCT FROM (NEW.currency, NEW.unit) AND EXISTS (
        SELECT 1 FROM invoices JOIN rate_card_versions AS prices ON prices.id = prices_id
        WHERE prices.rate_card_id = OLD.id AND state <> 'draft') THEN
        RAISE EXCEPTION 'rate card % was billed by: its currency and unit can not change', OLD.id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION payments_are_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'payment % is recorded: it can not change, correct it by another document', OLD.id
        USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER contracts_are_frozen BEFORE UPDATE ON contracts
    FOR EACH ROW EXECUTE FUNCTION contracts_are_frozen();
CREATE TRIGGER rate_card_versions_are_frozen BEFORE UPDATE ON rate_card_versions
    FOR EACH ROW EXECUTE FUNCTION rate_card_versions_are_frozen();
CREATE TRIGGER rate_cards_are_frozen BEFORE UPDATE ON rate_cards
    FOR EACH ROW EXECUTE FUNCTION rate_cards_are_frozen();
CREATE TRIGGER payments_are_kept BEFORE UPDATE OR DELETE ON payments
    FOR EACH ROW EXECUTE FUNCTION payments_are_kept();

ALTER TABLE contracts ADD CONSTRAINT contracts_on_quarters
    CHECK (extract(epoch FROM valid_from)::numeric %% 900 = 0 AND extract(epoch FROM valid_until)::numeric %% 900 = 0);
ALTER TABLE rate_card_versions ADD CONSTRAINT rate_card_versions_on_quarters
    CHECK (extract(epoch FROM valid_from)::numeric %% 900 = 0 AND extract(epoch FROM valid_until)::numeric %% 900 = 0);
""".replace("%%", "%")

DROP = """
ALTER TABLE rate_card_versions DROP CONSTRAINT rate_card_versions_on_quarters;
ALTER TABLE contracts DROP CONSTRAINT contracts_on_quarters;
DROP TRIGGER payments_are_kept ON payments;
DROP TRIGGER rate_cards_are_frozen ON rate_cards;
DROP TRIGGER rate_card_versions_are_frozen ON rate_card_versions;
DROP TRIGGER contracts_are_frozen ON contracts;
DROP FUNCTION payments_are_kept();
DROP FUNCTION rate_cards_are_frozen();
DROP FUNCTION rate_card_versions_are_frozen();
DROP FUNCTION contracts_are_frozen();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0004_prices_are_versions")]

    operations = [
        migrations.RemoveField("ratecard", "backup_tiers"),
        migrations.RemoveField("ratecard", "primary_tiers"),
        migrations.RemoveField("ratecard", "tier_mode"),
        migrations.RemoveField("ratecard", "version"),
        migrations.AlterField(
            "invoice",
            "prices",
            models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="invoices", to="billing.prices"
            ),
        ),
        migrations.AddConstraint(
            "contract", models.UniqueConstraint(fields=("customer", "version"), name="contracts_version_unique")
        ),
        migrations.RunSQL(CREATE, DROP),
    ]
