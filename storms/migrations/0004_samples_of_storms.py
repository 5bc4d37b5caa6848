"""The raw samples around a storm are kept with it."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('storms', '0003_one_family_findings'),
    ]

    operations = [
        migrations.AddField(
            model_name='stormevent',
            name='samples_kept_until',
            field=models.DateTimeField(blank=True, editable=False, help_text='Raw samples up to here are kept with it for ever.', null=True),
        ),
        migrations.CreateModel(
            name='StormSample',
            fields=[
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
                ('certificate_issuer', models.CharField(db_default='', default='', max_length=200)),
                ('protocol', models.CharField(db_default='', default='', help_text='Of the answer, for example “HTTP/1.1”.', max_length=8)),
                ('remote_address', models.GenericIPAddressField(null=True)),
                ('reason', models.TextField(default='')),
                ('is_blind', models.BooleanField(default=False, help_text='The vantage point was blind: kept, but without a vote.')),
                ('is_late', models.BooleanField(db_default=False, default=False, help_text='Back-filled after Postgres was away: decides nothing.')),
                ('in_maintenance', models.BooleanField(db_default=False, default=False, help_text='Work was done on its service or CDN.')),
                ('pk', models.CompositePrimaryKey('storm_id', 'slot_at', 'target_id', 'vantage_point_id', 'attempt', blank=True, editable=False, primary_key=True, serialize=False)),
                ('storm', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='samples', to='storms.stormevent')),
            ],
            options={
                'db_table': 'storm_samples',
            },
        ),
    ]
