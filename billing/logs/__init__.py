"""Reading CDN logs: bytes and requests per host and minute. Needs no database.

A new format is a new file, and a line in FORMATS.
"""

from billing.logs import cloudflare_logpush, cloudfront
from billing.logs.format import Format, LogUnreadable
from billing.logs.reader import BadRow, HostMinute, LogReading, read

FORMATS: dict[str, Format] = {format.name: format for format in (cloudflare_logpush.FORMAT, cloudfront.FORMAT)}

__all__ = ["FORMATS", "BadRow", "Format", "HostMinute", "LogReading", "LogUnreadable", "read"]
