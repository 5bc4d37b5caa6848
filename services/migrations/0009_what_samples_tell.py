"""Samples tell the protocol, the certificate's issuer, and what takes away their vote."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("services", "0008_proof_over_time")]

    operations = [
        migrations.AddField(
            model_name='probesample',
            name='certificate_issuer',
            field=models.CharField(db_default='', default='', max_length=200),
        ),
        migrations.AddField(
            model_name='probesample',
            name='in_maintenance',
            field=models.BooleanField(db_default=False, default=False, help_text='Work was done on its service or CDN.'),
        ),
        migrations.AddField(
            model_name='probesample',
            name='is_late',
            field=models.BooleanField(db_default=False, default=False, help_text='Back-filled after Postgres was away: decides nothing.'),
        ),
        migrations.AddField(
            model_name='probesample',
            name='protocol',
            field=models.CharField(db_default='', default='', help_text='Of the answer, for example “HTTP/1.1”.', max_length=8),
        ),
    ]
