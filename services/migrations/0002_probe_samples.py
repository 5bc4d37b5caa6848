"""The samples table: partitioned by day, without foreign keys, written by COPY. Days are made ahead by `services.partitions`."""

import django.db.models
from django.db import migrations, models

CREATE = """
CREATE TABLE probe_samples (
    slot_at timestamptz NOT NULL,
    at timestamptz NOT NULL,
    certificate_expires_at timestamptz,
    target_id bigint NOT NULL,
    vantage_point_id bigint NOT NULL,
    customer_id bigint,
    service_id bigint,
    dns_ms double precision,
    connect_ms double precision,
    tls_ms double precision,
    first_byte_ms double precision,
    total_ms double precision,
    attempt smallint NOT NULL,
    status smallint,
    is_blind boolean NOT NULL DEFAULT false,
    outcome varchar(12) NOT NULL,
    remote_address inet,
    reason text NOT NULL DEFAULT '',
    PRIMARY KEY (slot_at, target_id, vantage_point_id, attempt)
) PARTITION BY RANGE (slot_at);
CREATE TABLE probe_samples_default PARTITION OF probe_samples DEFAULT;
CREATE INDEX probe_samples_by_service ON probe_samples (service_id, slot_at);
"""


class Migration(migrations.Migration):
    dependencies = [("services", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE, "DROP TABLE probe_samples")],
            state_operations=[
                migrations.CreateModel(
                    name='ProbeSample',
                    fields=[
                        ('pk', models.CompositePrimaryKey('slot_at', 'target_id', 'vantage_point_id', 'attempt', blank=True, editable=False, primary_key=True, serialize=False)),
                        ('slot_at', models.DateTimeField()),
                        ('target_id', models.BigIntegerField()),
                        ('vantage_point_id', models.BigIntegerField()),
                        ('attempt', models.SmallIntegerField()),
                        ('at', models.DateTimeField(help_text='When the probe started.')),
                        ('customer_id', models.BigIntegerField(null=True)),
                        ('service_id', models.BigIntegerField(null=True)),
                        ('outcome', models.CharField(choices=[('ok', 'ok'), ('http_5xx', 'http_5xx'), ('edge_error', 'edge_error'), ('timeout', 'timeout'), ('connect', 'connect'), ('tls', 'tls'), ('dns', 'dns'), ('blocked', 'blocked'), ('wrong_body', 'wrong_body'), ('wrong_status', 'wrong_status'), ('unknown', 'unknown')], max_length=12)),
                        ('status', models.SmallIntegerField(null=True)),
                        ('dns_ms', models.FloatField(null=True)),
                        ('connect_ms', models.FloatField(null=True)),
                        ('tls_ms', models.FloatField(null=True)),
                        ('first_byte_ms', models.FloatField(null=True)),
                        ('total_ms', models.FloatField(null=True)),
                        ('certificate_expires_at', models.DateTimeField(null=True)),
                        ('remote_address', models.GenericIPAddressField(null=True)),
                        ('reason', models.TextField(default='')),
                        ('is_blind', models.BooleanField(default=False, help_text='The vantage point was blind: kept, but without a vote.')),
                    ],
                    options={
                        'db_table': 'probe_samples',
                    },
                ),
            ],
        )
    ]
