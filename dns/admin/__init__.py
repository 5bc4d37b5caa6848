"""The console's pages of DNS, one noun a file; what several of them share is in `shown`."""

from dns.admin import account, attempt, change, drill, embedded, hand, record_set, script, terms

__all__ = ["account", "attempt", "change", "drill", "embedded", "hand", "record_set", "script", "terms"]
