"""A fault of IPv4 or IPv6 alone is a finding."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('storms', '0002_policy_versions'),
    ]

    operations = [
        migrations.AlterField(
            model_name='finding',
            name='kind',
            field=models.CharField(choices=[('origin_fault', 'origin_fault'), ('backup_unfit', 'backup_unfit'), ('blocked', 'blocked'), ('certificate', 'certificate'), ('always_failing', 'always_failing'), ('no_samples', 'no_samples'), ('one_family', 'one_family')], max_length=20),
        ),
    ]
