"""Log rows and files for tests, in every format."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from billing.logs import LogReading

AT = 1_772_359_200  # 2026-03-01T10:00:00Z
CLOUDFRONT_FIELDS = "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status x-host-header"
CLOUDFRONT_FIELDS_WITH_ID = f"{CLOUDFRONT_FIELDS} x-edge-request-id"

Usage = dict[tuple[str, int], tuple[int, int]]  # by host and minute since 1970: bytes, requests


def _json(row: dict[str, Any], fields: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in (row | fields).items() if value is not None})


def logpush(**fields: Any) -> str:
    """One Logpush row; a field that is None is left out, here and in the other JSON formats."""
    row = {
        "EdgeStartTimestamp": AT * 10**9,
        "ClientRequestHost": "www.example.com",
        "EdgeResponseBytes": 1000,
        "ClientRequestSource": "eyeball",
    }
    return _json(row, fields)


def cloudfront(
    host: str = "www.example.com", size: str = "1000", time: str = "10:00:00", date: str = "2026-03-01", **more: str
) -> str:
    distribution, status = more.get("distribution", "d1.cloudfront.net"), more.get("status", "200")
    cells = [date, time, "FRA1", size, "203.0.113.9", "GET", distribution, "/a", status, host]
    return "\t".join([*cells, more["id"]] if "id" in more else cells)


def cloudfront_file(*rows: str, fields: str = CLOUDFRONT_FIELDS) -> str:
    return "".join(f"{line}\n" for line in ("#Version: 1.0", f"#Fields: {fields}", *rows))


def cloudfront_v2(**fields: Any) -> str:
    row = {
        "date": "2026-03-01",
        "time": "10:00:00",
        "x-edge-location": "FRA1",
        "sc-bytes": "1000",
        "cs(Host)": "d1.cloudfront.net",
        "x-host-header": "www.example.com",
    }
    return _json(row, fields)


def fastly(prefix: str = "", **fields: Any) -> str:
    row = {
        "timestamp": "2026-03-01T10:00:00+0000",
        "host": "www.example.com",
        "bytes": 1000,
        "fastly_is_edge": True,
    }
    return prefix + _json(row, fields)


def akamai(**fields: Any) -> str:
    row = {"cp": "123456", "reqTimeSec": f"{AT}.123", "reqHost": "www.example.com", "totalBytes": "1000"}
    return _json(row, fields)


def bunny(
    url: str = "https://www.example.com/a.jpg?v=1",
    size: str = "1000",
    at: str = f"{AT}421",
    id: str = "-",
    ua: str = "UA",
) -> str:
    return "|".join(("HIT", "200", at, size, "390", "203.0.113.9", "-", url, "WA", ua, id, "DE"))


def gcp(request: dict[str, Any] | None = None, **fields: Any) -> str:
    """`request` changes fields of httpRequest."""
    http = {"requestUrl": "https://www.example.com/a?b=c", "responseSize": "1000", "status": 200, "cacheHit": True}
    changed = {name: value for name, value in (http | (request or {})).items() if value is not None}
    return _json({"timestamp": "2026-03-01T10:00:00.123456Z", "httpRequest": changed}, fields)


# A plain good row of each format, and one of the given host, for tests that are the same for all.
GOOD: dict[str, Callable[[], str]] = {
    "cloudflare_logpush": logpush,
    "cloudfront": cloudfront,
    "cloudfront_v2": cloudfront_v2,
    "fastly": fastly,
    "akamai_ds2": akamai,
    "bunny": bunny,
    "gcp_cdn": gcp,
}


def log_text(format: str, *rows: str) -> str:
    if format != "cloudfront":
        return "".join(f"{row}\n" for row in rows)
    has_id = bool(rows) and rows[0].count("\t") == CLOUDFRONT_FIELDS_WITH_ID.count(" ")
    return cloudfront_file(*rows, fields=CLOUDFRONT_FIELDS_WITH_ID if has_id else CLOUDFRONT_FIELDS)


def write(path: Path, text: str | bytes, *, packed: bool = False) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    return path


def usage(reading: LogReading) -> Usage:
    found = {(line.host, line.minute): (line.bytes, line.requests) for line in reading.usage}
    assert len(found) == len(reading.usage), "a host and minute occurs twice"
    return found


# --- random logs ----------------------------------------------------------------------------------------------------

_HOSTS = [
    "www.example.com", "WWW.Example.Com", "www.example.com.", "www.example.com:8443", "api.example.com:443",
    "xn--bcher-kva.example", "bücher.example", "[2001:db8::1]:443", "203.0.113.7", "a_b.example",
]  # fmt: skip
_OFFSETS = [UTC, *(timezone(timedelta(minutes=minutes)) for minutes in (-570, -60, 120, 330, 765))]
_PREFIXES = ["", "", "<134>2026-03-01T10:00:00Z cache-fra123 name[1234]: ", "<134>Mar  1 10:00:00 cache-fra1 x: "]


def random_rows(format: str, chance: random.Random, count: int) -> list[str]:
    """Good rows: some told twice, some that by rule are not counted, some without an id, times in several forms."""
    row = _RANDOM[format]
    rows: list[str] = []
    for _ in range(count):
        rows.append(chance.choice(rows) if rows and chance.random() < 0.15 else row(chance))
    return rows


def random_log(format: str, chance: random.Random, count: int) -> str:
    return log_text(format, *random_rows(format, chance, count))


def _size(chance: random.Random) -> int:
    return chance.choice([0, 1, chance.randrange(10**4), chance.randrange(10**9), 10**13])


def _id(chance: random.Random, nothing: str | None) -> str | None:
    return nothing if chance.random() < 0.2 else f"{chance.randrange(60):x}"


def _second(chance: random.Random) -> int:
    return AT + chance.randrange(7200)


def _instant(chance: random.Random, separator: str = ":") -> str:
    at = datetime.fromtimestamp(_second(chance), chance.choice(_OFFSETS))
    offset = at.strftime("%z")
    return f"{at:%Y-%m-%dT%H:%M:%S}{chance.choice(['', '.5', '.123456'])}" + (
        "Z" if offset == "+0000" and separator else f"{offset[:3]}{separator}{offset[3:]}"
    )


def _epoch(chance: random.Random) -> str:
    second = _second(chance)
    return chance.choice([str(second), f"{second}999", f"{second}999999", f"{second}999999999", f"{second}.999"])


def _either(chance: random.Random, value: int) -> int | str:
    return chance.choice([value, str(value)])


def _random_logpush(chance: random.Random) -> str:
    return logpush(
        EdgeStartTimestamp=chance.choice([_epoch(chance), _instant(chance), _second(chance)]),
        ClientRequestHost=chance.choice(_HOSTS),
        EdgeResponseBytes=_either(chance, _size(chance)),
        ClientRequestSource=chance.choice(["eyeball", "eyeball", "edgeWorkerFetch", "", None]),
        WorkerSubrequest=chance.choice([False, False, None, True, "true"]),
        RayID=_id(chance, chance.choice(["", None])),
    )


def _random_cloudfront(chance: random.Random) -> str:
    at = datetime.fromtimestamp(_second(chance), UTC)
    return cloudfront(
        host=chance.choice([*_HOSTS, "-", "b%C3%BCcher.example"]),
        size=str(_size(chance)),
        date=f"{at:%Y-%m-%d}",
        time=f"{at:%H:%M:%S}",
        id=str(_id(chance, "-")),
    )


def _random_cloudfront_v2(chance: random.Random) -> str:
    at = datetime.fromtimestamp(_second(chance), UTC)
    second = _second(chance)
    when = chance.choice(
        [
            {"date": f"{at:%Y-%m-%d}", "time": f"{at:%H:%M:%S}"},
            {"date": None, "time": None, "timestamp": str(second)},
            {"timestamp(ms)": second * 1000 + 999, "timestamp": "-"},
            {"timestamp(ms)": "-", "timestamp": f"{second}.999"},
        ]
    )
    host = chance.choice([*_HOSTS, "b%C3%BCcher.example"])
    where = chance.choice(
        [{"x-host-header": host}, {"x-host-header": "-", "cs-host": host}, {"x-host-header": None, "cs(Host)": host}]
    )
    return cloudfront_v2(
        **when, **where, **{"sc-bytes": _either(chance, _size(chance)), "x-edge-request-id": _id(chance, "-")}
    )


def _random_fastly(chance: random.Random) -> str:
    return fastly(
        prefix=chance.choice(_PREFIXES),
        timestamp=chance.choice([_epoch(chance), _instant(chance), _instant(chance, "")]),
        host=chance.choice(_HOSTS),
        bytes=_either(chance, _size(chance)),
        fastly_is_edge=chance.choice([True, True, "true", 1, "1", False, "false", 0]),
        request_id=_id(chance, chance.choice(["-", "", None])),
    )


def _random_akamai(chance: random.Random) -> str:
    size, nothing = _size(chance) // 2, chance.choice(["-", "^", "", None])
    sizes = chance.choice(
        [
            {"totalBytes": str(size), "bytes": "7", "overheadBytes": "8"},
            {"totalBytes": nothing, "bytes": str(size), "overheadBytes": "300"},
            {"totalBytes": nothing, "bytes": str(size), "overheadBytes": nothing},
        ]
    )
    return akamai(
        reqTimeSec=f"{_second(chance)}.{chance.randrange(1000):03}",
        reqHost=chance.choice(_HOSTS),
        reqId=_id(chance, nothing),
        **sizes,
    )


def _url(chance: random.Random) -> str:
    host = chance.choice(_HOSTS)
    return (
        f"{chance.choice(['https', 'HTTP'])}://{host}{chance.choice(['', '/', '/a/b@c?d=https://x.test/', '?e', '#f'])}"
    )


def _random_bunny(chance: random.Random) -> str:
    at = str(_second(chance) * 1000 + chance.randrange(1000))
    return bunny(
        _url(chance), str(_size(chance)), at, str(_id(chance, "-")), chance.choice(["-", "Mozilla/5.0 (\"'\\)"])
    )


def _random_gcp(chance: random.Random) -> str:
    request = {"requestUrl": _url(chance), "responseSize": _either(chance, _size(chance))}
    return gcp(request, timestamp=_instant(chance), insertId=_id(chance, None))


_RANDOM: dict[str, Callable[[random.Random], str]] = {
    "cloudflare_logpush": _random_logpush,
    "cloudfront": _random_cloudfront,
    "cloudfront_v2": _random_cloudfront_v2,
    "fastly": _random_fastly,
    "akamai_ds2": _random_akamai,
    "bunny": _random_bunny,
    "gcp_cdn": _random_gcp,
}
