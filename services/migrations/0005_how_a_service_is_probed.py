"""What a customer chooses about probes: headers, families, an uncacheable path, days left on a certificate."""

import django.core.validators
import services.headers
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("services", "0004_sample_minutes")]

    operations = [
        migrations.AddField(
            model_name='service',
            name='minimum_certificate_days',
            field=models.PositiveSmallIntegerField(db_default=14, default=14, help_text='A certificate with fewer days left is a finding.', validators=[django.core.validators.MaxValueValidator(365)]),
        ),
        migrations.AddField(
            model_name='service',
            name='probe_headers',
            field=models.JSONField(blank=True, db_default={}, default=dict, help_text='Sent with every probe, for example {"X-Probe": "a word that your firewall knows"}.', validators=[services.headers.validate]),
        ),
        migrations.AddField(
            model_name='service',
            name='probe_ipv4',
            field=models.BooleanField(db_default=True, default=True, help_text='Probe every path over IPv4.', verbose_name='IPv4'),
        ),
        migrations.AddField(
            model_name='service',
            name='probe_ipv6',
            field=models.BooleanField(db_default=False, default=False, help_text='Probe every path over IPv6. With both, each is judged apart.', verbose_name='IPv6'),
        ),
        migrations.AddField(
            model_name='service',
            name='uncacheable_path',
            field=models.CharField(blank=True, db_default='', default='', help_text='A path that no CDN caches, probed through every path beside the first: a cache hit hides a dead origin.', max_length=500),
        ),
        migrations.AddConstraint(
            model_name='service',
            constraint=models.CheckConstraint(condition=models.Q(('uncacheable_path', ''), ('uncacheable_path__startswith', '/'), _connector='OR'), name='services_uncacheable_path_absolute', violation_error_message='Begin with a slash.'),
        ),
        migrations.AddConstraint(
            model_name='service',
            constraint=models.CheckConstraint(condition=models.Q(('probe_ipv4', True), ('probe_ipv6', True), _connector='OR'), name='services_some_family', violation_error_message='Choose IPv4, IPv6 or both.'),
        ),
    ]
