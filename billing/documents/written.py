"""How amounts, quantities, times and names are written on documents. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from billing.rating import UNITS

_EXACT_PLACES, _SHORT_PLACES = 12, 6
_CONTROLS = {code: " " if chr(code).isspace() else chr(0x2400 + code) for code in range(0x20)}
_CONTROLS |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
# These turn around what is printed after them: a name must not be able to do that to an amount.
_CONTROLS |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "")
_BREAKS = dict.fromkeys((0x85, 0x2028, 0x2029), " ")


def printable(text: Any) -> str:
    """Text as it was written, on one line: control characters as their pictures, such as “␇”."""
    return str(text).translate(_CONTROLS | _BREAKS)


def fraction(text: Any) -> Fraction | None:
    """The number of “7/3” or “0.12”; None for what is none."""
    try:
        return None if text is None or isinstance(text, (bool, float)) else Fraction(text)
    except (TypeError, ValueError, ZeroDivisionError):
        return None


def number(value: Fraction | int, places: int = 0) -> str:
    """Digits in threes, with at least so many places; what twelve can't say has six of them and “…”."""
    most = _EXACT_PLACES if value.denominator == 1 or not 10**_EXACT_PLACES % value.denominator else _SHORT_PLACES
    digits, rest = divmod(abs(value.numerator) * 10**most, value.denominator)
    whole, part = divmod(digits, 10**most)
    decimals = f"{part:0{most}d}".rstrip("0").ljust(places, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{whole:,}" + (f".{decimals}" if decimals else "") + ("…" if rest else "")


def rounded(value: Fraction, most: int, least: int = 0) -> str:
    """Half up, to at most and at least so many places."""
    scale = 10**most
    return number(Fraction((value * 2 * scale + 1) // 2, scale), least)


def percent(share: Fraction) -> str:
    """“33.33 %”."""
    return f"{rounded(share * 100, 2)} %"


def size(count: int | Fraction, unit: str) -> str:
    """Bytes in the unit that is billed: “1,486.7 GB”."""
    return f"{rounded(Fraction(count) / UNITS[unit], 3)} {unit}"


def duration(seconds: Fraction) -> str:
    """Whole seconds, rounded down: “5 h 41 min 30 s”."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{count:,} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts) or "0 s"


def time(value: Any) -> datetime | None:
    """A time that was kept as ISO 8601 text, in UTC; None where there is none."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return at.astimezone(UTC) if isinstance(at, datetime) and at.tzinfo else None


def minute(at: datetime) -> str:
    """In UTC; the zone is said beside it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def stretch(start: datetime, end: datetime | None) -> str:
    """To the second, in UTC; the day is said twice only where it is another: “2026-03-05 09:58:00 to 10:41:30”."""
    first = f"{start.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if end is None:
        return f"{first} on"
    last = f"{end.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return f"{first} to {last[11:] if first[:10] == last[:10] else last}"


def local_span(start: datetime, end: datetime, zone: str) -> str:
    first, last = (at.astimezone(ZoneInfo(zone)) for at in (start, end))
    return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}"


def hours(start: datetime, end: datetime) -> str:
    return f"{number(Fraction((end - start) // timedelta(microseconds=1), 3_600_000_000))} h"


def words(key: str) -> str:
    return re.sub("[_\\s]+", " ", key)
