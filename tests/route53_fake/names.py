"""Domain names as Route 53 keeps them: lower case, a dot at the end, and \\ooo for anything but a-z, 0-9, - and _."""

from __future__ import annotations

import re
from functools import lru_cache

_PLAIN = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_ESCAPED = re.compile(r"\\([0-3][0-7]{2})")
_LONGEST_LABEL, _LONGEST_NAME = 63, 255
_KNOWN = 1 << 16
WILDCARD = "\\052"


class BadName(Exception):
    """The message says what Route 53 says of such a name."""


@lru_cache(_KNOWN)
def canonical(text: str) -> str:
    """Raises BadName."""
    lowered = text.lower()
    if _PLAIN.fullmatch(lowered) and len(lowered) < _LONGEST_NAME - 1:
        return lowered if lowered.endswith(".") else f"{lowered}."
    return "".join(f"{_escaped(label)}." for label in _labels(lowered, text))


def _labels(lowered: str, text: str) -> list[bytes]:
    if not lowered or lowered == ".":
        raise _fatal("DomainNameEmpty", "Domain name is empty", text)
    if not all("!" <= character <= "~" for character in lowered):  # the others must be written as escapes
        raise _fatal("UnsupportedCharacter", "Value contains unsupported characters", text)
    labels = [_bytes(label) for label in lowered.removesuffix(".").split(".")]
    if not all(labels):
        raise _fatal("DomainLabelEmpty", "Domain label is empty", text)
    if any(len(label) > _LONGEST_LABEL for label in labels):
        raise _fatal("DomainLabelTooLong", "Domain label is too long", text)
    if sum(len(label) + 1 for label in labels) + 1 > _LONGEST_NAME:
        raise _fatal("DomainNameTooLong", "Domain name is too long", text)
    return labels


def _fatal(problem: str, explained: str, text: str) -> BadName:
    return BadName(f"FATAL problem: {problem} ({explained}) encountered with '{text}'")


def _bytes(label: str) -> bytes:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), label).encode("latin-1").lower()


def _escaped(label: bytes) -> str:
    return "".join(
        chr(byte) if chr(byte) in "abcdefghijklmnopqrstuvwxyz0123456789-_" else f"\\{byte:03o}" for byte in label
    )


@lru_cache(_KNOWN)
def order(name: str) -> str:
    """What names are sorted by: the labels reversed, with the dot at the end, which matters to names with hyphens."""
    return ".".join(reversed(name[:-1].split("."))) + "."


def is_within(name: str, zone: str) -> bool:
    return name == zone or name.endswith(f".{zone}")


@lru_cache(_KNOWN)
def wire(name: str) -> bytes:
    """A canonical name as it travels in DNS messages."""
    labels = [_bytes(label) for label in name[:-1].split(".")]
    return b"".join([len(label).to_bytes(1, "big") + label for label in labels]) + b"\0"
