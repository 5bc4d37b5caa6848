"""Probe workers that share the targets of one vantage point."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("services", "0006_facets")]

    operations = [
        migrations.AddField(
            model_name='vantagepoint',
            name='blind_shards',
            field=models.JSONField(db_default={}, default=dict, editable=False),
        ),
        migrations.AddField(
            model_name='vantagepoint',
            name='shards',
            field=models.PositiveSmallIntegerField(db_default=1, default=1, help_text='Probe workers that share its targets: one makes some thousand probes a second.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(64)]),
        ),
        migrations.AddConstraint(
            model_name='vantagepoint',
            constraint=models.CheckConstraint(condition=models.Q(('shards__gte', 1), ('shards__lte', 64)), name='vantage_points_shards_range'),
        ),
    ]
