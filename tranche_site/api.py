"""The v1 API: every route on one screen."""

from django.urls import include, path, re_path
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.routers import SimpleRouter

from billing.api import (
    ContractViewSet,
    DisputeViewSet,
    InvoiceViewSet,
    PaymentViewSet,
    ServiceTimelineViewSet,
    SpendAlertViewSet,
    SpendViewSet,
    StormTimelineViewSet,
    UsageSnapshotViewSet,
)
from customers.api.account import AccountView
from customers.api.keys import ApiKeyViewSet
from customers.api.webhooks import EventKindViewSet, EventViewSet, WebhookDeliveryViewSet, WebhookEndpointViewSet
from dns.api import (
    BreakGlassKeyView,
    BreakGlassViewSet,
    DrillViewSet,
    FreezeViewSet,
    PinViewSet,
    RoutingViewSet,
    SteeringTermsViewSet,
    WeightChangeViewSet,
)
from services.api import CdnViewSet, DomainViewSet, MaintenanceWindowViewSet, ServiceViewSet
from services.maintenance import WEEK
from services.seen_api import AvailabilityViewSet, SampleViewSet
from storms.api import CdnIncidentViewSet, CdnPathViewSet, FindingViewSet, PolicyViewSet, StormViewSet
from storms.models import Finding, StormPolicy
from tranche_site.backtest_api import BacktestViewSet
from tranche_site.floor.openapi import KeptGenerator
from tranche_site.floor.problems import not_found

router = SimpleRouter(trailing_slash=False)
router.register("api-keys", ApiKeyViewSet, "api-key")
router.register("events", EventViewSet, "event")
router.register("event-kinds", EventKindViewSet, "event-kind")
router.register("webhook-endpoints", WebhookEndpointViewSet, "webhook-endpoint")
router.register("webhook-deliveries", WebhookDeliveryViewSet, "webhook-delivery")
router.register("services", ServiceViewSet, "service")
router.register("services", ServiceTimelineViewSet, "service-timeline")
router.register("domains", DomainViewSet, "domain")
router.register("cdns", CdnViewSet, "cdn")
router.register("cdn-paths", CdnPathViewSet, "cdn-path")
router.register("maintenance-windows", MaintenanceWindowViewSet, "maintenance-window")
router.register("availability", AvailabilityViewSet, "availability")
router.register("samples", SampleViewSet, "sample")
router.register("cdn-incidents", CdnIncidentViewSet, "cdn-incident")
router.register("storm-policies", PolicyViewSet, "storm-policy")
router.register("storms", StormViewSet, "storm")
router.register("storms", StormTimelineViewSet, "storm-timeline")
router.register("findings", FindingViewSet, "finding")
router.register("backtests", BacktestViewSet, "backtest")
router.register("routing", RoutingViewSet, "routing")
router.register("weight-changes", WeightChangeViewSet, "weight-change")
router.register("pins", PinViewSet, "pin")
router.register("freezes", FreezeViewSet, "freeze")
router.register("steering-terms", SteeringTermsViewSet, "steering-terms")
router.register("drills", DrillViewSet, "drill")
router.register("break-glass", BreakGlassViewSet, "break-glass")
router.register("usage-snapshots", UsageSnapshotViewSet, "usage-snapshot")
router.register("invoices", InvoiceViewSet, "invoice")
router.register("payments", PaymentViewSet, "payment")
router.register("disputes", DisputeViewSet, "dispute")
router.register("contracts", ContractViewSet, "contract")
router.register("spend", SpendViewSet, "spend")
router.register("spend-alerts", SpendAlertViewSet, "spend-alert")

document = SpectacularAPIView.as_view(
    authentication_classes=[],
    renderer_classes=[OpenApiJsonRenderer2],
    generator_class=KeptGenerator,
    custom_settings={
        "ENUM_NAME_OVERRIDES": {
            "WeightChangeStateEnum": "dns.models.WeightChange.State",
            "DrillStateEnum": "dns.models.Drill.State",
            "WeekdaysEnum": [day.value for day in WEEK],
            "FindingKindEnum": Finding._meta.get_field("kind").choices,
            "PolicyKindEnum": StormPolicy._meta.get_field("kind").choices,
            "InvoiceKindEnum": "billing.models.Invoice.Kind",
            "InvoiceStateEnum": "billing.models.Invoice.State",
            "LineKindEnum": "billing.models.InvoiceLineItem.Kind",
            "ContractKindEnum": "billing.models.Contract.Kind",
            "IncidentKindEnum": "storms.models.CdnIncident.Kind",
            "IncidentStateEnum": ["suspected", "confirmed", "over"],
            "StormStateEnum": ["raging", "ended", "closed"],
            "EndpointStateEnum": ["enabled", "failing", "disabled"],
            "DeliveryStateEnum": "customers.models.WebhookDelivery.State",
            "DisputeStateEnum": "billing.models.Dispute.State",
        }
    },
)
reader = SpectacularSwaggerSplitView.as_view(authentication_classes=[], url_name="openapi")

urlpatterns = [
    path("", include(router.urls)),
    path("account", AccountView.as_view(), name="account"),
    path("break-glass-key", BreakGlassKeyView.as_view(), name="break-glass-key"),
    path("openapi.json", document, name="openapi"),
    path("docs", reader, name="docs"),
    re_path("", not_found),  # JSON for what does not exist, also with DEBUG
]
