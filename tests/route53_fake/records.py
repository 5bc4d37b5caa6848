"""Record sets: what a request may say of one by itself, whatever else is in the zone."""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.route53_fake import names
from tests.route53_fake.errors import invalid_batch, invalid_input

POLICIES = {
    "Weight": "weighted",
    "Region": "latency",
    "Failover": "failover",
    "GeoLocation": "geolocation",
    "MultiValueAnswer": "multivalue answer",
    "CidrRoutingConfig": "CIDR",
    "GeoProximityLocation": "geoproximity",
    "AZAffinity": "AZ affinity",
}
"""The element of each routing policy, and what its sets are called. A set without one is simple."""
TYPE_CODES = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "SOA": 6,
    "PTR": 12,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SRV": 33,
    "SPF": 99,
    "CAA": 257,
}
"""Of the types that are checked and served; others are kept as they come, and never answered."""
_SIMPLE_ONLY = ("SOA", "NS", "DS")
_ONE_VALUE = ("CNAME", "SOA")
_MOST_VALUES = 400
_SHORT_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_STRINGS = re.compile(r'\s*(?:"(?:[^"\\]|\\.)*"\s*)+')
_LONGEST_STRING = 255


@dataclass(frozen=True, slots=True)
class RecordSet:
    """`fields` are those of the API, as they are listed; the rest is picked out of them."""

    name: str
    type: str
    identifier: str | None
    policy: str
    """The element of the routing policy, such as "Weight"; "" if the set is simple."""
    weight: int | None
    ttl: int | None
    values: tuple[str, ...]
    alias: str | None
    """The name that an alias leads to."""
    health_check: str | None
    fields: dict[str, Any]

    @property
    def key(self) -> tuple[str, str | None]:
        return self.type, self.identifier

    def agrees_with(self, other: RecordSet) -> bool:
        """Whether DELETE may name this one by that: all must be the same, but for the order of the values."""
        return _comparable(self.fields) == _comparable(other.fields)


def _comparable(fields: dict[str, Any]) -> dict[str, Any]:
    values = sorted(record["Value"] for record in fields.get("ResourceRecords", ()))
    return fields | {"ResourceRecords": values}


def record_set(fields: dict[str, Any], action: str) -> RecordSet:
    """From the fields of a request that fit the schema. Raises Refusal for what doesn't belong together."""
    _refuse_incoherent(fields, action)
    try:
        name = names.canonical(fields["Name"])
        alias = names.canonical(fields["AliasTarget"]["DNSName"]) if "AliasTarget" in fields else None
    except names.BadName as error:
        raise invalid_batch([str(error)]) from error
    kept = fields | {"Name": name}
    if alias:
        kept["AliasTarget"] = fields["AliasTarget"] | {"DNSName": alias}
    return RecordSet(
        name,
        fields["Type"],
        fields.get("SetIdentifier"),
        next((policy for policy in POLICIES if policy in fields), ""),
        fields.get("Weight"),
        fields.get("TTL"),
        tuple(record["Value"] for record in fields.get("ResourceRecords", ())),
        alias,
        fields.get("HealthCheckId"),
        kept,
    )


def _refuse_incoherent(fields: dict[str, Any], action: str) -> None:
    identifier = fields.get("SetIdentifier", "null")
    where = f"Change with [Action={action}, Name={fields['Name']}, Type={fields['Type']}, SetIdentifier={identifier}]"
    plain = {"TTL", "ResourceRecords"} & fields.keys()
    contents = "[AliasTarget, all of [TTL, and ResourceRecords], or TrafficPolicyInstanceId]"
    if "AliasTarget" in fields and plain:
        raise invalid_input(f"Invalid request: Expected exactly one of {contents}, but found more than one in {where}")
    if "AliasTarget" not in fields and len(plain) < 2:
        raise invalid_input(f"Invalid request: Expected exactly one of {contents}, but found none in {where}")
    policies = [policy for policy in POLICIES if policy in fields]
    every = ", ".join(POLICIES)
    if len(policies) > 1:
        raise invalid_input(f"Invalid request: Expected exactly one of [{every}], but found more than one in {where}")
    if policies or "HealthCheckId" in fields:
        if "SetIdentifier" not in fields:
            raise invalid_input(f"Invalid request: Missing field 'SetIdentifier' in {where}")
    elif "SetIdentifier" in fields:
        raise invalid_input(f"Invalid request: Expected exactly one of [{every}], but found none in {where}")
    if policies and fields["Type"] in _SIMPLE_ONLY:
        raise invalid_input(f"Invalid request: {fields['Type']} sets must be simple in {where}")


