"""What was used, what it costs, by which terms, what was paid, and a picture of it: each customer its own."""

from billing.api.disputes import DisputeViewSet
from billing.api.invoices import InvoiceViewSet
from billing.api.payments import PaymentViewSet
from billing.api.spend import SpendAlertViewSet, SpendViewSet
from billing.api.terms import ContractViewSet
from billing.api.timeline import ServiceTimelineViewSet, StormTimelineViewSet
from billing.api.usage import UsageSnapshotViewSet

__all__ = [
    "ContractViewSet", "DisputeViewSet", "InvoiceViewSet", "PaymentViewSet", "ServiceTimelineViewSet", "SpendAlertViewSet",
    "SpendViewSet", "StormTimelineViewSet", "UsageSnapshotViewSet",
]  # fmt: skip
