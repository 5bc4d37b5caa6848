"""What the names of log files say: whether they are finished, and of which day they are."""

from __future__ import annotations

import re
from datetime import date

_IGNORED_ENDINGS = (".tmp", ".part")
_DAY = re.compile(
    r"(?<!\d)20\d\d(?P<between>[-/]?)(?:0[1-9]|1[0-2])(?P=between)(?:0[1-9]|[12]\d|3[01])(?=(?:\d\d)?(?!\d))"
)
"""20260301, 2026-03-01 or 2026/03/01, which may be followed by the hour."""


def is_ignored(name: str) -> bool:
    return name.startswith(".") or name.endswith(_IGNORED_ENDINGS)


def earliest(key: str, prefix_length: int, day: date) -> str:
    """Where the names of that day begin among those that differ from this key by their time alone; "" if it has none.

    Such names are in order of time: Logpush has a folder a day (20260301/…), CloudFront <distribution>.2026-03-01-10.…, and
    Fastly 2026-03-01T10:00:00.000-…, all with the day in full. What is below `prefix_length` was typed by somebody.
    """
    found = _DAY.search(key, prefix_length)
    if found is None:
        return ""
    between = found["between"]
    return key[: found.start()] + day.strftime(f"%Y{between}%m{between}%d")
