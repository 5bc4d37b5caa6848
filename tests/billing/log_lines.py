"""Log files for tests, and what they hold: counted again in a few plain lines, without DuckDB."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from billing.logs import LogReading

AT = 1_772_359_200  # 2026-03-01T10:00:00Z
CLOUDFRONT_FIELDS = "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status x-host-header"

Usage = dict[tuple[str, int], tuple[int, int]]  # by host and minute since 1970: bytes, requests


def logpush(**fields: Any) -> str:
    """One Logpush row; a field that is None is left out."""
    row = {
        "EdgeStartTimestamp": AT * 10**9,
        "ClientRequestHost": "www.example.com",
        "EdgeResponseBytes": 1000,
        "ClientRequestSource": "eyeball",
    } | fields
    return json.dumps({name: value for name, value in row.items() if value is not None})


def cloudfront(
    host: str = "www.example.com", size: str = "1000", time: str = "10:00:00", date: str = "2026-03-01", **more: str
) -> str:
    distribution, status = more.get("distribution", "d1.cloudfront.net"), more.get("status", "200")
    return "\t".join((date, time, "FRA1", size, "203.0.113.9", "GET", distribution, "/a", status, host))


def cloudfront_file(*rows: str, fields: str = CLOUDFRONT_FIELDS) -> str:
    return "".join(f"{line}\n" for line in ("#Version: 1.0", f"#Fields: {fields}", *rows))


def write(path: Path, text: str | bytes, *, packed: bool = False) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    return path


def usage(reading: LogReading) -> Usage:
    found = {(line.host, line.minute): (line.bytes, line.requests) for line in reading.usage}
    assert len(found) == len(reading.usage), "a host and minute occurs twice"
    return found


def oracle(format: str, path: Path) -> tuple[Usage, Counter[str]]:
    """Usage and the fate of every row, by the standard library alone."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")
    rows = _logpush_rows(text.split("\n")) if format == "cloudflare_logpush" else _cloudfront_rows(text.split("\n"))
    fates: Counter[str] = Counter()
    found: dict[tuple[str, int], list[int]] = {}
    for fate, host, seconds, size in rows:
        fates[fate] += 1
        if fate == "counted":
            volume = found.setdefault((host, seconds // 60), [0, 0])
            volume[0] += size
            volume[1] += 1
    return {key: (size, requests) for key, (size, requests) in found.items()}, fates


Row = tuple[str, str, int, int]


def _logpush_rows(lines: list[str]) -> Iterable[Row]:
    identified: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            at, host, size = row["EdgeStartTimestamp"], row["ClientRequestHost"], row["EdgeResponseBytes"]
            seconds, size = _seconds(str(at)), _whole(str(size))
            host = _host(host)
        except (ValueError, KeyError, TypeError, AttributeError):
            yield "bad", "", 0, 0
            continue
        if row.get("WorkerSubrequest") is True or row.get("ClientRequestSource") not in (None, "", "eyeball"):
            yield "excluded", "", 0, 0
        elif ray := row.get("RayID"):
            identified.setdefault((ray, str(at), row["ClientRequestHost"].lower()), []).append((size, seconds))
        else:
            yield "counted", host, seconds, size
    for (_, _, host), versions in identified.items():
        # Whichever comes first: of versions that differ, the largest counts.
        size, seconds = max(versions)
        yield "counted", _host(host), seconds, size
        for _ in versions[1:]:
            yield "duplicate", "", 0, 0


def _cloudfront_rows(lines: list[str]) -> Iterable[Row]:
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
            host = next(h for h in (row.get("x-host-header"), row.get("cs(host)")) if h not in (None, "", "-"))
            at = datetime.strptime(f"{row['date']} {row['time']}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            yield "counted", _host(unquote(str(host))), int(at.timestamp()), _whole(row["sc-bytes"])
        except (ValueError, StopIteration):
            yield "bad", "", 0, 0


def _seconds(text: str) -> int:
    if text.isdigit():
        return int(text) // {10: 1, 13: 10**3, 16: 10**6, 19: 10**9}[len(text)]
    return int(datetime.fromisoformat(text).timestamp())


def _whole(text: str) -> int:
    if not re.fullmatch(r"0|[1-9]\d{0,12}", text):
        raise ValueError(text)
    return int(text)


def _host(text: str) -> str:
    if not text:
        raise ValueError(text)
    return re.sub(r":\d*$", "", text.lower()).rstrip(".")
