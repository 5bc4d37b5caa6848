"""The trigger that audits, on every table that moves traffic or money or gives access. See `tranche_site.audit.AUDITED`."""

from django.db import migrations

FUNCTION = r"""
CREATE FUNCTION tranche_audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    but text[] := coalesce(string_to_array(TG_ARGV[0], ' '), '{}');
    only_of text[] := string_to_array(nullif(TG_ARGV[1], ''), ' ');
    secret text[] := '{password,key,digest,sealed_credentials,challenge,access_key_id}';
    said jsonb := coalesce(nullif(current_setting('tranche.audit', true), ''), '{}');
    picked text;
    before jsonb;
    after jsonb;
    changed jsonb;
BEGIN
    IF only_of IS NULL THEN
        IF TG_OP <> 'INSERT' THEN before := to_jsonb(OLD); END IF;
        IF TG_OP <> 'DELETE' THEN after := to_jsonb(NEW); END IF;
    ELSE
        -- Those columns alone: rows such as invoices hold documents that are not to be read for this.
        SELECT string_agg(format('%L, ($1).%I', name, name), ', ') INTO picked FROM unnest('{id}' || only_of) AS name;
        IF TG_OP <> 'INSERT' THEN EXECUTE 'SELECT jsonb_build_object(' || picked || ')' INTO before USING OLD; END IF;
        IF TG_OP <> 'DELETE' THEN EXECUTE 'SELECT jsonb_build_object(' || picked || ')' INTO after USING NEW; END IF;
    END IF;
    SELECT jsonb_object_agg(name, CASE WHEN name = ANY(secret) THEN '["secret", "secret"]'
            ELSE jsonb_build_array(before -> name, after -> name) END)
    INTO changed
    FROM jsonb_object_keys(coalesce(after, before)) AS name
    WHERE before -> name IS DISTINCT FROM after -> name AND NOT name = ANY(but);
    IF changed IS NOT NULL THEN
        INSERT INTO audit_entries ("table", row_id, action, changes, actor, reason, request_id, database_user)
        VALUES (TG_TABLE_NAME, coalesce(after, before) ->> 'id', lower(TG_OP), changed, left(coalesce(said ->> 'actor', ''), 150),
            coalesce(said ->> 'reason', ''), left(coalesce(said ->> 'request_id', ''), 64), session_user);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION tranche_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: what it says stays', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER audit_entries_stay BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION tranche_append_only();
CREATE TRIGGER audit_entries_are_not_emptied BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION tranche_append_only();
CREATE TRIGGER audit_seals_stay BEFORE UPDATE OR DELETE ON audit_seals
    FOR EACH ROW EXECUTE FUNCTION tranche_append_only();
"""
UNDO = """
DROP TRIGGER audit_seals_stay ON audit_seals;
DROP TRIGGER audit_entries_are_not_emptied ON audit_entries;
DROP TRIGGER audit_entries_stay ON audit_entries;
DROP FUNCTION tranche_append_only();
DROP FUNCTION tranche_audit();
"""

# Of `AUDITED` when this was written: table, columns whose changes count, columns that machines write, updates alone.
TABLES = [
    ("customers", "", "", False),
    ("api_keys", "", "last_used_at", False),
    ("webhook_endpoints", "url kinds description disabled_at deleted_at sealed_credentials", "", False),
    ("services", "", "", False),
    ("service_domains", "service_id hostname challenge verified_at lost_since contested_since deleted_at", "", False),
    ("targets", "", "", False),
    ("cdns", "", "", False),
    ("vantage_points", "name region network state source_address shards", "", False),
    ("maintenance_windows", "", "", False),
    ("storm_policies", "", "", False),
    ("dns_accounts", "vendor name options sealed_credentials customer_id fencing", "", False),
    ("record_sets", "account_id zone ttl_seconds apex_addresses data_plane is_held released_at", "", False),
    ("pins", "", "", False),
    ("freezes", "", "", False),
    ("steering_terms", "", "", False),
    ("weight_changes", "approved_by_id", "", True),
    ("rate_cards", "", "", False),
    ("rate_card_versions", "", "", False),
    ("contracts", "", "", False),
    ("cover_rulings", "", "", False),
    ("invoices", "state number", "", True),
    ("payments", "", "", False),
    ("disputes", "", "", False),
    ("spend_alerts", "", "fired_for", False),
    ("usage_sources", "name kind format location endpoint_url role_arn access_key_id options enabled sealed_credentials customer_id cdn_id", "", False),
    ("paging_channels", "name kind minimum_severity is_enabled sealed_credentials", "", False),
    ("auth_user", "", "last_login", False),
    ("auth_group", "", "", False),
    ("auth_user_groups", "", "", False),
    ("auth_user_user_permissions", "", "", False),
    ("auth_group_permissions", "", "", False),
    ("django_celery_beat_periodictask", "name task enabled interval_id crontab_id args kwargs queue", "", False),
]


def _trigger(table: str, of: str, but: str, updates_only: bool) -> str:
    columns = f" OF {', '.join(of.split())}" if of else ""
    events = f"UPDATE{columns}" if updates_only else f"INSERT OR DELETE OR UPDATE{columns}"
    return (
        f"CREATE TRIGGER tranche_audit AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION tranche_audit('{but}', '{of}')"
    )


class Migration(migrations.Migration):
    dependencies = [
        ("tranche_site", "0003_audit"),
        ("customers", "0004_indexes_of_the_room"),
        ("services", "0012_cdns_dns_and_authorities"),
        ("storms", "0007_entries_name_their_policy"),
        ("dns", "0005_customers_own_hand"),
        ("billing", "0007_indexes_of_the_room"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]
    operations = [
        migrations.RunSQL(FUNCTION, UNDO),
        *(
            migrations.RunSQL(_trigger(*row), f"DROP TRIGGER tranche_audit ON {row[0]}")
            for row in TABLES
        ),
    ]
