"""The v1 API: every route on one screen."""

from django.urls import include, path, re_path
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView
from rest_framework.routers import SimpleRouter

from billing.api import InvoiceViewSet, UsageSnapshotViewSet
from customers.api import AccountView
from dns.api import RoutingViewSet, WeightChangeViewSet
from services.api import CdnViewSet, DomainViewSet, MaintenanceWindowViewSet, ServiceViewSet
from services.seen_api import AvailabilityViewSet, SampleViewSet
from storms.api import CdnPathViewSet, FindingViewSet, PolicyViewSet, StormViewSet
from storms.models import Finding, StormPolicy
from tranche_site.backtest_api import BacktestViewSet
from tranche_site.floor.problems import not_found

router = SimpleRouter(trailing_slash=False)
router.register("services", ServiceViewSet, "service")
router.register("domains", DomainViewSet, "domain")
router.register("cdns", CdnViewSet, "cdn")
router.register("cdn-paths", CdnPathViewSet, "cdn-path")
router.register("maintenance-windows", MaintenanceWindowViewSet, "maintenance-window")
router.register("availability", AvailabilityViewSet, "availability")
router.register("samples", SampleViewSet, "sample")
router.register("storm-policies", PolicyViewSet, "storm-policy")
router.register("storms", StormViewSet, "storm")
router.register("findings", FindingViewSet, "finding")
router.register("backtests", BacktestViewSet, "backtest")
router.register("routing", RoutingViewSet, "routing")
router.register("weight-changes", WeightChangeViewSet, "weight-change")
router.register("usage-snapshots", UsageSnapshotViewSet, "usage-snapshot")
router.register("invoices", InvoiceViewSet, "invoice")

document = SpectacularAPIView.as_view(
    authentication_classes=[],
    renderer_classes=[OpenApiJsonRenderer2],
    custom_settings={
        "ENUM_NAME_OVERRIDES": {
            "WeightChangeStateEnum": "dns.models.WeightChange.State",
            "FindingKindEnum": Finding._meta.get_field("kind").choices,
            "PolicyKindEnum": StormPolicy._meta.get_field("kind").choices,
        }
    },
)
reader = SpectacularSwaggerView.as_view(authentication_classes=[], url_name="openapi")

urlpatterns = [
    path("", include(router.urls)),
    path("account", AccountView.as_view(), name="account"),
    path("openapi.json", document, name="openapi"),
    path("docs", reader, name="docs"),
    re_path("", not_found),  # JSON for what does not exist, also with DEBUG
]
