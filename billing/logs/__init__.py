"""Reading CDN logs: bytes and requests per host and minute. Needs no database.

A new format is a new file, and a line in FORMATS.
"""

from billing.logs import akamai_ds2, bunny, cloudflare_logpush, cloudfront, cloudfront_v2, fastly, gcp_cdn
from billing.logs.format import Format, LogUnreadable, ReaderUnavailable, unreadable
from billing.logs.reader import read
from billing.logs.reading import BadRow, HostMinute, LogReading

_MODULES = (cloudflare_logpush, cloudfront, cloudfront_v2, fastly, akamai_ds2, bunny, gcp_cdn)
FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in _MODULES}

__all__ = [
    "FORMATS",
    "BadRow",
    "Format",
    "HostMinute",
    "LogReading",
    "LogUnreadable",
    "ReaderUnavailable",
    "read",
    "unreadable",
]
