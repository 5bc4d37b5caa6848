"""What a log holds, counted again by the standard library alone, in the plainest way."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from tests.billing.log_lines import Usage


class Told(NamedTuple):
    """One good row."""

    at: str
    seconds: int
    host: str
    size: int
    identity: str | None = None
    excluded: bool = False


def oracle(format: str, path: Path) -> tuple[Usage, Counter[str]]:
    """Usage, and the fate of every row. A row that isn't good is bad, whatever is wrong with it."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")
    fates: Counter[str] = Counter()
    found: dict[tuple[str, int], list[int]] = {}
    for fate, row in _fates(_ROWS[format](text.split("\n"))):
        fates[fate] += 1
        if row and fate == "counted":
            volume = found.setdefault((_normal(row.host), row.seconds // 60), [0, 0])
            volume[0] += row.size
            volume[1] += 1
    return {key: (size, requests) for key, (size, requests) in found.items()}, fates


def _fates(rows: Iterable[Told | None]) -> Iterator[tuple[str, Told | None]]:
    """Of rows that tell of one request, whichever comes first, the largest counts."""
    identified: dict[tuple[str, str, str], list[Told]] = {}
    for row in rows:
        if row is None:
            yield "bad", None
        elif row.excluded:
            yield "excluded", None
        elif row.identity:
            identified.setdefault((row.identity, row.at, row.host.lower()), []).append(row)
        else:
            yield "counted", row
    for versions in identified.values():
        yield "counted", max(versions, key=lambda row: row.size)
        for _ in versions[1:]:
            yield "duplicate", None


def _json_rows(told: Callable[[dict[str, Any]], Told]) -> Callable[[list[str]], Iterator[Told | None]]:
    def rows(lines: list[str]) -> Iterator[Told | None]:
        for line in lines:
            if line.strip():
                try:
                    yield told(json.loads(re.sub(r"^<\d+>[^{]*", "", line), parse_int=str, parse_float=str))
                except (ValueError, KeyError, TypeError, AttributeError):
                    yield None

    return rows


def _first(row: dict[str, Any], *names: str, empty: tuple[str, ...] = ("", "-")) -> str | None:
    return next((str(row[name]) for name in names if row.get(name) is not None and str(row[name]) not in empty), None)


def _told(
    at: str | None, host: str | None, size: str | None, identity: str | None = None, excluded: bool = False
) -> Told:
    if not at or not host or not size:
        raise ValueError
    return Told(at, _seconds(at), host, _whole(size), identity, excluded)


def _logpush(row: dict[str, Any]) -> Told:
    at, host, size, source, ray, worker = (
        _first(row, name, empty=("",))
        for name in (
            "EdgeStartTimestamp", "ClientRequestHost", "EdgeResponseBytes", "ClientRequestSource", "RayID",
            "WorkerSubrequest",
        )
    )  # fmt: skip
    return _told(at, host, size, ray, str(worker).lower() == "true" or source not in (None, "eyeball"))


def _cloudfront_v2(row: dict[str, Any]) -> Told:
    at = _first(row, "timestamp(ms)", "timestamp") or f"{row['date']} {row['time']}"
    host = _first(row, "x-host-header", "cs-host", "cs(Host)")
    return _told(at, host and unquote(host), _first(row, "sc-bytes"), _first(row, "x-edge-request-id"))


def _fastly(row: dict[str, Any]) -> Told:
    is_edge = {"true": True, "1": True, "false": False, "0": False}[str(row["fastly_is_edge"]).lower()]
    at, host, size = (_first(row, name) for name in ("timestamp", "host", "bytes"))
    return _told(at, host, size, _first(row, "request_id"), not is_edge)


def _akamai(row: dict[str, Any]) -> Told:
    def cell(name: str) -> str | None:
        return _first(row, name, empty=("", "-", "^"))

    size = cell("totalBytes") or cell("bytes")
    if not cell("totalBytes") and size and (overhead := cell("overheadBytes")):
        size = str(_whole(size) + _whole(overhead))
    return _told(cell("reqTimeSec"), cell("reqHost"), size, cell("reqId"))


def _gcp(row: dict[str, Any]) -> Told:
    request = row["httpRequest"]
    return _told(row["timestamp"], _host_of(request["requestUrl"]), str(request["responseSize"]), row.get("insertId"))


def _cloudfront(lines: list[str]) -> Iterator[Told | None]:
    names: list[str] = []
    for cells in csv.reader((line.rstrip("\r") for line in lines), delimiter="\t", quoting=csv.QUOTE_NONE):
        line = "\t".join(cells)
        if line.startswith("#Fields:"):
            names = line.lower().split()[1:]
        if not line.strip() or line.startswith("#"):
            continue
        row = dict(zip(names, cells, strict=False))
        try:
            if len(cells) != len(names):
                raise ValueError
            host = _first(row, "x-host-header", "cs(host)")
            identity = _first(row, "x-edge-request-id")
            yield _told(f"{row['date']} {row['time']}", host and unquote(host), _first(row, "sc-bytes"), identity)
        except ValueError:
            yield None


def _bunny(lines: list[str]) -> Iterator[Told | None]:
    for cells in csv.reader((line.rstrip("\r") for line in lines), delimiter="|", quoting=csv.QUOTE_NONE):
        if "|".join(cells).strip(" \t"):
            try:
                _, _, at, size, _, _, _, url, _, _, identity, _ = cells
                yield _told(at, _host_of(url), size, None if identity in ("", "-") else identity)
            except ValueError:
                yield None


_ROWS: dict[str, Callable[[list[str]], Iterator[Told | None]]] = {
    "cloudflare_logpush": _json_rows(_logpush),
    "cloudfront": _cloudfront,
    "cloudfront_v2": _json_rows(_cloudfront_v2),
    "fastly": _json_rows(_fastly),
    "akamai_ds2": _json_rows(_akamai),
    "bunny": _bunny,
    "gcp_cdn": _json_rows(_gcp),
}


def _host_of(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc:
        raise ValueError(url)
    return parts.netloc


def _seconds(text: str) -> int:
    whole = text.split(".")[0]
    if whole.isdigit():
        return int(whole) // {10: 1, 13: 10**3, 16: 10**6, 19: 10**9}[len(whole)]
    at = datetime.fromisoformat(text)
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def _whole(text: str) -> int:
    if not re.fullmatch(r"0|[1-9]\d{0,12}|10{13}", text):
        raise ValueError(text)
    return int(text)


def _normal(host: str) -> str:
    host = (host if host.endswith("]") else re.sub(r":\d*$", "", host)).lower().rstrip(".")
    return host if host.isascii() else host.encode("idna").decode()
