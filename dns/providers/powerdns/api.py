"""Each call to a server's API, and what its answer means."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
from django.conf import settings

from dns.providers.contract import ProviderError, Trouble
from tranche_site.floor import egress
from tranche_site.floor.guarded_http import GuardedTransport, is_distrusted

CONNECT_SECONDS = 2.0
_PORTS = (443, 8081, 8443)
"""Of TLS, and of PowerDNS itself."""
_MOST_BYTES = 64 * 1024 * 1024  # a zone of some 400,000 records
_MOST_TEXT = 200
_CONFLICT = "Conflicts with pre-existing RRset"
_LUA_UPDATES = "enable-lua-record-updates"

_NOT_SENT = (
    httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """An account's options, judged."""

    urls: tuple[str, ...]
    """Of the node that is written to, and then of others on the same database, whose caches are emptied."""
    server_id: str
    notify: bool | None
    """None: where the zone has secondaries to be told."""
    seconds: float
    zones: frozenset[str] | None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Raises ProviderError (misconfigured)."""
        seconds = options.get("timeout_seconds", 8)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= 10:
            raise _misconfigured("timeout_seconds must be 1 to 10")
        server_id = options.get("server_id") or "localhost"
        if not isinstance(server_id, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", server_id):
            raise _misconfigured("server_id must be a plain word, such as localhost")
        notify = options.get("notify", "auto")
        if notify not in (True, False, "auto"):
            raise _misconfigured("notify must be true, false or “auto”")
        others, zones = options.get("flush_urls") or [], options.get("zones")
        if not _are_texts(others) or not (zones is None or _are_texts(zones)):
            raise _misconfigured("flush_urls and zones must be lists of texts")
        if "api_url" not in options:
            raise _misconfigured("the account has no api_url, such as https://ns-api.example:8081")
        return cls(
            tuple(map(_url, [options["api_url"], *others])),
            server_id,
            None if notify == "auto" else bool(notify),
            float(seconds),
            None if zones is None else frozenset(zone.rstrip(".").lower() for zone in zones),
        )


class Api:
    """One server. Paths begin below `/api/v1/servers/<id>`. Raises ProviderError; the key is in none of its texts."""

    def __init__(
        self,
        url: str,
        options: Options,
        key: object,
        spend: Callable[[], None],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self._base = f"{url}/api/v1/servers/{options.server_id}"
        self._seconds = options.seconds
        self._key = key
        self._spend = spend
        self._transport = transport

    def get(self, path: str, params: Mapping[str, str] | None = None, *, seconds: float | None = None) -> Any:
        """The parsed JSON. `seconds` are for all of the call."""
        content = self._call("GET", path, params=params, seconds=seconds)[1]
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise self._no_api("GET", path, "what is no JSON") from None

    def find(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """The parsed object, or None if there is nothing under this path."""
        try:
            found = self.get(path, params)
        except ProviderError as error:
            if error.trouble == Trouble.ZONE:
                return None
            raise
        if not isinstance(found, dict):
            raise self._no_api("GET", path, "what is no object")
        return found

    def patch(self, path: str, body: object) -> Mapping[str, str]:
        """The headers of the answer."""
        return self._call("PATCH", path, body=body)[0]

    def put(self, path: str, params: Mapping[str, str] | None = None, *, seconds: float) -> None:
        self._call("PUT", path, params=params, seconds=seconds)

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        seconds: float | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        client, writes = self._client, method == "PATCH"
        timeout = httpx.Timeout(
            seconds / 2 if seconds else self._seconds, connect=seconds / 2 if seconds else CONNECT_SECONDS
        )
        self._spend()
        try:
            with client.stream(method, f"{self._base}{path}", params=params, json=body, timeout=timeout) as response:
                content = _content(response)
        except egress.Refused as error:
            raise _misconfigured(f"{self.url}: {error}") from None
        except _NOT_SENT as error:
            if is_distrusted(error):
                raise _misconfigured(f"{self.url}: {self._said(str(error))}") from None
            text = f"{self.url} can't be reached: {self._said(str(error) or type(error).__name__)}"
            raise ProviderError(text, permanent=False, trouble=Trouble.UNREACHABLE) from None
        except (httpx.HTTPError, httpx.StreamError, _Unreadable) as error:
            text = f"PowerDNS {method} {path}: {self._said(str(error) or type(error).__name__)}"
            raise ProviderError(text, permanent=False, unknown=writes, trouble=Trouble.UNREACHABLE) from None
        status = response.status_code
        if status == 204 or (status == 200 and not writes):
            return response.headers, content
        raise self._refusal(method, path, status, self._said(_text(response, content)))

    @cached_property
    def _client(self) -> httpx.Client:
        # httpx quotes what it can't send.
        if not isinstance(self._key, str) or not re.fullmatch(r"[!-~]{1,500}", self._key):
            what = "has characters that can't be sent" if self._key else "is missing"
            raise ProviderError(f"the account’s api_key {what}", permanent=True, trouble=Trouble.ACCESS)
        return httpx.Client(
            headers={"X-API-Key": self._key, "Accept": "application/json", "Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
            transport=self._transport or GuardedTransport(_PORTS, allow_private=settings.DNS_API_ALLOW_PRIVATE),
        )

    def _refusal(self, method: str, path: str, status: int, said: str) -> ProviderError:
        text = f"PowerDNS {method} {path or '/'}: {status}{f': {said}' if said else ''}"
        writes = method == "PATCH"
        if _LUA_UPDATES in said:
            return ProviderError(f"{text} (set {_LUA_UPDATES}=yes)", permanent=True, trouble=Trouble.MISCONFIGURED)
        if status >= 500 and status != 503:
            # Also the answer of a server whose database was busy with another write.
            trouble = Trouble.REFUSED if writes and status == 500 else Trouble.UNREACHABLE
            return ProviderError(text, permanent=False, unknown=writes, trouble=trouble)
        if status in (408, 429, 503):
            trouble = Trouble.THROTTLED if status == 429 else Trouble.UNREACHABLE
            return ProviderError(text, permanent=False, trouble=trouble)
        if status < 300:
            return ProviderError(
                f"{text}, where PowerDNS answers 204", permanent=False, unknown=writes, trouble=Trouble.UNREACHABLE
            )
        return ProviderError(text, permanent=True, trouble=_trouble(path, status, said))

    def _no_api(self, method: str, path: str, what: str) -> ProviderError:
        text = f"PowerDNS {method} {path or '/'}: answered with {what}"
        return ProviderError(text, permanent=False, trouble=Trouble.UNREACHABLE)

    def _said(self, text: str) -> str:
        """In one line, and without the key, which may be quoted back at us."""
        without = text.replace(self._key, "[key]") if isinstance(self._key, str) and self._key else text
        return " ".join(without.split())[:_MOST_TEXT]


class _Unreadable(Exception):
    """An answer that we don't read on."""


