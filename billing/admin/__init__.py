"""The console's pages of billing, by noun."""

from billing.admin import invoices, payments, sources, terms, usage

__all__ = ["invoices", "payments", "sources", "terms", "usage"]
