"""The new terms of a policy count into its version, and what a storm's timeline says can't be changed any more."""

from django.db import migrations

BEFORE = (
    "kind", "mode", "threshold_avail", "window_seconds", "cooldown_seconds", "max_coverage_factor", "min_samples",
    "min_failures", "min_vantages", "minimum_seconds", "closing_samples", "holdoff_seconds", "holdoff_max_seconds",
)
TERMS = (*BEFORE, "domain_share", "region_share", "slow_ms")


def functions(terms):
    row = "jsonb_build_object(" + ", ".join(f"'{term}', NEW.{term}" for term in terms) + ")"
    changed = f"({', '.join(f'OLD.{t}' for t in terms)}) IS DISTINCT FROM ({', '.join(f'NEW.{t}' for t in terms)})"
    return f"""
CREATE OR REPLACE FUNCTION storm_policies_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + CASE WHEN {changed} THEN 1 ELSE 0 END;
    RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION storm_policies_keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO storm_policy_versions (policy_id, version, terms, created_at)
    VALUES (NEW.id, NEW.version, {row}, now())
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
"""


FIXED = """
CREATE FUNCTION entries_are_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an entry of a timeline is never changed; add another one' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER storm_entries_are_fixed BEFORE UPDATE OR DELETE ON storm_entries
    FOR EACH ROW EXECUTE FUNCTION entries_are_fixed();
CREATE TRIGGER incident_entries_are_fixed BEFORE UPDATE OR DELETE ON incident_entries
    FOR EACH ROW EXECUTE FUNCTION entries_are_fixed();
"""
LOOSE = """
DROP TRIGGER storm_entries_are_fixed ON storm_entries;
DROP TRIGGER incident_entries_are_fixed ON incident_entries;
DROP FUNCTION entries_are_fixed();
"""


class Migration(migrations.Migration):
    dependencies = [("storms", "0005_incidents_and_entries")]

    operations = [
        migrations.RunSQL(functions(TERMS), functions(BEFORE)),
        migrations.RunSQL(FIXED, LOOSE),
    ]
