"""Usage from CDN logs, the terms it is rated by, and the invoices that follow."""

from billing.models.estimate import UsageEstimate
from billing.models.invoice import Dispute, Invoice, InvoiceCounter, InvoiceLineItem, Payment, SpendAlert
from billing.models.source import LogObject, UsageSource
from billing.models.terms import CURRENCIES, Contract, CoverRuling, Prices, RateCard
from billing.models.usage import UnknownHostUsage, UsageBucket, UsageSnapshot

__all__ = [
    "CURRENCIES",
    "Contract",
    "CoverRuling",
    "Dispute",
    "Invoice",
    "InvoiceCounter",
    "InvoiceLineItem",
    "LogObject",
    "Payment",
    "Prices",
    "RateCard",
    "SpendAlert",
    "UnknownHostUsage",
    "UsageBucket",
    "UsageEstimate",
    "UsageSnapshot",
    "UsageSource",
]
