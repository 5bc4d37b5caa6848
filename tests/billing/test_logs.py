"""Reading logs: tricky inputs by table, random files against a plain reading of the same bytes."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import logs
from billing.logs import LogReading, LogUnreadable, engine
from billing.logs.hosts import normal_form
from tests.billing.log_lines import (
    AT,
    CLOUDFRONT_FIELDS,
    GOOD,
    cloudfront,
    cloudfront_file,
    log_text,
    logpush,
    random_log,
    usage,
    write,
)
from tests.billing.log_oracle import oracle

MINUTE = AT // 60


def read(format: str, path: Path) -> LogReading:
    return logs.read(logs.FORMATS[format], path)


def one(row: str, tmp_path: Path, format: str = "cloudflare_logpush") -> LogReading:
    """The reading of one row, beside a plain good one of another host."""
    good = logpush(ClientRequestHost="good.example.com")
    text = (
        f"{good}\n{row}\n" if format == "cloudflare_logpush" else cloudfront_file(cloudfront("good.example.com"), row)
    )
    return read(format, write(tmp_path / "log", text))


def balances(reading: LogReading) -> bool:
    return reading.rows == reading.counted + reading.excluded + reading.duplicates + reading.bad_rows


# --- Logpush, row by row ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "at",
    [
        AT * 10**9, AT * 10**9 + 59_999_999_999, str(AT * 10**9), AT, str(AT), AT * 1000 + 59_999, AT * 10**6,
        "2026-03-01T10:00:00Z", "2026-03-01T10:00:59.999Z", "2026-03-01T10:00:59.999999999Z",
        "2026-03-01T12:00:30+02:00", "2026-03-01T00:30:00-09:30", f"{AT}.75",
    ],
)  # fmt: skip
def test_timestamps_of_every_form_fall_into_their_minute(at: int | str, tmp_path: Path) -> None:
    assert usage(one(logpush(EdgeStartTimestamp=at), tmp_path))["www.example.com", MINUTE] == (1000, 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"EdgeStartTimestamp": None}, "EdgeStartTimestamp is missing"),
        ({"EdgeStartTimestamp": "yesterday"}, "EdgeStartTimestamp is not a time: 'yesterday'"),
        ({"EdgeStartTimestamp": "2026-03-01"}, "EdgeStartTimestamp is not a time: '2026-03-01'"),
        ({"EdgeStartTimestamp": "2026-02-30T10:00:00Z"}, "EdgeStartTimestamp is not a time: '2026-02-30T10:00:00Z'"),
        ({"EdgeStartTimestamp": 5}, "EdgeStartTimestamp is not a time: '5'"),
        ({"EdgeStartTimestamp": -AT}, f"EdgeStartTimestamp is not a time: '-{AT}'"),
        ({"EdgeStartTimestamp": 10**30}, f"EdgeStartTimestamp is not a time: '{10**30}'"),
        ({"ClientRequestHost": None}, "ClientRequestHost is missing"),
        ({"ClientRequestHost": ""}, "ClientRequestHost is missing"),
        ({"EdgeResponseBytes": None}, "EdgeResponseBytes is missing"),
        ({"EdgeResponseBytes": -1}, "EdgeResponseBytes is not a plausible whole number: '-1'"),
        ({"EdgeResponseBytes": 12.5}, "EdgeResponseBytes is not a plausible whole number: '12.5'"),
        ({"EdgeResponseBytes": "0x10"}, "EdgeResponseBytes is not a plausible whole number: '0x10'"),
        ({"EdgeResponseBytes": "a\0b"}, "EdgeResponseBytes is not a plausible whole number: 'a\\x00b'"),
        ({"EdgeResponseBytes": 2**63}, f"EdgeResponseBytes is not a plausible whole number: '{2**63}'"),
        ({"EdgeResponseBytes": [1]}, "EdgeResponseBytes is not a plausible whole number: '[1]'"),
    ],
)
def test_a_bad_row_is_kept_with_line_and_reason(fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    reading = one(logpush(**fields), tmp_path)
    assert [(bad.line, bad.reason) for bad in reading.bad] == [(2, reason)]
    assert (reading.rows, reading.counted, reading.bad_rows) == (2, 1, 1)


@pytest.mark.parametrize(
    "line",
    [
        "hello", "5", "null", "[1, 2]", "{", '{"EdgeStartTimestamp":', "{}", logpush() + ",", logpush() + logpush(),
        logpush()[:-1] + "\0}", "\0\0\0\0", '{"a": "\\ud800"}', '{"a": ' + "[" * 50_000 + "]" * 50_000 + "}",
        json.dumps({"reqHost": "www.example.com", "bytes": "12"}),
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_of_the_format_is_bad(line: str, tmp_path: Path) -> None:
    reading = one(line, tmp_path)
    assert [(bad.line, bad.reason) for bad in reading.bad] == [(2, "not a JSON object with Logpush fields")]
    assert balances(reading)


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"ClientRequestSource": None}, True),
        ({"ClientRequestSource": ""}, True),
        ({"ClientRequestSource": "edgeWorkerFetch"}, False),
        ({"WorkerSubrequest": False}, True),
        ({"WorkerSubrequest": True}, False),
        ({"WorkerSubrequest": "true"}, False),
        ({"EdgeResponseBytes": "1000"}, True),
        ({"EdgeResponseBytes": 0}, True),
    ],
)
def test_only_what_visitors_asked_for_is_counted(fields: dict[str, Any], counts: bool, tmp_path: Path) -> None:
    reading = one(logpush(**fields), tmp_path)
    assert (("www.example.com", MINUTE) in usage(reading)) is counts
    assert reading.excluded == (not counts)
    assert balances(reading)


def test_a_request_told_twice_counts_once(tmp_path: Path) -> None:
    rows = [logpush(RayID="a"), logpush(RayID="b"), logpush(RayID="a"), logpush(RayID="a", EdgeStartTimestamp=AT)]
    without_identity = [logpush(), logpush(), logpush(RayID=""), logpush(RayID="")]
    reading = read("cloudflare_logpush", write(tmp_path / "log", "\n".join(rows + without_identity)))
    assert usage(reading) == {("www.example.com", MINUTE): (7000, 7)}
    assert (reading.rows, reading.duplicates) == (8, 1)


# --- CloudFront, row by row ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "host", "size"),
    [
        (cloudfront(), "www.example.com", 1000),
        (cloudfront(status="000", size="0"), "www.example.com", 0),
        (cloudfront("-"), "d1.cloudfront.net", 1000),
        (cloudfront("WWW.Example.COM.:443"), "www.example.com", 1000),
        (cloudfront("b%C3%BCcher.example"), "xn--bcher-kva.example", 1000),
        (cloudfront('"quoted'), '"quoted', 1000),
    ],
)
def test_cloudfront_rows(row: str, host: str, size: int, tmp_path: Path) -> None:
    assert usage(one(row, tmp_path, "cloudfront"))[host, MINUTE] == (size, 1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (cloudfront(size="-"), "sc-bytes is missing"),
        (cloudfront(size="abc"), "sc-bytes is not a plausible whole number: 'abc'"),
        (cloudfront(date="-"), "date and time is not a time: '- 10:00:00'"),
        (cloudfront(time="10:00"), "date and time is not a time: '2026-03-01 10:00'"),
        (cloudfront("-", distribution="-"), "x-host-header is missing"),
        ("2026-03-01\t10:00:00\tFRA1", "not the 10 tab-separated columns that #Fields names"),
        (cloudfront() + "\tmore", "not the 10 tab-separated columns that #Fields names"),
        ("{}", "not the 10 tab-separated columns that #Fields names"),
        ("\0\0\0", "not the 10 tab-separated columns that #Fields names"),
    ],
)
def test_bad_cloudfront_rows(row: str, reason: str, tmp_path: Path) -> None:
    reading = one(row, tmp_path, "cloudfront")
    assert [(bad.line, bad.reason) for bad in reading.bad] == [(4, reason)]
    assert (reading.rows, reading.counted) == (2, 1)


@pytest.mark.parametrize(
    ("fields", "row", "host"),
    [
        ("date\ttime\tsc-bytes\tcs(Host)", "2026-03-01\t10:00:00\t5\td1.cloudfront.net", "d1.cloudfront.net"),
        ("sc-bytes x-host-header time date", "5\ta.example.com\t10:00:00\t2026-03-01", "a.example.com"),
        (CLOUDFRONT_FIELDS.upper(), cloudfront("a.example.com", "5"), "a.example.com"),
    ],
)
def test_columns_are_found_by_name(fields: str, row: str, host: str, tmp_path: Path) -> None:
    assert usage(read("cloudfront", write(tmp_path / "log", cloudfront_file(row, fields=fields)))) == {
        (host, MINUTE): (5, 1)
    }


def test_logs_joined_together_keep_their_rows_if_their_columns_agree(tmp_path: Path) -> None:
    part = gzip.compress(cloudfront_file(cloudfront()).encode())
    other = gzip.compress(cloudfront_file("2026-03-01\t10:00:00", fields="date time").encode())
    assert read("cloudfront", write(tmp_path / "same", part * 3)).counted == 3
    with pytest.raises(LogUnreadable, match="#Fields changes in the middle"):
        read("cloudfront", write(tmp_path / "mixed", part + other))


# --- whole files --------------------------------------------------------------------------------------------------


def many(format: str, count: int = 3) -> str:
    return log_text(format, *[GOOD[format]() for _ in range(count)])


ALL = pytest.mark.parametrize("format", logs.FORMATS)
BOTH = pytest.mark.parametrize("format", ["cloudflare_logpush", "cloudfront"])


@ALL
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\n\n \n\t\n"),
        lambda data: data.rstrip(b"\n"),
        lambda data: data + b"\n" * 1000,
    ],
    ids=["plain", "byte order mark", "CRLF", "blank lines", "no final line end", "trailing blank lines"],
)
@pytest.mark.parametrize("name", ["log.gz", "log", "a [*]?'.log"])
@pytest.mark.parametrize("packed", [True, False])
def test_rows_are_found_whatever_surrounds_them(
    format: str, change: Any, name: str, packed: bool, tmp_path: Path
) -> None:
    reading = read(format, write(tmp_path / name, change(many(format).encode()), packed=packed))
    assert (reading.rows, reading.counted, reading.bad_rows) == (3, 3, 0)


@ALL
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda good: gzip.compress(good)[:-9], "truncated"),
        (lambda good: gzip.compress(good)[:20], "truncated"),
        (lambda good: gzip.compress(good) * 2 + gzip.compress(good)[:-1], "truncated"),
        (lambda good: gzip.compress(gzip.compress(good)), "gzip within gzip"),
        (lambda good: gzip.compress(good) + b"garbage", "broken gzip"),
        (lambda good: b"\x1f\x8b\x08\x00 nothing of the kind", "broken gzip"),
        (lambda good: gzip.compress(good)[:-4] + b"\xff\xff\xff\xf0", "broken gzip"),
        (lambda good: gzip.compress(good + b"\n" * 100_000_000), "gzip bomb"),
        (lambda good: b"PK\x03\x04" + good, "zip archive"),
        (lambda good: good.decode().encode("utf-16"), "UTF-16"),
        (lambda good: b"\0" * 5000, "of another format|no #Fields"),
        (lambda good: b"GET / HTTP/1.1\n" * 5, "of another format|no #Fields"),
        (lambda good: b"date,host,bytes\n2026-03-01,www.example.com,5\n", "of another format|no #Fields"),
        (lambda good: b"[\n]\n", "of another format|no #Fields"),
        (lambda good: good + b"x" * 60_000_000 + b"\n" + good, "a line is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cant_be_read_to_its_end_is_refused_whole(
    format: str, data: Any, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "log.gz", data(many(format, 50).encode()))
    with pytest.raises(LogUnreadable, match=reason) as refusal:
        read(format, path)
    assert "\n" not in str(refusal.value)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogUnreadable, match="of another format: each of its 5 rows is not a JSON object"):
        read("cloudflare_logpush", write(tmp_path / "a", many("cloudfront")))
    with pytest.raises(LogUnreadable, match=r"of another format: each of its 3 rows is not 12 fields with \| between"):
        read("bunny", write(tmp_path / "a", many("gcp_cdn")))
    with pytest.raises(LogUnreadable, match="no #Fields line"):
        read("cloudfront", write(tmp_path / "b", many("cloudflare_logpush")))
    with pytest.raises(LogUnreadable, match="#Fields does not name sc-bytes"):
        read("cloudfront", write(tmp_path / "c", cloudfront_file("x", fields="date time x-host-header")))
    with pytest.raises(LogUnreadable, match="#Fields names neither x-host-header nor"):
        read("cloudfront", write(tmp_path / "d", cloudfront_file("x", fields="date time sc-bytes")))


@ALL
@pytest.mark.parametrize("other", logs.FORMATS)
def test_nothing_of_another_format_is_counted(format: str, other: str, tmp_path: Path) -> None:
    if format != other:
        try:
            assert read(format, write(tmp_path / "log", many(other))).counted == 0
        except LogUnreadable as error:
            assert "of another format" in str(error) or "#Fields" in str(error)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogUnreadable, match="No such file"):
        read("cloudfront", tmp_path / "missing")
    with pytest.raises(LogUnreadable, match="Is a directory"):
        read("cloudfront", tmp_path)


@ALL
def test_empty_files_hold_nothing(format: str, tmp_path: Path) -> None:
    empty = LogReading(0, 0, 0, 0, 0, (), [])
    assert read(format, write(tmp_path / "empty", b"")) == empty
    assert read(format, write(tmp_path / "packed", b"", packed=True)) == empty
    assert read("cloudfront", write(tmp_path / "header", cloudfront_file())) == empty
    assert read("cloudflare_logpush", write(tmp_path / "blank", "\n \n")) == empty


def test_a_flipped_bit_under_gzip_is_noticed_once_rows_look_bad(tmp_path: Path) -> None:
    rows = "".join(logpush(RayID=f"{n:x}", ClientRequestHost=f"h{n % 97}.example.com") + "\n" for n in range(3000))
    data = bytearray(gzip.compress(rows.encode()))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(LogUnreadable, match="broken gzip"):
        read("cloudflare_logpush", write(tmp_path / "log.gz", bytes(data)))


def test_text_that_is_not_utf_8_keeps_its_rows_and_line_numbers(tmp_path: Path) -> None:
    rows = [
        cloudfront(),
        cloudfront().replace("/a", "/\xff"),
        "short",
        cloudfront("\udcff.example.com"),
        "\x01\x02\x01",
    ]
    data = cloudfront_file(*rows).encode("utf-8", "surrogateescape").replace("\xff".encode(), b"\xff")
    reading = read("cloudfront", write(tmp_path / "log", data, packed=True))
    assert usage(reading)["www.example.com", MINUTE] == (2000, 2)
    assert (reading.counted, [bad.line for bad in reading.bad]) == (3, [5, 7])


def test_only_the_first_hundred_bad_rows_are_kept_with_their_lines(tmp_path: Path) -> None:
    text = "\n\n" + "".join(f"{logpush()}\n\nbad\n" for _ in range(5000))
    reading = read("cloudflare_logpush", write(tmp_path / "log", text))
    assert (reading.rows, reading.bad_rows, reading.counted) == (10_000, 5000, 5000)
    assert [bad.line for bad in reading.bad] == [5 + 3 * n for n in range(100)]


@pytest.mark.parametrize("format", ["cloudflare_logpush", "cloudfront"])
def test_lines_are_numbered_rightly_in_files_of_many_blocks(format: str, tmp_path: Path) -> None:
    good = logpush(pad="x" * 2000) if format == "cloudflare_logpush" else cloudfront(distribution="d" * 2000)
    lines = [good] * 40_000
    wrong = [17, 12_345, 20_000, 39_999]
    for n in wrong:
        lines[n] = "bad"
    text = "\n".join(lines) if format == "cloudflare_logpush" else cloudfront_file(*lines)
    for packed in (True, False):
        reading = read(format, write(tmp_path / "log", text, packed=packed))
        first = 1 if format == "cloudflare_logpush" else 3
        assert [bad.line for bad in reading.bad] == [n + first for n in wrong]
        assert reading.counted == 40_000 - 4


def test_what_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SECONDS_LIMIT", 0.05)
    monkeypatch.setattr(engine, "BYTES_A_SECOND", 1 << 40)
    with pytest.raises(LogUnreadable, match="not read within"):
        read("cloudflare_logpush", write(tmp_path / "log", b"{}\n" * 20_000_000))
    monkeypatch.undo()
    assert read("cloudflare_logpush", write(tmp_path / "log", logpush())).counted == 1


# --- random files against a plain reading ---------------------------------------------------------------------------

HOSTS = st.sampled_from(["www.example.com", "WWW.example.com.", "api.example.com:443", "api.example.com", "x", "-"])
SIZES = st.one_of(st.integers(0, 10**9), st.sampled_from([-1, "12", "1e3", None, "", 1.5]))
TIMES = st.integers(AT - 300, AT + 300)
LOGPUSH_ROWS = st.builds(
    logpush,
    EdgeStartTimestamp=st.one_of(
        TIMES, TIMES.map(lambda t: t * 10**9 + 7), TIMES.map(str), st.sampled_from(["2026-03-01T10:00:01Z", "x", None])
    ),
    ClientRequestHost=HOSTS,
    EdgeResponseBytes=SIZES,
    ClientRequestSource=st.sampled_from(["eyeball", "edgeWorkerFetch", None]),
    WorkerSubrequest=st.sampled_from([None, True, False]),
    RayID=st.sampled_from([None, "", "a", "b", "c"]),
)
CLOUDFRONT_ROWS = st.builds(
    cloudfront,
    host=HOSTS,
    size=SIZES.map(lambda size: "-" if size in (None, "") else str(size)),
    time=st.integers(0, 599).map(lambda s: f"10:{s // 60:02}:{s % 60:02}"),
    distribution=st.sampled_from(["d1.cloudfront.net", "-"]),
)
NOISE = st.one_of(st.sampled_from(["", " ", "{", "# a comment", "\t"]), st.text("ab{}\t \"'#", max_size=8))


@ALL
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_reading_agrees_with_a_plain_counting_of_random_logs(
    format: str, seed: int, packed: bool, tmp_path: Path
) -> None:
    chance = random.Random(f"{format} {seed}")
    path = write(tmp_path / "log", random_log(format, chance, 1 + seed * 80), packed=packed)
    expected, fates = oracle(format, path)
    reading = read(format, path)
    assert usage(reading) == expected
    assert (reading.counted, reading.excluded, reading.duplicates, reading.bad_rows) == (
        fates["counted"], fates["excluded"], fates["duplicate"], 0,
    )  # fmt: skip
    assert balances(reading)
    assert seed < 2 or reading.duplicates


@BOTH
@given(data=st.data(), packed=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_agrees_with_the_standard_library(
    format: str, data: st.DataObject, packed: bool, seed: int, tmp_path: Path
) -> None:
    rows = LOGPUSH_ROWS if format == "cloudflare_logpush" else CLOUDFRONT_ROWS
    good = logpush() if format == "cloudflare_logpush" else cloudfront()
    lines = [good, *data.draw(st.lists(st.one_of(rows, rows, NOISE), max_size=40))]
    text = "\n".join(lines) if format == "cloudflare_logpush" else cloudfront_file(*lines)
    path = write(tmp_path / "log", text, packed=packed)
    expected, fates = oracle(format, path)
    reading = read(format, path)
    assert usage(reading) == expected
    assert (reading.counted, reading.excluded, reading.duplicates, reading.bad_rows) == (
        fates["counted"], fates["excluded"], fates["duplicate"], fates["bad"],
    )  # fmt: skip
    assert balances(reading)

    shuffled = [*lines, *lines]
    random.Random(seed).shuffle(shuffled)
    again = "\n".join(shuffled) if format == "cloudflare_logpush" else cloudfront_file(*shuffled)
    assert read(format, write(path, again)).rows == 2 * reading.rows


@given(st.binary(max_size=300), st.booleans(), st.sampled_from(list(logs.FORMATS)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_come_the_answer_is_a_reading_or_a_reason(
    tmp_path: Path, data: bytes, packed: bool, format: str
) -> None:
    path = write(tmp_path / "log", many(format, 1).encode() + data, packed=packed)
    try:
        reading = read(format, path)
    except LogUnreadable as error:
        assert str(error)
    else:
        assert balances(reading)
        assert reading.counted >= 1


# --- hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("WWW.Example.com", "www.example.com"),
        ("www.example.com:8443", "www.example.com"),
        ("www.example.com.", "www.example.com"),
        ("www.example.com.:443", "www.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[2001:db8::1]:443", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("a\0b\x1b[31m", "a�b�[31m"),
        ("x" * 500, "x" * 300),
    ],
)
def test_normal_form_of_hosts(host: str, expected: str) -> None:
    assert normal_form(host) == expected


def test_spellings_of_one_host_are_added(tmp_path: Path) -> None:
    hosts = ["www.example.com", "WWW.EXAMPLE.COM", "www.example.com.", "www.example.com:443"]
    text = "\n".join(logpush(ClientRequestHost=host) for host in hosts)
    assert usage(read("cloudflare_logpush", write(tmp_path / "log", text))) == {("www.example.com", MINUTE): (4000, 4)}


def test_listing_the_formats_does_not_load_duckdb() -> None:
    code = "import sys; from billing.logs import FORMATS; assert list(FORMATS) and 'duckdb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
