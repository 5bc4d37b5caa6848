"""Where probes run."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html_join

from services.models import VantagePoint
from tranche_site.floor.console_admin import (
    ModelAdmin,
    display,
)


def _command(queue: str) -> str:
    return f"celery -A tranche_site worker -n {queue}@%h -Q {queue} -P threads -c 2 --without-gossip --without-mingle"


STATE_COLOURS = {"active": "success", "shadow": "info", "off": ""}


@admin.register(VantagePoint)
class VantagePointAdmin(ModelAdmin):
    writing_is_dangerous = True
    list_display = ["name", "region", "network", "state_label", "sight", "last_probe_at"]
    list_filter = ["state", "region"]
    search_fields = ["name", "region", "network"]
    fixed_fields = ("name",)  # its Celery queue is named after it
    readonly_fields = ["commands", "sight", "blind_since", "blind_reason", "last_probe_at"]
    fieldsets = [
        (None, {"fields": ["name", ("region", "network"), ("state", "source_address"), "shards"]}),
        ("Probe workers", {"fields": ["commands"]}),
        ("What it sees", {"fields": ["sight", "blind_reason", ("blind_since", "last_probe_at")]}),
    ]
    empty_hint = "Nothing is probed without a vantage point: add two per region, on distinct networks."

    @display(description="state", ordering="state", label=STATE_COLOURS)
    def state_label(self, point: VantagePoint) -> str:
        return point.state

    @display(description="commands")
    def commands(self, point: VantagePoint) -> str:
        return format_html_join(
            "", '<div><code class="tr-copy">{}</code></div>', ((_command(q),) for q in point.queues)
        )

    def get_fieldsets(self, request: HttpRequest, obj: VantagePoint | None = None) -> list[Any]:
        return [part for part in super().get_fieldsets(request, obj) if obj or part[0] is None]

    @display(description="sight", label={"sees": "success", "blind": "danger", "never probed": "warning"})
    def sight(self, point: VantagePoint) -> str:
        if point.blind_since:
            return "blind"
        return "sees" if point.last_probe_at else "never probed"
