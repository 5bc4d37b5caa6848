from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView

from tranche_site import health

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("v1/", include("tranche_site.api")),
    path("healthz", health.alive),
    path("readyz", health.ready),
    path("favicon.ico", lambda request: HttpResponse(status=204)),
]

handler404 = "tranche_site.floor.problems.not_found"
handler500 = "tranche_site.floor.problems.server_error"
