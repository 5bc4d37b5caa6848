"""What customers' tools hear of when somebody, or a tool of theirs, changes what is configured: one event for each change.

API and console tell it in the transaction that changes the row; what machines note on these rows is no configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import models

from customers.models import Event

NOUNS = {
    "service": ("service", "created updated deleted restored"),
    "servicedomain": ("domain", "created deleted restored"),
    "target": ("cdn_path", "created updated deleted"),
    "stormpolicy": ("storm_policy", "created updated deleted restored"),
    "maintenancewindow": ("maintenance_window", "created deleted"),
    "steeringterms": ("steering_terms", "created updated"),
}
"""By model: what customers call it, and what can happen to it."""


def tell(row: models.Model, verb: str, fields: Iterable[str] = ()) -> None:
    """`fields`: those that changed. Of what is nobody's, or no configuration of customers', nothing is told."""
    noun, verbs = NOUNS.get(row._meta.model_name or "", ("", ""))
    owner: Any = getattr(row, "customer_id", None)
    if verb not in verbs.split() or owner is None:
        return
    changed = {"changed": sorted(fields)} if verb == "updated" else {}
    name = f"{noun.replace('_', ' ').replace('cdn', 'CDN')} {row}"
    Event.record(f"{noun}.{verb}", row, f"The {name} was {verb}", customer_id=owner, **changed)
