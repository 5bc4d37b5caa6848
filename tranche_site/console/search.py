"""What the command palette (Ctrl-K) finds: the rows that people look for by name, a few of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.contrib.admin import site
from django.urls import reverse
from unfold.dataclasses import SearchResult

if TYPE_CHECKING:
    from django.http import HttpRequest

# unfold's own search reads every row that matches in every model; these are bounded.
_MODELS = {
    "customers.Customer": "apartment",
    "services.Service": "dns",
    "services.ServiceDomain": "language",
    "storms.CdnIncident": "crisis_alert",
    "storms.StormEvent": "thunderstorm",
    "billing.Invoice": "receipt_long",
    "customers.ApiKey": "key",
    "customers.WebhookEndpoint": "webhook",
    "services.Cdn": "cloud",
    "services.VantagePoint": "visibility",
    "services.Target": "route",
    "dns.DnsAccount": "manage_accounts",
    "billing.Contract": "contract",
    "billing.UsageSource": "input",
    "auth.User": "group",
}
_MOST = 8


def search(request: HttpRequest, term: str) -> list[SearchResult]:
    found = []
    for label, icon in _MODELS.items():
        model = apps.get_model(label)
        admin = site.get_model_admin(model)
        if not admin.has_view_permission(request):
            continue
        rows, _ = admin.get_search_results(request, admin.get_queryset(request), term)
        related = admin.list_select_related
        for row in rows.select_related(*(() if isinstance(related, bool) else related))[:_MOST]:
            url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[row.pk])
            found.append(SearchResult(str(row), str(model._meta.verbose_name), url, icon))
    return found
