"""The console's pages of what is protected, what is probed, and from where."""

from services.admin import domains, maintenance, services, targets, vantage_points

__all__ = ["domains", "maintenance", "services", "targets", "vantage_points"]
