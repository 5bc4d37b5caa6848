"""Failures are what people look for among samples, and they are few: an index of theirs alone costs next to nothing.

Built partition by partition and concurrently: recording goes on meanwhile, also that of code deployed before.
"""

from django.db import migrations

NAME = "probe_samples_not_good"
ON = "(service_id, slot_at) WHERE outcome <> 'ok'"


def create(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(f"CREATE INDEX IF NOT EXISTS {NAME} ON ONLY probe_samples {ON}")
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = 'probe_samples'::regclass ORDER BY c.relname"
        )
        for (partition,) in cursor.fetchall():
            index = f"{partition}_not_good"
            cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")  # what an attempt that was cut off left
            cursor.execute(f"CREATE INDEX CONCURRENTLY {index} ON {partition} {ON}")
            cursor.execute(f"ALTER INDEX {NAME} ATTACH PARTITION {index}")


def drop(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX IF EXISTS {NAME}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("services", "0009_what_samples_tell")]

    operations = [migrations.RunPython(create, drop)]
