"""Calls of vendors' APIs: through the egress guard, each within its deadline, and all that goes wrong as SourceUnavailable."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from django.conf import settings

from billing.sources.contract import Access, Problem, SourceUnavailable
from tranche_site.floor import egress
from tranche_site.floor.guarded_http import GuardedTransport

_PORTS = (443,)
_CONNECT_SECONDS, _ANSWER_SECONDS, _DOWNLOAD_SECONDS = 5, 30, 600
_MOST_BYTES = 64 * 1024 * 1024
_MOST_RETRY_SECONDS = 3600
_SECRET = re.compile(r"[!-~]{1,500}")


class Api:
    """One vendor's API, called by one source. The secret goes into a header, and into no text."""

    def __init__(self, vendor: str, base_url: str, header: str, access: Access, scheme: str = "") -> None:
        self.vendor = vendor
        self._secret = access.secret
        if not _SECRET.fullmatch(access.secret):  # httpx would quote what it can't send
            what = "has characters that can’t be sent" if access.secret else "is missing: set it in the console"
            raise SourceUnavailable(f"{vendor}: the secret {what}")
        if access.endpoint_url and not settings.LOGS_ALLOW_PRIVATE:  # the secret would be sent there
            raise SourceUnavailable(f"{vendor}: endpoint_url must be empty, for the vendor’s own")
        self._base = (access.endpoint_url or base_url).rstrip("/")
        self._headers = {header: f"{scheme}{access.secret}", "Accept-Encoding": "identity"}

    def json(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: object = None
    ) -> dict[str, Any]:
        """The object that it answers. Raises SourceUnavailable."""
        with self._call(method, path, _ANSWER_SECONDS, params=params, json=body) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise self.refused(f"{path}: answered with more than {_MOST_BYTES} bytes")
            if response.status_code != 200:
                raise self._failure(path, response, bytes(content[:10_000]))
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.unreadable(path)
        return found

    @contextmanager
    def download(self, path: str, params: Mapping[str, str] | None = None) -> Iterator[httpx.Response | None]:
        """The open answer, or None if there is nothing of this name. Raises SourceUnavailable, while it is read too."""
        with self._call("GET", path, _DOWNLOAD_SECONDS, params=params) as response:
            if response.status_code not in (200, 404):
                raise self._failure(path, response, b"")
            yield response if response.status_code == 200 else None

    def refused(self, text: str, retry_seconds: int = 0) -> SourceUnavailable:
        return SourceUnavailable(f"{self.vendor}: {text}", [self._secret], retry_seconds)

    def unreadable(self, path: str) -> SourceUnavailable:
        return self.refused(f"{path}: answered with what can’t be read")

    @contextmanager
    def _call(self, method: str, path: str, seconds: float, **more: Any) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(seconds, connect=_CONNECT_SECONDS)
        transport = GuardedTransport(_PORTS, allow_private=settings.LOGS_ALLOW_PRIVATE)
        try:
            with (
                httpx.Client(headers=self._headers, trust_env=False, transport=transport, timeout=timeout) as client,
                client.stream(method, f"{self._base}{path}", **more) as response,
            ):
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise self.refused(f"{path}: answered in an encoding that nobody asked for")
                yield response
        except egress.Refused as error:
            raise self.refused(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise self.refused(f"{path}: {str(error) or type(error).__name__}") from None

    def _failure(self, path: str, response: httpx.Response, content: bytes) -> SourceUnavailable:
        status = response.status_code
        meaning = {401: " (the secret is wrong)", 403: " (the secret lacks a permission)", 429: " (too many calls)"}
        said = "redirects are not followed" if response.is_redirect else _said(content)
        text = f"{path}: {status}{meaning.get(status, '')}{f': {said}' if said else ''}"
        return self.refused(text, _retry_seconds(response.headers.get("Retry-After", "")))


def endpoint_problems(access: Access) -> Iterator[Problem]:
    if access.endpoint_url and not settings.LOGS_ALLOW_PRIVATE:
        yield "endpoint_url", "Leave it empty: the secret is sent to the vendor’s own API, and nowhere else."


def _said(content: bytes) -> str:
    """What an API says is wrong. A whole page says nothing."""
    text = content.decode(errors="replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else text[:200]
    if not isinstance(found, dict):
        return ""
    errors = found.get("errors")
    if isinstance(errors, list) and errors:
        return messages(errors)
    return str(found.get("msg") or found.get("message") or found.get("Message") or found.get("error") or "")[:200]


def messages(errors: list[Any]) -> str:
    texts = [str(error.get("message", error)) if isinstance(error, dict) else str(error) for error in errors]
    return "; ".join(texts[:3])


def _retry_seconds(text: str) -> int:
    """Of a Retry-After, which is a number of seconds or a date; at most an hour."""
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        seconds = int(text)
    else:
        try:
            at = parsedate_to_datetime(text)
            seconds = int((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
        except (ValueError, OverflowError):
            return 0
    return max(0, min(seconds, _MOST_RETRY_SECONDS))