def _content(response: httpx.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _Unreadable("answered in an encoding that nobody asked for")
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > _MOST_BYTES:
            raise _Unreadable(f"answered with more than {_MOST_BYTES} bytes")
    return bytes(content)


def _text(response: httpx.Response, content: bytes) -> str:
    """What the server says is wrong. A whole page says nothing."""
    text = content[:10_000].decode(errors="replace")
    if response.is_redirect:
        return "redirects are not followed"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else text
    return str(found.get("error") or found) if isinstance(found, dict) else text


def _trouble(path: str, status: int, said: str) -> Trouble:
    if status in (401, 403):
        return Trouble.ACCESS
    if status == 404:
        return Trouble.ZONE if path.startswith("/zones/") else Trouble.MISCONFIGURED
    if status < 400 or status == 405:
        return Trouble.MISCONFIGURED
    return Trouble.FOREIGN if status == 422 and _CONFLICT in said else Trouble.REFUSED


def _url(text: object) -> str:
    """A base URL without its last slash. The key goes there, so it goes encrypted unless private networks are allowed."""
    example = "such as https://ns-api.example:8081"
    try:
        url = httpx.URL(text) if isinstance(text, str) else httpx.URL("")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("https", "http") or not url.host:
        raise _misconfigured(f"an API's URL must be one, {example}")
    if url.userinfo or url.query or url.fragment:
        raise _misconfigured(f"an API's URL has neither a user nor a question mark in it: {example}")
    if url.scheme == "http" and not settings.DNS_API_ALLOW_PRIVATE:
        raise _misconfigured(f"an API's URL must begin with https://, or its key could be read on the way, {example}")
    return str(url).rstrip("/")


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _misconfigured(text: str) -> ProviderError:
    return ProviderError(text, permanent=True, trouble=Trouble.MISCONFIGURED)
