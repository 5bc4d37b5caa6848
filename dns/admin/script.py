"""Break-glass scripts: what a customer runs when nothing of ours is left."""

from __future__ import annotations

import base64

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html

from dns import breakglass
from dns.admin.shown import copyable, copyable_lines, worded
from dns.models import BreakGlassScript
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    ReadOnly,
    action,
    display,
    two_lines,
)


@admin.register(BreakGlassScript)
class BreakGlassScriptAdmin(ReadOnly):
    list_display = ["domain", "does", "made_at", "download_link"]
    list_select_related = ["record_set__domain", "record_set__account", "customer"]
    list_filter = [
        "direction",
        ("record_set__account", AutocompleteSelectFilter),
        ("record_set__domain__service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
    ]
    search_fields = ["record_set__domain__hostname", "record_set__domain__service__name"]
    fieldsets = [
        (None, {"fields": [("domain", "does"), "made_at"]}),
        ("Script", {"fields": ["shown_text"]}),
        ("Signature", {"fields": ["shown_signature", "shown_key"]}),
    ]
    readonly_fields = ["domain", "does", "shown_text", "shown_signature", "shown_key"]
    actions_detail = ["download", "download_signature", "download_key"]
    empty_hint = (
        "Made by themselves, once a day, for every domain that was written to a vendor with commands of its own."
    )

    @display(description="domain", ordering="record_set__domain__hostname")
    def domain(self, script: BreakGlassScript) -> str:
        return two_lines(script.record_set.domain, f"{script.record_set.account}, {script.customer}")

    @display(description="does", ordering="direction")
    def does(self, script: BreakGlassScript) -> str:
        return worded(script.direction)

    @display(description="script")
    def download_link(self, script: BreakGlassScript) -> str:
        if not script.text:
            return "can’t be made: no path to lead to"
        url = reverse("admin:dns_breakglassscript_download", args=[script.pk])
        return format_html('<a class="text-link" href="{}">{}</a>', url, _file_name(script, "sh"))

    @display(description="text")
    def shown_text(self, script: BreakGlassScript) -> str:
        return copyable_lines(script.text) if script.text else "can’t be made: no path to lead to"

    @display(description="Ed25519 over the text, base64")
    def shown_signature(self, script: BreakGlassScript) -> str:
        return copyable(script.signature) if script.signature else "-"

    @display(description="public key")
    def shown_key(self, script: BreakGlassScript) -> str:
        return copyable_lines(breakglass.public_key_pem())

    def offers(self, action_name: str, row: BreakGlassScript) -> bool:
        return bool(row.text)

    @action(
        description="Script", url_path="download", permissions=["view"], icon="download", variant=ActionVariant.PRIMARY
    )
    def download(self, request: HttpRequest, object_id: str) -> HttpResponse:
        script = self.row_of(request, object_id, "download")
        return _file(script.text.encode(), _file_name(script, "sh"))

    @action(description="Signature", url_path="signature", permissions=["view"], icon="download")
    def download_signature(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its bytes, as `openssl pkeyutl` reads them."""
        script = self.row_of(request, object_id, "download_signature")
        return _file(base64.b64decode(script.signature), _file_name(script, "sig"))

    @action(description="Public key", url_path="key", permissions=["view"], icon="download")
    def download_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        self.row_of(request, object_id, "download_key")
        return _file(breakglass.public_key_pem().encode(), "tranche.pem")


def _file_name(script: BreakGlassScript, ending: str) -> str:
    return f"{script.direction}-{script.record_set.domain.hostname}.{ending}"


def _file(content: bytes, name: str) -> HttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(content, content_type="application/octet-stream", headers=headers)
