"""The second factor of staff, sealed, in place of django-otp's tables, which hold it plain."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tranche_site', '0005_saved_views'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='SecondFactor',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('throttling_failure_timestamp', models.DateTimeField(blank=True, default=None, help_text='A timestamp of the last failed verification attempt. Null if last attempt succeeded.', null=True)),
                ('throttling_failure_count', models.PositiveIntegerField(default=0, help_text='Number of successive failed attempts.')),
                ('confirmed', models.BooleanField(default=False)),
                ('sealed_credentials', models.TextField(blank=True, default='', editable=False)),
                ('last_step', models.BigIntegerField(default=-1, help_text='That of the last code: no code is good twice.')),
                ('opened_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='second_factor', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'db_table': 'second_factors',
            },
        ),
        migrations.RunSQL(
            "CREATE TRIGGER tranche_audit AFTER INSERT OR DELETE OR UPDATE OF user_id, confirmed, opened_at, sealed_credentials "
            "ON second_factors FOR EACH ROW "
            "EXECUTE FUNCTION tranche_audit('', 'user_id confirmed opened_at sealed_credentials')",
            "DROP TRIGGER tranche_audit ON second_factors",
        ),
    ]
