"""What is protected (services and their domains), what is probed (targets), from where (vantage points), and what was seen.

One noun, one table, one file.
"""

from services.models.cdn import Cdn
from services.models.domain import CHALLENGE_LIFE, PROOF_GRACE, ServiceDomain, new_challenge
from services.models.maintenance_window import MaintenanceWindow, Subject, time_zones, validate_time_zone
from services.models.sample import ProbeSample, Sample, SampleHour, SampleMinute
from services.models.service import Service
from services.models.target import Target
from services.models.vantage_point import SILENT, VantagePoint, queue_of

__all__ = [
    "CHALLENGE_LIFE", "PROOF_GRACE", "SILENT", "Cdn", "MaintenanceWindow", "ProbeSample", "Sample", "SampleHour",
    "SampleMinute", "Service", "ServiceDomain", "Subject", "Target", "VantagePoint", "new_challenge", "queue_of",
    "time_zones", "validate_time_zone",
]  # fmt: skip
