"""Failures are what people look for among samples, and they are few: an index of theirs alone costs next to nothing."""

from django.db import migrations

CREATE = "CREATE INDEX probe_samples_not_good ON probe_samples (service_id, slot_at) WHERE outcome <> 'ok'"


class Migration(migrations.Migration):
    dependencies = [("services", "0009_what_samples_tell")]

    operations = [migrations.RunSQL(CREATE, "DROP INDEX probe_samples_not_good")]
