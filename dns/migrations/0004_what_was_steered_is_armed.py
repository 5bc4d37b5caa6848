"""Record sets that were steered before there was a check list go on being steered; the list is gone through soon."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("dns", "0003_steering_that_can_be_trusted")]

    operations = [
        migrations.RunSQL(
            "UPDATE record_sets SET armed_at = now(), unarmed_reason = '' WHERE generation > 0",
            migrations.RunSQL.noop,
        ),
    ]
