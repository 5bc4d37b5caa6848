"""Facets of paths, and the networks that canaries stand on."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("services", "0005_how_a_service_is_probed")]

    operations = [
        migrations.RemoveConstraint(
            model_name='target',
            name='targets_role_has_its_owner',
        ),
        migrations.AddField(
            model_name='target',
            name='facet',
            field=models.CharField(blank=True, choices=[('ipv6', 'IPv6'), ('uncacheable', 'uncacheable')], db_default='', default='', editable=False, max_length=12),
        ),
        migrations.AddField(
            model_name='target',
            name='facet_of',
            field=models.ForeignKey(blank=True, editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='facets', to='services.target'),
        ),
        migrations.AddField(
            model_name='target',
            name='network',
            field=models.CharField(blank=True, db_default='', default='', help_text='Whose network a canary stands on, for example “AS64500”: three at least, none of them insured.', max_length=100),
        ),
        migrations.AlterField(
            model_name='target',
            name='role',
            field=models.CharField(choices=[('primary', 'Primary'), ('backup', 'Backup'), ('origin', 'origin witness'), ('reference', 'reference site'), ('canary', 'Canary'), ('facet', 'Facet')], max_length=10),
        ),
        migrations.AddConstraint(
            model_name='target',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('customer__isnull', False), ('domain__isnull', False), ('role__in', ['primary', 'backup', 'origin', 'facet'])), models.Q(('customer__isnull', True), ('domain__isnull', True), ('role__in', ['reference', 'canary']), models.Q(('hostname', ''), _negated=True)), _connector='OR'), name='targets_role_has_its_owner', violation_error_message='Primary, backup and origin belong to a domain; references and canaries have a hostname.'),
        ),
        migrations.AddConstraint(
            model_name='target',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('facet_of__isnull', False), ('role', 'facet'), models.Q(('facet', ''), _negated=True)), models.Q(models.Q(('role', 'facet'), _negated=True), ('facet', ''), ('facet_of__isnull', True)), _connector='OR'), name='targets_facet_of_a_path'),
        ),
        migrations.AddConstraint(
            model_name='target',
            constraint=models.UniqueConstraint(fields=('facet_of', 'facet'), name='targets_facet_unique'),
        ),
    ]
