"""Request headers that a customer wants its probes to bear: few, plain, and none that would make a probe something else."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError

MOST = 10
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")  # RFC 9110, 5.6.2
_LONGEST_VALUE = 1024
OURS = frozenset(
    {
        "host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "expect", "keep-alive",
        "accept-encoding", "user-agent", "proxy-authorization", "proxy-connection", "range",
    }
)  # fmt: skip
"""What a probe says of itself, and what would change the meaning of its request or the size of the answer."""


def problem(headers: Any) -> str | None:
    """Why `headers` can't be sent, or None. It should map names to values, such as {"X-Probe": "secret"}."""
    if not isinstance(headers, dict):
        return 'Give an object of names and values, such as {"X-Probe": "secret"}.'
    if len(headers) > MOST:
        return f"At most {MOST} headers."
    if len({str(name).lower() for name in headers}) < len(headers):
        return "Name each header once; upper and lower case are the same."
    return next((wrong for pair in headers.items() if (wrong := _wrong(*pair))), None)


def validate(headers: Any) -> None:
    if wrong := problem(headers):
        raise ValidationError(wrong, code="invalid_headers")


def lines(headers: dict[str, str]) -> tuple[str, ...]:
    """As they are sent, in a fixed order."""
    return tuple(f"{name}: {value}" for name, value in sorted(headers.items()))


def _wrong(name: Any, value: Any) -> str | None:
    if not _NAME.fullmatch(str(name)):
        return f"“{name}” is not a header's name."
    if name.lower() in OURS:
        return f"“{name}” is set by the probe itself."
    if not isinstance(value, str) or not value or value != value.strip():
        return f"“{name}” needs a text without spaces around it."
    if len(value) > _LONGEST_VALUE or not (value.isascii() and value.isprintable()):
        return f"“{name}” takes at most {_LONGEST_VALUE} printable ASCII characters."
    return None
