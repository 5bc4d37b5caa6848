"""The console's pages of storms, by noun: to read what machines found, and for people to add their word with a reason."""

from storms.admin import findings, incidents, policies, storms, verdicts

__all__ = ["findings", "incidents", "policies", "storms", "verdicts"]
