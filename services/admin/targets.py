"""Everything that is probed, and the CDNs it is reached through."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from customers.admin.telling import TellsCustomers
from services.models import Cdn, Target
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    ModelAdmin,
    display,
)

ROLE_COLOURS = {
    "primary": "primary",
    "backup": "info",
    "origin witness": "warning",
    "reference site": "success",
    "canary": "",
    "IPv6": "",
    "uncacheable": "",
}


@admin.register(Target)
class TargetAdmin(TellsCustomers):
    writing_is_dangerous = True
    list_display = ["hostname_probed", "role_label", "rank", "cdn", "address", "port", "capacity", "enabled"]
    list_select_related = ["domain", "cdn"]
    list_filter = [
        "role",
        "enabled",
        "cdn",
        ("domain", AutocompleteSelectFilter),
        ("domain__service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
    ]
    search_fields = ["domain__hostname", "hostname", "address", "cdn__name"]
    autocomplete_fields = ["domain", "cdn"]
    fixed_fields = ("domain",)
    readonly_fields = ["created_at"]
    fieldsets = [
        (None, {"fields": [("role", "rank"), "domain", ("hostname", "network")]}),
        ("Where to connect", {"fields": ["cdn", ("address", "port"), "probe_path"]}),
        ("Use", {"fields": [("capacity_percent", "enabled"), "created_at"]}),
    ]
    empty_hint = "Paths and origin witnesses are added on their domain’s page; reference sites and canaries here."

    @display(description="host", ordering="domain__hostname")
    def hostname_probed(self, target: Target) -> str:
        return target.host

    @display(description="role", ordering="role", label=ROLE_COLOURS)
    def role_label(self, target: Target) -> str:
        return str(target.get_facet_display() if target.facet else target.get_role_display())

    def has_change_permission(self, request: HttpRequest, obj: Target | None = None) -> bool:
        return super().has_change_permission(request, obj) and not (obj and obj.facet)

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "role":
            kwargs["choices"] = [choice for choice in Target.Role.choices if choice[0] != Target.Role.FACET]
        return super().formfield_for_choice_field(db_field, request, **kwargs)

    @display(description="capacity", ordering="capacity_percent")
    def capacity(self, target: Target) -> str:
        return f"{target.capacity_percent} %"

    def has_delete_permission(self, request: HttpRequest, obj: Target | None = None) -> bool:
        return False  # usage, verdicts and weights point at it: switch it off instead


@admin.register(Cdn)
class CdnAdmin(ModelAdmin):
    list_display = ["name", "slug", "shown_suffixes"]
    search_fields = ["name", "slug"]
    prepopulated_fields = {"slug": ["name"]}
    empty_hint = "Add every CDN that a customer uses as primary or backup."

    @display(description="edge suffixes")
    def shown_suffixes(self, cdn: Cdn) -> str:
        return ", ".join(cdn.suffixes) or "-"
