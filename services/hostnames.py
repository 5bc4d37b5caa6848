"""Hostnames as customers type them: one normal form, and errors that say what to change."""

import ipaddress
import re

from django.core.exceptions import ValidationError

_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


def normalize(hostname: str) -> str:
    """Lower case, without a trailing dot, in IDNA form. Leaves what it can't encode for `validate` to refuse."""
    hostname = hostname.strip().rstrip(".").lower()
    try:
        return hostname if hostname.isascii() else hostname.encode("idna").decode("ascii").rstrip(".")
    except UnicodeError:
        return hostname


def is_printable_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def problem(hostname: str) -> str | None:
    """Why `hostname` can't be a domain of a service, or None. It must be in normal form already."""
    if "://" in hostname:
        return "Leave out the scheme: “www.example.com”, not “https://www.example.com”."
    if is_address(hostname):
        return "Name a host, not an IP address."
    if "/" in hostname:
        return "Leave out the path: only the hostname."
    if ":" in hostname:
        return "Leave out the port: only the hostname."
    if re.search(r"\s", hostname):
        return "A hostname has no spaces."
    if hostname.startswith("*."):
        return "Wildcards are not supported: name each hostname."
    labels = hostname.split(".")
    if len(labels) < 2:
        return "Give the full name, for example “www.example.com”."
    if len(hostname) > 253:
        return "A hostname has at most 253 characters."
    bad = next((label for label in labels if not _LABEL.fullmatch(label)), None)
    if bad is not None:
        return f"“{bad}” is not a valid label: letters, digits and inner hyphens, 1 to 63 of them."
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):  # what resolvers read as a number, such as 127.0x1
        return "Name a host, not an IP address."
    return None


def validate(hostname: str) -> None:
    if reason := problem(normalize(hostname)):
        raise ValidationError(reason, code="invalid_hostname")


def validate_target(address: str) -> None:
    """A target is a hostname or an IP address."""
    if not is_address(address):
        validate(address)
