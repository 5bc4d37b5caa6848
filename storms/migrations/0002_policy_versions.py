"""A policy's version rises with its terms, and every version's terms are kept: also for raw SQL."""

from django.db import migrations

TERMS = (
    "kind", "mode", "threshold_avail", "window_seconds", "cooldown_seconds", "max_coverage_factor", "min_samples",
    "min_failures", "min_vantages", "minimum_seconds", "closing_samples", "holdoff_seconds", "holdoff_max_seconds",
)
ROW = "jsonb_build_object(" + ", ".join(f"'{term}', NEW.{term}" for term in TERMS) + ")"
CHANGED = f"({', '.join(f'OLD.{t}' for t in TERMS)}) IS DISTINCT FROM ({', '.join(f'NEW.{t}' for t in TERMS)})"

CREATE = f"""
CREATE FUNCTION storm_policies_next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + CASE WHEN {CHANGED} THEN 1 ELSE 0 END;
    RETURN NEW;
END $$;
CREATE FUNCTION storm_policies_keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO storm_policy_versions (policy_id, version, terms, created_at)
    VALUES (NEW.id, NEW.version, {ROW}, now())
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER storm_policies_next_version BEFORE UPDATE ON storm_policies
    FOR EACH ROW EXECUTE FUNCTION storm_policies_next_version();
CREATE TRIGGER storm_policies_keep_version AFTER INSERT OR UPDATE ON storm_policies
    FOR EACH ROW EXECUTE FUNCTION storm_policies_keep_version();
"""
DROP = """
DROP TRIGGER storm_policies_keep_version ON storm_policies;
DROP TRIGGER storm_policies_next_version ON storm_policies;
DROP FUNCTION storm_policies_keep_version();
DROP FUNCTION storm_policies_next_version();
"""


class Migration(migrations.Migration):
    dependencies = [("storms", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]
