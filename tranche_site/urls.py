from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView

from dns import beacon
from tranche_site import health, metrics
from tranche_site.console import access_pages

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/password_change/", admin.site.admin_view(access_pages.password_change)),
    path("admin/", admin.site.urls),
    path("v1/", include("tranche_site.api")),
    path("beacon/<str:token>", beacon.answer),
    path("healthz", health.alive),
    path("readyz", health.ready),
    path("metrics", metrics.page),
    path("favicon.ico", lambda request: HttpResponse(status=204)),
]

handler404 = "tranche_site.floor.problems.not_found"
handler500 = "tranche_site.floor.problems.server_error"
