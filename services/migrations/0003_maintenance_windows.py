"""When work is done on a service or a CDN: no storm starts then."""

import django.db.models.deletion
import django.utils.timezone
import services.models
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("customers", "0001_initial"),
        ("services", "0002_probe_samples"),
    ]

    operations = [
        migrations.CreateModel(
            name='MaintenanceWindow',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('first_day', models.DateField(help_text='In the time zone below.')),
                ('local_time', models.TimeField(help_text='When it begins, by the clock of its time zone. A time that the clock jumps over in spring counts from before the jump (02:30 is 03:30); of a time that comes twice in autumn it is the first.')),
                ('time_zone', models.CharField(default='UTC', help_text="IANA's, such as Europe/Berlin.", max_length=64, validators=[services.models.validate_time_zone])),
                ('duration_seconds', models.PositiveIntegerField(help_text='Of real time, from a minute to seven days.')),
                ('recurrence', models.CharField(choices=[('none', 'once'), ('daily', 'daily'), ('weekly', 'weekly')], default='none', max_length=10)),
                ('weekdays', models.JSONField(blank=True, default=list, help_text='Of a weekly window.')),
                ('until', models.DateField(blank=True, help_text='The last day it may begin on; empty: no end.', null=True)),
                ('reason', models.CharField(max_length=300)),
                ('over_at', models.DateTimeField(blank=True, editable=False, help_text='When its last span ends.', null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ('lifted_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('cdn', models.ForeignKey(blank=True, help_text='Every service whose primary path it is.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='maintenance_windows', to='services.cdn', verbose_name='CDN')),
                ('customer', models.ForeignKey(blank=True, editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='customers.customer')),
                ('service', models.ForeignKey(blank=True, help_text='Or a CDN.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='maintenance_windows', to='services.service')),
            ],
            options={
                'db_table': 'maintenance_windows',
                'ordering': ['-id'],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('cdn__isnull', True), ('customer__isnull', False), ('service__isnull', False)), models.Q(('cdn__isnull', False), ('customer__isnull', True), ('service__isnull', True)), _connector='OR'), name='maintenance_windows_one_subject', violation_error_message='Choose a service or a CDN.'), models.CheckConstraint(condition=models.Q(('duration_seconds__gte', 60), ('duration_seconds__lte', 604800)), name='maintenance_windows_duration_range', violation_error_message='Choose from a minute to seven days.')],
            },
        ),
    ]
