"""Where everything of the console is: the path of every page, of the rows that `console_rows.everything` makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.test import RequestFactory
from django.urls import reverse

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def of_rows(user: User) -> dict[str, str]:
    """List, form and page of every model that is registered, and the dialog of every action that a row offers."""
    request = RequestFactory().get("/")
    request.user = user
    found: dict[str, str] = {}
    for model, page in admin.site._registry.items():
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        found[name] = reverse(f"admin:{name}_changelist")
        if page.has_add_permission(request):
            found[f"{name}.add"] = reverse(f"admin:{name}_add")
        row = model._default_manager.order_by("pk").first()
        if row is None:
            continue
        found[f"{name}.page"] = reverse(f"admin:{name}_change", args=[row.pk])
        if page.has_delete_permission(request, row):
            found[f"{name}.delete"] = reverse(f"admin:{name}_delete", args=[row.pk])
    return found


def all_of(user: User) -> dict[str, str]:
    """Name → path."""
    from django.apps import apps

    def first(label: str) -> int:
        return int(apps.get_model(label)._default_manager.order_by("pk").values_list("pk", flat=True)[0])

    service = first("services.Service")
    return of_rows(user) | {
        "room": "/admin/",
        "service.hour": reverse("admin:service", args=[service]) + "?zoom=1h",
        "service.month": reverse("admin:service", args=[service]) + "?zoom=30d",
        "plan": reverse("admin:plan"),
        "exposure": reverse("admin:exposure"),
        "backtest": reverse("admin:backtest"),
        "sure": reverse("admin:sure"),
        "second_factor": reverse("admin:second_factor"),
        "password": reverse("admin:password_change"),
        "declare": reverse("admin:storms_stormevent_declare"),
        "empty": reverse("admin:services_service_changelist") + "?q=nothing-is-called-so",
        "document": reverse("admin:billing_invoice_document", args=[first("billing.Invoice")]),
    }
