"""The formats beside Logpush and CloudFront's W3C, row by row; CloudFront's request ids; Fastly's field map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from billing import logs
from billing.logs import LogReading
from tests.billing.log_lines import (
    AT,
    GOOD,
    akamai,
    bunny,
    cloudfront,
    cloudfront_v2,
    fastly,
    gcp,
    log_text,
    logpush,
    usage,
    write,
)

MINUTE = AT // 60
DEFAULTS = {"at": "timestamp", "host": "host", "bytes": "bytes", "is_edge": "fastly_is_edge", "id": "request_id"}


def read(format: str, tmp_path: Path, *rows: str, **options: Any) -> LogReading:
    return logs.read(logs.FORMATS[format], write(tmp_path / "log", log_text(format, *rows)), **options)


def counts(format: str, tmp_path: Path, row: str) -> tuple[str, int]:
    """The host and bytes of this row, which stands beside another that is plain and good."""
    reading = read(format, tmp_path, row, GOOD[format]())
    assert (reading.rows, reading.counted) == (2, 2)
    found = usage(reading)
    size, requests = found.pop(("www.example.com", MINUTE))
    if not found:
        return "www.example.com", size - 1000
    ((host, minute), (size, requests)) = found.popitem()
    assert (minute, requests) == (MINUTE, 1)
    return host, size


def reason(format: str, tmp_path: Path, row: str) -> str:
    """Why this row, after a good one, is bad."""
    reading = read(format, tmp_path, GOOD[format](), row)
    assert (reading.rows, reading.counted, reading.bad_rows) == (2, 1, 1)
    assert reading.bad[0].line == (4 if format == "cloudfront" else 2)
    return reading.bad[0].reason


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("www.example.com", 1000)),
        ({"sc-bytes": 7}, ("www.example.com", 7)),
        ({"x-host-header": "-"}, ("d1.cloudfront.net", 1000)),
        ({"x-host-header": None, "cs-host": "A.example.com:443"}, ("a.example.com", 1000)),
        ({"x-host-header": "b%C3%BCcher.example"}, ("xn--bcher-kva.example", 1000)),
        ({"date": None, "time": None, "timestamp": str(AT)}, ("www.example.com", 1000)),
        ({"date": "-", "timestamp": "-", "timestamp(ms)": f"{AT}999"}, ("www.example.com", 1000)),
        ({"time": "23:00:00", "timestamp": AT}, ("www.example.com", 1000)),
    ],
)
def test_cloudfront_v2_rows(fields: dict[str, Any], expected: tuple[str, int], tmp_path: Path) -> None:
    assert counts("cloudfront_v2", tmp_path, cloudfront_v2(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sc-bytes": "-"}, "sc-bytes is missing"),
        ({"sc-bytes": "1e3"}, "sc-bytes is not a plausible whole number: '1e3'"),
        ({"date": None}, "timestamp, or date and time is missing"),
        ({"date": "2026-02-30"}, "timestamp, or date and time is not a time: '2026-02-30 10:00:00'"),
        ({"time": "10:00:00+02"}, "timestamp, or date and time is not a time: '2026-03-01 10:00:00+02'"),
        ({"timestamp": "soon"}, "timestamp, or date and time is not a time: 'soon'"),
        ({"x-host-header": "-", "cs(Host)": None}, "x-host-header is missing"),
    ],
)
def test_bad_cloudfront_v2_rows(fields: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert reason("cloudfront_v2", tmp_path, cloudfront_v2(**fields)) == expected


@pytest.mark.parametrize(
    ("prefix", "fields"),
    [
        ("", {}),
        (" ", {}),
        ("<134>2026-03-01T10:00:00Z cache-fra123 name[1234]: ", {}),
        ("<134>1 2026-03-01T10:00:00Z cache-fra123 name - - [tag] ", {}),
        ("<6>", {}),
        ("", {"timestamp": AT}),
        ("", {"timestamp": "2026-03-01T12:00:59.999+02:00"}),
        ("", {"bytes": "1000"}),
        ("", {"fastly_is_edge": "TRUE"}),
    ],
)
def test_fastly_rows(prefix: str, fields: dict[str, Any], tmp_path: Path) -> None:
    assert counts("fastly", tmp_path, fastly(prefix, **fields)) == ("www.example.com", 1000)
    assert counts("fastly", tmp_path, fastly(prefix, **fields, host="a.example.com")) == ("a.example.com", 1000)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (fastly(bytes="-"), "bytes is missing"),
        (fastly(host=""), "host is missing"),
        (fastly(timestamp="2026-03-01T10:00:00+99:00"), "timestamp is not a time: '2026-03-01T10:00:00+99:00'"),
        (fastly(fastly_is_edge=None), "fastly_is_edge is missing"),
        (fastly(fastly_is_edge="maybe"), "fastly_is_edge is neither true nor false"),
        ("<134>2026-03-01T10:00:00Z cache-fra123 name[1234]: ", "not a JSON object with timestamp, host or bytes"),
        ("name[1234]: " + fastly(), "not a JSON object with timestamp, host or bytes"),
        (fastly("<134>")[:-1], "not a JSON object with timestamp, host or bytes"),
        (f"[{fastly()}]", "not a JSON object with timestamp, host or bytes"),
        ('203.0.113.9 "-" "-" "GET / HTTP/1.1" 200 5', "not a JSON object with timestamp, host or bytes"),
    ],
)
def test_bad_fastly_rows(row: str, expected: str, tmp_path: Path) -> None:
    assert reason("fastly", tmp_path, row) == expected


@pytest.mark.parametrize("flag", [False, "false", "False", 0, "0"])
@pytest.mark.parametrize("prefix", ["", "<134>x: "])
def test_what_a_shield_tells_is_excluded(flag: Any, prefix: str, tmp_path: Path) -> None:
    reading = read("fastly", tmp_path, fastly(prefix), fastly(prefix, fastly_is_edge=flag))
    assert (reading.rows, reading.counted, reading.excluded) == (2, 1, 1)


@pytest.mark.parametrize("prefix", ["", "<134>x: "])
def test_a_field_map_says_where_fastly_values_are(prefix: str, tmp_path: Path) -> None:
    names = {"at": "time start", "host": "req.host", "bytes": "resp.bytes_written", "is_edge": None, "id": None}
    row = {"time start": AT, "req.host": "a.example.com", "resp.bytes_written": "5", "host": "x", "bytes": 7}
    reading = read("fastly", tmp_path, *[prefix + json.dumps(row)] * 2, fields=names)
    assert usage(reading) == {("a.example.com", MINUTE): (10, 2)}
    assert logs.FORMATS["fastly"].with_fields(DEFAULTS).fields == logs.FORMATS["fastly"].fields


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (DEFAULTS | {"size": "x"}, "unknown key “size”: its keys are at, host, bytes, is_edge, id"),
        ({k: v for k, v in DEFAULTS.items() if k != "bytes"}, "lacks “bytes”: name the log's field, such as “bytes”"),
        ({k: v for k, v in DEFAULTS.items() if k != "id"}, "lacks “id”.* or null if the log has none"),
        (DEFAULTS | {"host": None}, "“host” is None: name one top-level field of the log, such as “host”"),
        (DEFAULTS | {"host": ""}, "“host” is ''"),
        (DEFAULTS | {"host": "a'b"}, "without quotes, braces and backslashes"),
        (DEFAULTS | {"host": 'a"b'}, "without quotes, braces and backslashes"),
        (DEFAULTS | {"host": "a{log}"}, "without quotes, braces and backslashes"),
        (DEFAULTS | {"host": "a\n"}, "“host” is"),
        (DEFAULTS | {"host": 5}, "“host” is 5"),
        (DEFAULTS | {"host": "Timestamp"}, "names both “Timestamp” and “timestamp”"),
    ],
)
def test_a_field_map_that_cant_be_is_answered_with_the_fix(names: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read("fastly", tmp_path, fastly(), fields=names)


def test_a_format_with_fixed_names_takes_no_field_map() -> None:
    with pytest.raises(ValueError, match="bunny has fixed field names: leave the field map empty"):
        logs.FORMATS["bunny"].with_fields(DEFAULTS)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"totalBytes": "5", "bytes": "6", "overheadBytes": "7"}, 5),
        ({"totalBytes": "0", "bytes": "6"}, 0),
        ({"totalBytes": "-", "bytes": "6", "overheadBytes": "7"}, 13),
        ({"totalBytes": "^", "bytes": "6", "overheadBytes": "^"}, 6),
        ({"totalBytes": "", "bytes": "6", "overheadBytes": ""}, 6),
        ({"totalBytes": None, "bytes": "6"}, 6),
        ({"totalBytes": 5}, 5),
    ],
)
def test_akamai_bytes(fields: dict[str, Any], size: int, tmp_path: Path) -> None:
    assert counts("akamai_ds2", tmp_path, akamai(**fields)) == ("www.example.com", size)


@pytest.mark.parametrize("empty", ["-", "^", "", None])
def test_what_akamai_leaves_empty_is_missing(empty: str | None, tmp_path: Path) -> None:
    assert reason("akamai_ds2", tmp_path, akamai(totalBytes=empty)) == "totalBytes or bytes is missing"
    assert reason("akamai_ds2", tmp_path, akamai(reqHost=empty)) == "reqHost is missing"
    assert reason("akamai_ds2", tmp_path, akamai(reqTimeSec=empty)) == "reqTimeSec is missing"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"totalBytes": "x", "bytes": "5"}, "totalBytes or bytes is not a plausible whole number: 'x'"),
        (
            {"totalBytes": None, "bytes": "5", "overheadBytes": "x"},
            "totalBytes or bytes is not a plausible whole number: '5 + x'",
        ),
        ({"reqTimeSec": "10:00"}, "reqTimeSec is not a time: '10:00'"),
    ],
)
def test_bad_akamai_rows(fields: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert reason("akamai_ds2", tmp_path, akamai(**fields)) == expected


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example.com/a.jpg", "a.example.com"),
        ("http://A.Example.com:8080", "a.example.com"),
        ("https://a.example.com?x=https://b.example.com/", "a.example.com"),
        ("https://a.example.com#f", "a.example.com"),
        ("https://user:word@a.example.com/@b", "a.example.com"),
        ("https://[2001:db8::1]:443/", "[2001:db8::1]"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
    ],
)
def test_the_host_is_in_the_url(url: str, host: str, tmp_path: Path) -> None:
    assert counts("bunny", tmp_path, bunny(url)) == (host, 1000)
    assert counts("gcp_cdn", tmp_path, gcp({"requestUrl": url})) == (host, 1000)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (bunny("-"), "the URL is missing"),
        (bunny("/a.jpg"), "the URL is not a host: '/a.jpg'"),
        (bunny("https:///a.jpg"), "the URL is not a host: 'https:///a.jpg'"),
        (bunny(size=""), "the bytes is missing"),
        (bunny(at=""), "the timestamp is missing"),
        (bunny(at=f"{AT}.5x"), f"the timestamp is not a time: '{AT}.5x'"),
        (bunny(at=f"+{AT}"), f"the timestamp is not a time: '+{AT}'"),
        (bunny(at="yesterday"), "the timestamp is not a time: 'yesterday'"),
        (bunny(ua="a|b"), "not 12 fields with | between them"),
        ("HIT|200|1772359200421|412", "not 12 fields with | between them"),
        ("|" * 11, "the timestamp is missing"),
    ],
)
def test_bad_bunny_rows(row: str, expected: str, tmp_path: Path) -> None:
    assert reason("bunny", tmp_path, row) == expected


@pytest.mark.parametrize(
    "at",
    ["2026-03-01T10:00:00Z", "2026-03-01T10:00:59.999999Z", "2026-03-01T15:30:00.1+05:30", "2026-03-01T01:00:00-09:00"],
)
def test_google_times_have_any_offset(at: str, tmp_path: Path) -> None:
    assert counts("gcp_cdn", tmp_path, gcp(timestamp=at)) == ("www.example.com", 1000)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (gcp(httpRequest=None), "httpRequest is missing"),
        (gcp({"requestUrl": None}), "httpRequest.requestUrl is missing"),
        (gcp({"responseSize": None}), "httpRequest.responseSize is missing"),
        (gcp({"responseSize": "many"}), "httpRequest.responseSize is not a plausible whole number: 'many'"),
        (gcp(httpRequest="GET /"), "httpRequest.requestUrl is missing"),
        (gcp(timestamp=None, insertId="a"), "timestamp is missing"),
        ('{"jsonPayload": {}}', "not a JSON object with LogEntry fields"),
    ],
)
def test_bad_google_rows(row: str, expected: str, tmp_path: Path) -> None:
    assert reason("gcp_cdn", tmp_path, row) == expected


@pytest.mark.parametrize(
    ("format", "one", "same_id_later", "without"),
    [
        ("cloudfront", cloudfront(id="a"), cloudfront(id="a", time="10:00:01"), cloudfront(id="-")),
        (
            "cloudfront_v2",
            cloudfront_v2(**{"x-edge-request-id": "a"}),
            cloudfront_v2(**{"x-edge-request-id": "a", "time": "10:00:01"}),
            cloudfront_v2(**{"x-edge-request-id": "-"}),
        ),
        ("fastly", fastly(request_id="a"), fastly(request_id="a", timestamp=AT + 1), fastly()),
        ("akamai_ds2", akamai(reqId="a"), akamai(reqId="a", reqTimeSec=f"{AT}.124"), akamai(reqId="^")),
        ("bunny", bunny(id="a"), bunny(id="a", at=f"{AT}422"), bunny(id="-")),
        ("gcp_cdn", gcp(insertId="a"), gcp(insertId="a", timestamp="2026-03-01T10:00:00.123457Z"), gcp()),
    ],
)
def test_a_request_told_twice_counts_once(
    format: str, one: str, same_id_later: str, without: str, tmp_path: Path
) -> None:
    reading = read(format, tmp_path, one, without, one, same_id_later, without, one)
    assert usage(reading) == {("www.example.com", MINUTE): (4000, 4)}
    assert (reading.rows, reading.counted, reading.duplicates) == (6, 4, 2)


def test_cloudfront_rows_are_the_same_read_as_cells_and_line_by_line(tmp_path: Path) -> None:
    rows = [cloudfront(f"h{n}.example.com", str(n), id=f"{n % 3}") for n in range(50)]
    quick = read("cloudfront", tmp_path, *rows)
    by_line = read("cloudfront", tmp_path, *rows, "short")
    assert (by_line.rows, by_line.bad_rows) == (quick.rows + 1, 1)
    assert usage(by_line) == usage(quick)


def test_a_second_header_above_the_rows_is_noticed(tmp_path: Path) -> None:
    text = f"#Fields: date time\n{log_text('cloudfront', cloudfront())}"
    with pytest.raises(logs.LogUnreadable, match=r"#Fields does not name|#Fields changes"):
        logs.read(logs.FORMATS["cloudfront"], write(tmp_path / "log", text))
    with pytest.raises(logs.LogUnreadable, match="#Fields changes"):
        logs.read(
            logs.FORMATS["cloudfront"],
            write(tmp_path / "log", log_text("cloudfront", "#Fields: date time x-host-header sc-bytes", cloudfront())),
        )


@pytest.mark.parametrize(
    "odd", [{"RayID": None}, {"EdgeStartTimestamp": AT}, {"EdgeResponseBytes": "x"}, {"RayID": "a"}]
)
def test_logpush_rows_are_the_same_whether_or_not_all_are_as_usual(odd: dict[str, Any], tmp_path: Path) -> None:
    usual = [
        logpush(RayID=f"{n % 40}", ClientRequestHost=f"h{n % 40}.example.com", WorkerSubrequest=False)
        for n in range(50)
    ]
    quick = read("cloudflare_logpush", tmp_path, *usual)
    other = read("cloudflare_logpush", tmp_path, *usual, logpush(ClientRequestHost="odd.example.com", **odd))
    assert (quick.rows, quick.counted, quick.duplicates) == (50, 40, 10)
    assert (other.rows, other.duplicates) == (51, 10)
    assert {key: volume for key, volume in usage(other).items() if key[0] != "odd.example.com"} == usage(quick)
