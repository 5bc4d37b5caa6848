"""Records of the embedded authoritative server, to look at."""

from __future__ import annotations

from django.contrib import admin

from dns.models import EmbeddedRecord
from tranche_site.floor.console_admin import ReadOnly


@admin.register(EmbeddedRecord)
class EmbeddedRecordAdmin(ReadOnly):
    list_display = ["name", "type", "value", "weight", "ttl_seconds", "owner", "zone"]
    list_filter = ["type", "zone"]
    search_fields = ["name", "value"]
    empty_hint = "The embedded server answers these records; the “embedded” vendor writes them."
