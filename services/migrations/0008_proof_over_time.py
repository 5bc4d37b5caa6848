"""What becomes of a proof: when its token was issued, lost, or shown beside another account's."""

import django.db.models.functions.datetime
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("services", "0007_shards")]

    operations = [
        migrations.AddField(
            model_name='servicedomain',
            name='challenge_issued_at',
            field=models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), default=django.utils.timezone.now, editable=False),
        ),
        migrations.AddField(
            model_name='servicedomain',
            name='contested_since',
            field=models.DateTimeField(blank=True, editable=False, help_text="Since when another account shows its token beside this one's.", null=True),
        ),
        migrations.AddField(
            model_name='servicedomain',
            name='lost_since',
            field=models.DateTimeField(blank=True, editable=False, help_text='Since when the token of a verified domain is gone.', null=True),
        ),
    ]
