"""Once an invoice is finalized, the database itself refuses to change or delete its money and its lines."""

from django.db import migrations

MONEY = (
    "customer_id", "contract_id", "kind", "number", "currency", "period_start", "period_end", "as_of",
    "subtotal_minor", "discount_minor", "total_minor", "formula", "inputs", "created_at", "finalized_at",
)
CHANGED = f"({', '.join(f'OLD.{c}' for c in MONEY)}) IS DISTINCT FROM ({', '.join(f'NEW.{c}' for c in MONEY)})"

CREATE = f"""
CREATE FUNCTION invoices_are_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state <> 'draft' AND (TG_OP = 'DELETE' OR NEW.state = 'draft' OR {CHANGED}) THEN
        RAISE EXCEPTION 'invoice % is finalized: its money can not change, write a correction instead', OLD.number
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE FUNCTION invoice_lines_are_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    line record := CASE TG_OP WHEN 'INSERT' THEN NEW ELSE OLD END;
BEGIN
    IF EXISTS (SELECT 1 FROM invoices WHERE id = line.invoice_id AND state <> 'draft')
       OR TG_OP = 'UPDATE' AND EXISTS (SELECT 1 FROM invoices WHERE id = NEW.invoice_id AND state <> 'draft') THEN
        RAISE EXCEPTION 'invoice % is finalized: its lines can not change', line.invoice_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER invoices_are_frozen BEFORE UPDATE OR DELETE ON invoices
    FOR EACH ROW EXECUTE FUNCTION invoices_are_frozen();
CREATE TRIGGER invoice_lines_are_frozen BEFORE INSERT OR UPDATE OR DELETE ON invoice_line_items
    FOR EACH ROW EXECUTE FUNCTION invoice_lines_are_frozen();
"""
DROP = """
DROP TRIGGER invoice_lines_are_frozen ON invoice_line_items;
DROP TRIGGER invoices_are_frozen ON invoices;
DROP FUNCTION invoice_lines_are_frozen();
DROP FUNCTION invoices_are_frozen();
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]
