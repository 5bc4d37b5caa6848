"""Policies that say what a storm is, the verdicts they are judged by, the storms themselves, and incidents of CDNs.

One noun, one table, one file.
"""

from storms.models.finding import Finding
from storms.models.incident import CdnIncident, Entry, IncidentEntry
from storms.models.policy import Kind, StormPolicy, StormPolicyVersion
from storms.models.storm import StormEntry, StormEvent, StormSample
from storms.models.verdict import PathVerdict

__all__ = [
    "CdnIncident", "Entry", "Finding", "IncidentEntry", "Kind", "PathVerdict", "StormEntry", "StormEvent", "StormPolicy",
    "StormPolicyVersion", "StormSample",
]  # fmt: skip