def problems(given: RecordSet) -> list[str]:
    """What is wrong with the values."""
    found = []
    for value in given.values:
        try:
            rdata(given.type, value)
        except ValueError as error:
            found.append(f"Invalid Resource Record: '{error}'")
    for value in sorted({value for value in given.values if given.values.count(value) > 1}):
        found.append(f"Duplicate Resource Record: '{value}'")
    described = f"RRSet with DNS name {given.name}, type {given.type}"
    if len(given.values) > 1 and given.type in _ONE_VALUE:
        found.append(f"{described} cannot have more than one value.")
    elif len(given.values) > 1 and given.policy == "Weight":
        found.append(
            f"{described}, SetIdentifier {given.identifier} cannot have more than one value as it is weighted."
        )
    elif len(given.values) > _MOST_VALUES:
        found.append(f"Cannot have more than {_MOST_VALUES} records in a RRSet.")
    if given.type == "NS" and given.name.startswith(f"{names.WILDCARD}."):
        found.append(f"{described} cannot be a wildcard.")
    return found


# --- values ---------------------------------------------------------------------------------------------------------


@lru_cache(1 << 16)
def rdata(qtype: str, value: str) -> bytes:
    """A value as it travels in DNS messages, b"" for a type that isn't served. Raises ValueError, in Amazon's words."""
    if not value:
        raise _fatal("MissingRDATA", "Value is missing", value)
    encode = _ENCODERS.get(qtype)
    return encode(value) if encode else b""


def _fatal(problem: str, explained: str, value: str) -> ValueError:
    return ValueError(f"FATAL problem: {problem} ({explained}) encountered with '{value}'")


def _a(value: str) -> bytes:
    try:
        return ipaddress.IPv4Address(value).packed
    except ValueError as error:
        raise _fatal("ARRDATAIllegalIPv4Address", "Value is not a valid IPv4 address", value) from error


def _aaaa(value: str) -> bytes:
    try:
        return ipaddress.IPv6Address(value).packed
    except ValueError as error:
        raise _fatal("InvalidIPv6Address", "Value is not a valid IPv6 address", value) from error


def _name(value: str) -> bytes:
    try:
        return names.wire(names.canonical(value))
    except names.BadName as error:
        raise ValueError(str(error)) from error


def _numbers_and_name(count: int, value: str, *, problem: str) -> bytes:
    *numbers, name = value.split() or [""]
    if len(numbers) != count or not all(number.isdigit() and int(number) < 1 << 16 for number in numbers):
        raise _fatal(problem, "Value has the wrong form", value)
    return struct.pack(f"!{count}H", *map(int, numbers)) + _name(name)


def _mx(value: str) -> bytes:
    return _numbers_and_name(1, value, problem="InvalidMXRDATA")


def _srv(value: str) -> bytes:
    return _numbers_and_name(3, value, problem="InvalidSRVRDATA")


def _txt(value: str) -> bytes:
    if not _STRINGS.fullmatch(value):
        raise _fatal("InvalidCharacterString", "Value should be enclosed in quotation marks", value)
    strings = [_unescaped(found) for found in _SHORT_STRING.findall(value)]
    if any(len(string) > _LONGEST_STRING for string in strings):
        raise _fatal("CharacterStringTooLong", "Value is too long", value)
    return b"".join([len(string).to_bytes(1, "big") + string for string in strings])


def _unescaped(text: str) -> bytes:
    plain = re.sub(r"\\([0-3][0-7]{2}|.)", lambda found: _escape(found[1]), text)
    return plain.encode("latin-1", "replace")


def _escape(text: str) -> str:
    return chr(int(text, 8)) if len(text) > 1 else text


def _caa(value: str) -> bytes:
    found = re.fullmatch(r'(\d{1,3}) ([a-z0-9]{1,15}) "([^"]*)"', value)
    if not found or int(found[1]) > 255:
        raise _fatal("InvalidCAARDATA", "Value has the wrong form", value)
    tag = found[2].encode()
    return bytes([int(found[1]), len(tag)]) + tag + found[3].encode()


def _soa(value: str) -> bytes:
    words = value.split()
    if len(words) != 7 or not all(word.isdigit() and int(word) < 1 << 32 for word in words[2:]):
        raise _fatal("InvalidSOARDATA", "Value has the wrong form", value)
    return _name(words[0]) + _name(words[1]) + struct.pack("!5I", *map(int, words[2:]))


_ENCODERS = {
    "A": _a,
    "AAAA": _aaaa,
    "CAA": _caa,
    "CNAME": _name,
    "MX": _mx,
    "NS": _name,
    "PTR": _name,
    "SOA": _soa,
    "SPF": _txt,
    "SRV": _srv,
    "TXT": _txt,
}
