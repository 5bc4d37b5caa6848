"""The embedded DNS server hears of every change of its records when it commits."""

from django.db import migrations

CREATE = """
CREATE FUNCTION embedded_records_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('embedded_records', '');
    RETURN NULL;
END $$;
CREATE TRIGGER embedded_records_notify AFTER INSERT OR UPDATE OR DELETE ON embedded_records
    FOR EACH STATEMENT EXECUTE FUNCTION embedded_records_notify();
"""
DROP = """
DROP TRIGGER embedded_records_notify ON embedded_records;
DROP FUNCTION embedded_records_notify();
"""


class Migration(migrations.Migration):
    dependencies = [("dns", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]
