"""Samples counted by minute: partitioned by month, without foreign keys. Months are made ahead by `services.partitions`."""

from django.db import migrations, models

CREATE = """
CREATE TABLE sample_minutes (
    minute_at timestamptz NOT NULL,
    certificate_expires_at timestamptz,
    target_id bigint NOT NULL,
    vantage_point_id bigint NOT NULL,
    customer_id bigint,
    service_id bigint,
    total_ms_sum double precision NOT NULL DEFAULT 0,
    total_ms_max double precision,
    count_ms integer NOT NULL DEFAULT 0,
    good integer NOT NULL DEFAULT 0,
    bad integer NOT NULL DEFAULT 0,
    set_aside integer NOT NULL DEFAULT 0,
    blind integer NOT NULL DEFAULT 0,
    worst_outcome varchar(12) NOT NULL DEFAULT '',
    PRIMARY KEY (minute_at, target_id, vantage_point_id)
) PARTITION BY RANGE (minute_at);
CREATE TABLE sample_minutes_default PARTITION OF sample_minutes DEFAULT;
CREATE INDEX sample_minutes_by_target ON sample_minutes (target_id, minute_at);
"""


class Migration(migrations.Migration):
    dependencies = [("services", "0003_maintenance_windows")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE, "DROP TABLE sample_minutes")],
            state_operations=[
                migrations.CreateModel(
                    name='SampleMinute',
                    fields=[
                        ('pk', models.CompositePrimaryKey('minute_at', 'target_id', 'vantage_point_id', blank=True, editable=False, primary_key=True, serialize=False)),
                        ('minute_at', models.DateTimeField()),
                        ('target_id', models.BigIntegerField()),
                        ('vantage_point_id', models.BigIntegerField()),
                        ('customer_id', models.BigIntegerField(null=True)),
                        ('service_id', models.BigIntegerField(null=True)),
                        ('good', models.IntegerField(default=0)),
                        ('bad', models.IntegerField(default=0)),
                        ('set_aside', models.IntegerField(default=0)),
                        ('blind', models.IntegerField(default=0)),
                        ('total_ms_sum', models.FloatField(default=0)),
                        ('total_ms_max', models.FloatField(null=True)),
                        ('count_ms', models.IntegerField(default=0)),
                        ('worst_outcome', models.CharField(blank=True, choices=[('ok', 'ok'), ('http_5xx', 'http_5xx'), ('edge_error', 'edge_error'), ('timeout', 'timeout'), ('connect', 'connect'), ('tls', 'tls'), ('dns', 'dns'), ('blocked', 'blocked'), ('wrong_body', 'wrong_body'), ('wrong_status', 'wrong_status'), ('unknown', 'unknown')], default='', max_length=12)),
                        ('certificate_expires_at', models.DateTimeField(null=True)),
                    ],
                    options={
                        'db_table': 'sample_minutes',
                    },
                ),
            ],
        )
    ]
