"""One HTTP call to a vendor: through the egress guard, within seconds, its answer read in part."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from tranche_site.floor import egress
from tranche_site.floor.guarded_http import GuardedTransport
from tranche_site.paging.channels.contract import ChannelError

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0
MOST_ANSWER_BYTES = 4096
PORTS = (443, 8443)
_PASSING = frozenset({408, 425, 429})


def post(url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> str:
    """How the answer begins, if it is a good one. Raises ChannelError, whose text has neither address nor secret."""
    transport = GuardedTransport(PORTS, allow_private=settings.PAGING_ALLOW_PRIVATE)
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.Client(transport=transport, timeout=timeout, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", url, json=body, headers=headers) as response,
        ):
            said = _beginning(response)
            status, after = response.status_code, response.headers.get("retry-after", "")
    except egress.Refused as error:
        raise ChannelError(str(error), permanent=True) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ChannelError("its address is none", permanent=True) from error
    except httpx.HTTPError as error:
        raise ChannelError(f"no answer: {type(error).__name__}", permanent=False) from error
    if not 200 <= status < 300:
        permanent = status < 500 and status not in _PASSING
        raise ChannelError(f"answered {status}: {said}", permanent=permanent, retry_after_seconds=_seconds(after))
    return said


def url_problem(url: Any) -> str:
    """What is wrong with an address that somebody typed, or nothing."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        port = parts.port
    except ValueError:
        return "This is no address."
    if settings.PAGING_ALLOW_PRIVATE and parts.scheme == "http" and parts.hostname:
        return ""
    if parts.scheme != "https" or not parts.hostname:
        return "Write an address that begins with https://."
    if parts.username or parts.password:
        return "Leave name and password out of the address."
    return "" if port in (None, *PORTS) or settings.PAGING_ALLOW_PRIVATE else "Its port must be 443 or 8443."


def _beginning(response: httpx.Response) -> str:
    got = b""
    for chunk in response.iter_raw(1024):
        got += chunk
        if len(got) >= MOST_ANSWER_BYTES:
            break
    text = got[:200].decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _seconds(retry_after: str) -> float:
    if retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0
