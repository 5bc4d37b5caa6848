"""The normal form of a Host header, so that it can be compared with a domain."""

from __future__ import annotations

import re

from services import hostnames

# Hosts are what visitors send, so anything may stand there. The column for unknown hosts takes this many characters.
_MAX_LENGTH = 300
_PORT = re.compile(r":\d*$")


def normal_form(host: str) -> str:
    """Lower case, without port and trailing dot, in IDNA form. Control characters become �: Postgres refuses NUL."""
    host = host.strip()
    if ":" in host and (not host.startswith("[") or "]:" in host):
        host = _PORT.sub("", host)
    host = hostnames.normalize(host)
    return (host if host.isprintable() else re.sub(r"[\x00-\x1f\x7f]", "�", host))[:_MAX_LENGTH]
