"""Who had set up a second factor keeps it: sealed from now on, and gone from the tables that held it plain.

The code before it needs TWO_FACTOR=0 to log anybody in without those tables; no release had them.
"""

from __future__ import annotations

import base64
from typing import Any

from django.db import migrations

from tranche_site.floor import sealed

FOUND = """
SELECT d.user_id, d.key, ARRAY(
    SELECT t.token::text FROM otp_static_statictoken t JOIN otp_static_staticdevice s ON s.id = t.device_id
    WHERE s.user_id = d.user_id)
FROM otp_totp_totpdevice d WHERE d.confirmed ORDER BY d.id
"""


def seal(apps: Any, schema_editor: Any) -> None:
    model = apps.get_model("tranche_site", "SecondFactor")
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('otp_totp_totpdevice') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return  # a fresh database
        cursor.execute(FOUND)
        for user, key, codes in cursor.fetchall():
            held = {"key": base64.b32encode(bytes.fromhex(key)).decode(), "codes": codes}
            text = sealed.seal(held, f"second_factor:{user}:credentials")
            model.objects.update_or_create(user_id=user, defaults={"confirmed": True, "sealed_credentials": text})
        cursor.execute("DROP TABLE otp_static_statictoken, otp_static_staticdevice, otp_totp_totpdevice")


class Migration(migrations.Migration):
    dependencies = [("tranche_site", "0006_second_factors")]
    operations = [migrations.RunPython(seal, migrations.RunPython.noop)]
