"""What was used, what it costs, by which terms, and what was paid: each customer its own."""

from billing.api.disputes import DisputeViewSet
from billing.api.invoices import InvoiceViewSet
from billing.api.payments import PaymentViewSet
from billing.api.spend import SpendAlertViewSet, SpendViewSet
from billing.api.terms import ContractViewSet
from billing.api.usage import UsageSnapshotViewSet

__all__ = [
    "ContractViewSet", "DisputeViewSet", "InvoiceViewSet", "PaymentViewSet", "SpendAlertViewSet", "SpendViewSet",
    "UsageSnapshotViewSet",
]  # fmt: skip
