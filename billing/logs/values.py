"""SQL over the text of one value: a minute, a whole number, a host, or NULL if it is none."""

from __future__ import annotations

# A value beyond these is damage, not traffic; the bounds also keep sums far from the end of 64 bits.
_FROM_SECONDS, _TO_SECONDS = 946_684_800, 4_102_444_800  # 2000 to 2100
_MAX_BYTES = 10**13

# DuckDB's own cast would also take an offset of 99:99, a zone's name, and years before Christ.
_CLOCK = r"\d{4}-\d\d-\d\d[T ]([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?( ?Z| UTC|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)?"


def given(text: str, *empty: str) -> str:
    """The text, or NULL where it is '' or another of the format's marks for “nothing”."""
    for mark in ("", *empty):
        text = f"nullif({text}, '{mark}')"
    return text


def plausible_minute(minute: str) -> str:
    return f"CASE WHEN {minute} BETWEEN {_FROM_SECONDS // 60} AND {_TO_SECONDS // 60 - 1} THEN {minute} END"


def minute_of_timestamp(text: str) -> str:
    """Unix seconds, milli-, micro- or nanoseconds, by their size; or RFC 3339, with any offset."""
    # Digits alone are asked first, because they are nearly all of the largest logs, and cost least.
    plain = " ".join(_when_digits(text, scale) for scale in (10**9, 10**3, 1))
    cut = f"TRY_CAST(split_part({text}, '.', 1) AS BIGINT)"
    scales = " ".join(f"WHEN {cut} {_between(scale)} THEN {cut} // {60 * scale}" for scale in (1, 10**3, 10**6, 10**9))
    instant = plausible_minute(f"(epoch_us(TRY_CAST({text} AS TIMESTAMPTZ)) // 60000000)")
    return (
        rf"CASE {plain} WHEN regexp_full_match({text}, '\d+(\.\d+)?') THEN CASE {scales} END"
        f" WHEN regexp_full_match({text}, '{_CLOCK}') THEN {instant} END"
    )


def minute_of_nanoseconds(text: str) -> str:
    """Unix nanoseconds alone."""
    return f"CASE {_when_digits(text, 10**9)} END"


def _when_digits(text: str, scale: int) -> str:
    """A text as long as the number that it is has nothing but digits."""
    number, digits = f"TRY_CAST({text} AS BIGINT)", len(str(_TO_SECONDS * scale))
    return f"WHEN length({text}) = {digits} AND {number} {_between(scale)} THEN {number} // {60 * scale}"


def _between(scale: int) -> str:
    return f"BETWEEN {_FROM_SECONDS * scale} AND {_TO_SECONDS * scale - 1}"


def minute_of_date_and_time(text: str) -> str:
    """“2026-03-01 10:00:00”, UTC."""
    instant = plausible_minute(f"(epoch_us(TRY_CAST({text} AS TIMESTAMP)) // 60000000)")
    return f"CASE WHEN length({text}) = 19 THEN {instant} END"


def whole_bytes(text: str) -> str:
    """A whole number in its plain form. DuckDB's own cast would round 12.5 and take 1e3 and 0x10."""
    number = f"TRY_CAST({text} AS BIGINT)"
    return f"CASE WHEN {number} BETWEEN 0 AND {_MAX_BYTES} AND {number}::VARCHAR = {text} THEN {number} END"


def host_of_url(text: str) -> str:
    """The host, with its port if it has one, of a URL that names its scheme."""
    return rf"nullif(regexp_extract({text}, '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?([^/?#]+)', 1), '')"
