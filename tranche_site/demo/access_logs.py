"""Access logs of the edges, in the CDNs' own formats, as objects that appear finished."""

from __future__ import annotations

import gzip
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Entry:
    """One request as the edge saw it; `at` in seconds since 1970, `size_bytes` of the whole response."""

    at: float
    host: str
    method: str
    path: str
    status: int
    size_bytes: int
    peer: str
    user_agent: str


class AccessLog:
    def __init__(self, directory: Path, render: Callable[[Sequence[Entry]], tuple[str, bytes]]) -> None:
        self._directory = directory
        self._render = render
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        self._entries.append(entry)

    def rotate(self) -> None:
        """Write what has come since the last time as one object, and forget objects older than a day."""
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._entries:
            entries, self._entries = self._entries, []
            name, content = self._render(entries)
            making = self._directory / f".{name}.part"
            making.write_bytes(gzip.compress(content, mtime=0))
            making.rename(self._directory / name)
        for old in self._directory.glob("*.gz"):
            if old.stat().st_mtime < time.time() - KEPT_SECONDS:
                old.unlink()


def logpush(entries: Sequence[Entry]) -> tuple[str, bytes]:
    """Cloudflare Logpush: NDJSON, timestamps in nanoseconds."""
    lines = [
        json.dumps(
            {
                "ClientIP": entry.peer,
                "ClientRequestHost": entry.host,
                "ClientRequestMethod": entry.method,
                "ClientRequestSource": "eyeball",
                "ClientRequestURI": entry.path,
                "ClientRequestUserAgent": entry.user_agent,
                "EdgeEndTimestamp": int(entry.at * 1e9),
                "EdgeResponseBytes": entry.size_bytes,
                "EdgeResponseStatus": entry.status,
                "EdgeStartTimestamp": int(entry.at * 1e9),
                "RayID": secrets.token_hex(8),
                "WorkerSubrequest": False,
            }
        )
        for entry in entries
    ]
    start, end = (datetime.fromtimestamp(entries[i].at, UTC) for i in (0, -1))
    name = f"{start:%Y%m%dT%H%M%SZ}_{end:%Y%m%dT%H%M%SZ}_{secrets.token_hex(4)}.log.gz"
    return name, ("\n".join(lines) + "\n").encode()


_W3C_FIELDS = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) "
    "cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol"
)


def cloudfront(entries: Sequence[Entry]) -> tuple[str, bytes]:
    """CloudFront standard logs: W3C, tab-separated, `cs(Host)` is the distribution and `x-host-header` the viewer's host."""
    lines = ["#Version: 1.0", f"#Fields: {_W3C_FIELDS}"]
    for entry in entries:
        at = datetime.fromtimestamp(entry.at, UTC)
        path, _, query = entry.path.partition("?")
        lines.append(
            "\t".join(
                [
                    f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}", "AMS1-P1", str(entry.size_bytes), entry.peer, entry.method,
                    "d111111abcdef8.cloudfront.net", _encoded(path), f"{entry.status:03d}", "-",
                    _encoded(entry.user_agent), _encoded(query), "-", "Miss", secrets.token_urlsafe(18),
                    _encoded(entry.host), "https",
                ]
            )
        )  # fmt: skip
    first = datetime.fromtimestamp(entries[0].at, UTC)
    return f"EDEMO.{first:%Y-%m-%d-%H}.{secrets.token_hex(4)}.gz", ("\n".join(lines) + "\n").encode()


def _encoded(text: str) -> str:
    """What a visitor sent, as CloudFront writes it: no blank or tab that would move the columns; “-” is nothing."""
    return quote(text, safe="!$%&'()*+,-./:;=?@_~") or "-"


FORMATS: dict[str, Callable[[Sequence[Entry]], tuple[str, bytes]]] = {
    "cloudflare_logpush": logpush,
    "cloudfront": cloudfront,
}
