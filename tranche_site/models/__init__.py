"""What belongs to nobody's app: who is called when something burns, who is written to and about what, and who changed what."""

from tranche_site.models.audit import AuditEntry, AuditSeal
from tranche_site.models.digest import Digest, DigestEntry
from tranche_site.models.paging import SEVERITIES, Page, PageNotice, PagingChannel
from tranche_site.models.saved_view import SavedView
from tranche_site.models.second_factor import SecondFactor

__all__ = [
    "SEVERITIES",
    "AuditEntry",
    "AuditSeal",
    "Digest",
    "DigestEntry",
    "Page",
    "PageNotice",
    "PagingChannel",
    "SavedView",
    "SecondFactor",
]
