"""Record set protections: names and types that no batch may touch until somebody lifts them. All or none, too."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

from tests.route53_fake import names
from tests.route53_fake.errors import Refusal, invalid_input
from tests.route53_fake.zones import Zone

_MOST_AT_ONCE = 100
_LARGEST_PAGE = 300
_BATCH = "InvalidResourceRecordSetProtectionBatch"


def create(zone: Zone, entries: list[dict[str, Any]]) -> None:
    keys = _keys(zone, entries)
    existing = [key for key in keys if key in zone.protections]
    if existing:
        code, status = ("ProtectionAlreadyExists", 409) if len(existing) == len(keys) else (_BATCH, 400)
        raise _refused(code, existing, "ProtectionAlreadyExists", "A protection already exists", status)
    for key, entry in zip(keys, entries, strict=True):
        zone.protections[key] = entry.get("Comment", "")


def delete(zone: Zone, entries: list[dict[str, Any]]) -> None:
    keys = _keys(zone, entries)
    if missing := [key for key in keys if key not in zone.protections]:
        raise _refused(_BATCH, missing, "ProtectionNotFound", "No protection exists")
    for key in keys:
        del zone.protections[key]


def page(zone: Zone, given: dict[str, Any]) -> dict[str, Any]:
    """Some of them, in the order of record sets, with a token for the rest."""
    limit = given.get("MaxResults", str(_LARGEST_PAGE))
    if not limit.isdigit() or limit == "0":
        raise invalid_input(f"Invalid value '{limit}' for maxresults")
    everything = sorted(zone.protections.items(), key=lambda item: (names.order(item[0][0]), item[0][1]))
    start = _start(given)
    rest = [(key, comment) for key, comment in everything if (names.order(key[0]), key[1]) >= start]
    shown, rest = rest[: min(int(limit), _LARGEST_PAGE)], rest[min(int(limit), _LARGEST_PAGE) :]
    found: dict[str, Any] = {
        "ResourceRecordSetProtections": [
            {"RecordName": name, "RecordType": qtype, "Comment": comment or None} for (name, qtype), comment in shown
        ]
    }
    if rest:
        found["NextToken"] = base64.b64encode("\n".join(rest[0][0]).encode()).decode()
    return found


def _start(given: dict[str, Any]) -> tuple[str, str]:
    if token := given.get("NextToken"):
        try:
            name, qtype = base64.b64decode(token, validate=True).decode().split("\n")
            return names.order(names.canonical(name)), qtype
        except (binascii.Error, ValueError, names.BadName) as error:
            raise Refusal("InvalidPaginationToken", "The pagination token is not valid") from error
    if "StartRecordType" in given and "StartRecordName" not in given:
        raise invalid_input("The request must have a name if it has a type")
    if "StartRecordName" not in given:
        return "", ""
    try:
        return names.order(names.canonical(given["StartRecordName"])), given.get("StartRecordType", "")
    except names.BadName as error:
        raise invalid_input(str(error)) from error


def _keys(zone: Zone, entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Raises Refusal for entries that aren't valid, which come before those that exist or don't."""
    if len(entries) > _MOST_AT_ONCE:
        raise invalid_input(f"More than {_MOST_AT_ONCE} protections in one request")
    keys: list[tuple[str, str]] = []
    invalid: list[tuple[str, str]] = []
    for entry in entries:
        try:
            key = names.canonical(entry["RecordName"]), entry["RecordType"]
        except names.BadName:
            key = entry["RecordName"], entry["RecordType"]
            invalid.append(key)
            continue
        if key in keys or not names.is_within(key[0], zone.name):
            invalid.append(key)
        keys.append(key)
    if invalid:
        raise _refused(_BATCH, invalid, "InvalidInput", "Not a valid entry for this hosted zone")
    return keys


def _refused(code: str, keys: Iterable[tuple[str, str]], reason: str, message: str, status: int = 400) -> Refusal:
    errors = [
        {"RecordName": name, "RecordType": qtype, "Code": reason, "Message": f"{message}: {name} {qtype}"}
        for name, qtype in keys
    ]
    return Refusal(code, "; ".join(error["Message"] for error in errors), status, errors)
