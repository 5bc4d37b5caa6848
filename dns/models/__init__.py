"""Who writes a domain's weighted records, which weights are wanted, and the life of each change.

One noun, one table, one file.
"""

from dns.models.account import DnsAccount
from dns.models.change import WeightChange, WriteAttempt
from dns.models.drill import Drill
from dns.models.embedded_record import EmbeddedRecord
from dns.models.hand import Freeze, Pin
from dns.models.record_set import LONGEST_TTL_SECONDS, RecordSet
from dns.models.script import BreakGlassScript
from dns.models.terms import SteeringTerms

__all__ = [
    "LONGEST_TTL_SECONDS", "BreakGlassScript", "DnsAccount", "Drill", "EmbeddedRecord", "Freeze", "Pin", "RecordSet",
    "SteeringTerms", "WeightChange", "WriteAttempt",
]  # fmt: skip
