"""The pages that are no row's: the operations room, whole and as the part that refreshes itself, plan, backtest and exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils import timezone

from tranche_site.console import access_pages, backtest_page, exposure_page, plan_page, saved_views, service_page
from tranche_site.console.room import reading

if TYPE_CHECKING:
    from django.urls import URLPattern


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    return {**context, "title": "Operations room", "room": reading.read(request.user, timezone.now())}


def live(request: HttpRequest) -> HttpResponse:
    """Not behind `admin_view`: its redirect would put the log-in page into the middle of the room."""
    if not admin.site.has_permission(request):
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    response = render(request, "console/room.html", {"room": reading.read(request.user, timezone.now())})
    response["Cache-Control"] = "no-store"
    return response


def urls() -> list[URLPattern]:
    return [
        path("dashboard/live", live, name="dashboard_live"),
        path("second-factor", admin.site.admin_view(access_pages.second_factor), name="second_factor"),
        path("sure", admin.site.admin_view(access_pages.sure), name="sure"),
        path("views/save", admin.site.admin_view(saved_views.save), name="saved_view_save"),
        path("views/<int:pk>/drop", admin.site.admin_view(saved_views.drop), name="saved_view_drop"),
        path("plan", admin.site.admin_view(plan_page.page), name="plan"),
        path("plan/<int:service_id>/pin", admin.site.admin_view(plan_page.pin), name="plan_pin"),
        path("plan/<int:service_id>/freeze", admin.site.admin_view(plan_page.freeze), name="plan_freeze"),
        path("service/<int:service_id>", admin.site.admin_view(service_page.page), name="service"),
        path("service/<int:service_id>/live", service_page.live, name="service_live"),
        path("exposure", admin.site.admin_view(exposure_page.page), name="exposure"),
        path("backtest", admin.site.admin_view(backtest_page.page), name="backtest"),
    ]
