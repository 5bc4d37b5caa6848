"""Headers of probes may hold what opens a door: the audit says that they changed, and not what they are."""

from importlib import import_module

from django.db import migrations

_AUDIT = import_module("tranche_site.migrations.0004_audit_triggers").FUNCTION.partition("CREATE FUNCTION tranche_append_only")[0]
_REPLACED = _AUDIT.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")


class Migration(migrations.Migration):
    dependencies = [("tranche_site", "0007_seal_second_factors")]
    operations = [
        migrations.RunSQL(
            _REPLACED.replace("challenge,access_key_id}", "challenge,access_key_id,probe_headers}"), _REPLACED
        )
    ]
