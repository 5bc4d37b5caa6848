"""Weighted sets as Route 53 has them: what is written for a set, and what a listing says of one.

A member is one CNAME with its percent as weight; at 0 it stays. At a zone's apex no CNAME may stand: there a member is an
address, or an alias of what Amazon itself serves, for IPv4 and, if every member has it, for IPv6. A set for IPv6 with only
some of the members could not be led away from the others: nothing else would be there to be answered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from dns.providers.contract import REVISION, Member, ProviderError, Standing, Trouble, WeightedSet, revision

RecordSet = dict[str, Any]
"""A ResourceRecordSet as the API gives and takes it."""
Change = dict[str, Any]

ALIAS_ZONES = {".cloudfront.net": "Z2FDTNDATAQYW2", ".awsglobalaccelerator.com": "Z2BJ6XQ5FK7U4H"}
"""Amazon's own zones that an alias into these domains must name."""
ALIAS_TTL_SECONDS = 60
"""About how long answers of an alias are kept; it has no TTL of its own."""
MOST_RECORDS, MOST_CHARACTERS = 1000, 32_000
"""Of one request, with an UPSERT counted twice."""

_ADOPTABLE = ("A", "AAAA", "CNAME")
_STEERED_AT_APEX = (*_ADOPTABLE, "HTTPS")
"""What browsers take addresses from; mail, name servers and texts at an apex are none of our business."""
_REV = re.compile(rf'"{REVISION}\d+"')


# --- what is written -------------------------------------------------------------------------------------------------


def member_sets(wanted: WeightedSet) -> list[RecordSet]:
    """Of all members, each time: a weighted set must have one TTL throughout, and drift is repaired in passing."""
    if not wanted.is_apex:
        return [
            _weighted(wanted, member, "CNAME", _plain(wanted, f"{member.target.rstrip('.')}."))
            for member in wanted.members
        ]
    forms = [(member, apex_form(wanted, member)) for member in wanted.members]
    families = ("A", "AAAA") if all("AAAA" in form for _, form in forms) else ("A",)
    return [_weighted(wanted, member, family, form[family]) for member, form in forms for family in families]


def apex_form(wanted: WeightedSet, member: Member) -> dict[str, RecordSet]:
    """What of a member may stand at an apex, by type: its first address of each family, or an alias of its target.

    The first, as a weighted set holds one value. Raises ProviderError.
    """
    form: dict[str, RecordSet] = {}
    try:
        for address in member.addresses:
            form.setdefault("A" if ip_address(address).version == 4 else "AAAA", _plain(wanted, address))
    except ValueError as error:
        raise _unsafe(f"{wanted.hostname}, {member.key}: {error}") from error
    if member.addresses and "A" not in form:
        raise _unsafe(f"{wanted.hostname}, {member.key}: no IPv4 address among {', '.join(member.addresses)}")
    if form:
        return form
    target = f"{member.target.rstrip('.').lower()}."
    for domain, zone_id in ALIAS_ZONES.items():
        if target.endswith(f"{domain}."):
            alias = {"HostedZoneId": zone_id, "DNSName": target, "EvaluateTargetHealth": False}
            return {"A": {"AliasTarget": alias}, "AAAA": {"AliasTarget": alias}}
    raise _unsafe(
        f"{wanted.hostname} is its zone’s apex, where no CNAME may stand, and {member.key} ({member.target}) has no "
        f"fixed address and no alias (those have names in {', '.join(domain[1:] for domain in ALIAS_ZONES)})"
    )


def beacon(wanted: WeightedSet, generation: int) -> RecordSet:
    return {
        "Name": f"{wanted.beacon_name}.",
        "Type": "TXT",
        **_plain(wanted, f'"{REVISION}{generation}"'),
    }


def replaced_beacon(wanted: WeightedSet, standing: RecordSet | None) -> list[Change]:
    """Put our beacon in the place of exactly this one, or of none: if another stands there, the batch is refused."""
    gone = [delete(standing)] if standing else []
    return [*gone, create(beacon(wanted, wanted.generation))]


def simple_sets(wanted: WeightedSet, target: str) -> list[RecordSet]:
    """What a hostname has without us. Raises ProviderError if the target has no form for an apex."""
    name = f"{wanted.hostname}."
    if not wanted.is_apex:
        return [{"Name": name, "Type": "CNAME", **_plain(wanted, f"{target.rstrip('.')}.")}]
    known = {member.target.rstrip(".").lower(): member for member in wanted.members}
    member = known.get(target.rstrip(".").lower()) or Member("target", target, 0)
    return [{"Name": name, "Type": family, **form} for family, form in apex_form(wanted, member).items()]


def upsert(record_set: RecordSet) -> Change:
    return {"Action": "UPSERT", "ResourceRecordSet": record_set}


def create(record_set: RecordSet) -> Change:
    return {"Action": "CREATE", "ResourceRecordSet": record_set}


def delete(record_set: RecordSet) -> Change:
    """Of exactly this: if anything of it has changed meanwhile, the batch is refused."""
    return {"Action": "DELETE", "ResourceRecordSet": record_set}


def size(changes: Iterable[Change]) -> tuple[int, int]:
    """Records and characters, as Amazon counts them."""
    records = characters = 0
    for change in changes:
        times = 2 if change["Action"] == "UPSERT" else 1
        values = [record["Value"] for record in change["ResourceRecordSet"].get("ResourceRecords", ())]
        records += times * max(1, len(values))
        characters += times * sum(map(len, values))
    return records, characters


def _weighted(wanted: WeightedSet, member: Member, qtype: str, content: RecordSet) -> RecordSet:
    checked = {"HealthCheckId": member.health_check_id} if member.health_check_id else {}
    return {
        "Name": f"{wanted.hostname}.",
        "Type": qtype,
        "SetIdentifier": f"{_mark(wanted.hostname)}{member.key}",
        "Weight": member.percent,
        **content,
        **checked,
    }


def _plain(wanted: WeightedSet, value: str) -> RecordSet:
    return {"TTL": wanted.ttl_seconds, "ResourceRecords": [{"Value": value}]}


def _mark(hostname: str) -> str:
    """What the identifiers of our members begin with."""
    return f"tranche:{hashlib.sha256(hostname.encode()).hexdigest()[:12]}:"


def _unsafe(message: str) -> ProviderError:
    return ProviderError(message, permanent=True, trouble=Trouble.UNSAFE)


# --- what stands there -----------------------------------------------------------------------------------------------


def is_at(record_set: RecordSet, name: str) -> bool:
    return str(record_set["Name"]).rstrip(".").lower() == name.rstrip(".").lower()


def is_member(record_set: RecordSet, hostname: str, *, is_apex: bool) -> bool:
    """Whether it is a member of ours."""
    return (
        is_at(record_set, hostname)
        and record_set["Type"] in (("A", "AAAA") if is_apex else ("CNAME",))
        and str(record_set.get("SetIdentifier", "")).startswith(_mark(hostname))
        and "Weight" in record_set
        and bool(record_set.get("ResourceRecords") or record_set.get("AliasTarget"))
    )


def is_beacon(record_set: RecordSet, beacon_name: str) -> bool:
    return (
        is_at(record_set, beacon_name)
        and record_set["Type"] == "TXT"
        and "SetIdentifier" not in record_set
        and all(_REV.fullmatch(value) for value in _values(record_set))
    )


def foreign(found: Iterable[RecordSet], hostname: str, beacon_name: str, *, is_apex: bool) -> list[RecordSet]:
    """What is not ours, and stands where ours would."""
    return [
        record_set
        for record_set in found
        if not is_member(record_set, hostname, is_apex=is_apex)
        and not is_beacon(record_set, beacon_name)
        and _is_in_the_way(record_set, beacon_name, is_apex=is_apex)
    ]


def _is_in_the_way(record_set: RecordSet, beacon_name: str, *, is_apex: bool) -> bool:
    if is_at(record_set, beacon_name):
        return record_set["Type"] in ("TXT", "CNAME")
    return not is_apex or record_set["Type"] in _STEERED_AT_APEX


def is_adoptable(record_set: RecordSet) -> bool:
    """Whether a weighted set can take its place: it says nothing but where to go."""
    return "SetIdentifier" not in record_set and record_set["Type"] in _ADOPTABLE


@dataclass(frozen=True)
class ApexStanding(Standing):
    """What stands at an apex: some of its members are addresses, which do not say whose they are."""

    def difference(self, wanted: WeightedSet) -> str:
        known = {member.key: member for member in wanted.members}
        members = [
            replace(there, target=meant.target)
            if (meant := known.get(there.key)) and there.addresses and set(there.addresses) <= set(meant.addresses)
            else there
            for there in self.members
        ]
        return Standing.difference(replace(self, members=tuple(members)), wanted)


def standing(hostname: str, beacon_name: str, found: Sequence[RecordSet], *, is_apex: bool) -> Standing:
    """What a listing of both names says. At an apex, sets for IPv6 that do not move with those for IPv4 are foreign."""
    mine = [record_set for record_set in found if is_member(record_set, hostname, is_apex=is_apex)]
    beacons = [record_set for record_set in found if is_beacon(record_set, beacon_name)]
    others = foreign(found, hostname, beacon_name, is_apex=is_apex)
    by_type = {
        qtype: {_key(record_set): record_set for record_set in mine if record_set["Type"] == qtype}
        for qtype in ("CNAME", "A", "AAAA")
    }
    sixes = by_type["AAAA"]
    if sixes and _weights(sixes) != _weights(by_type["A"]):
        others += sixes.values()
        sixes = {}
    members = [
        _member(key, record_set, sixes.get(key)) for key, record_set in (by_type["CNAME"] | by_type["A"]).items()
    ]
    ttls = [record_set["TTL"] for record_set in (*mine, *beacons) if "TTL" in record_set]
    kind = ApexStanding if is_apex else Standing
    return kind(
        hostname,
        generation(beacons),
        tuple(members),
        ttls[0] if ttls and mine else None,
        tuple(map(described, others)),
        max((record_set.get("TTL", ALIAS_TTL_SECONDS) for record_set in others), default=None),
    )


def generation(beacons: Iterable[RecordSet]) -> int | None:
    return revision([value.strip('"') for record_set in beacons for value in _values(record_set)])


def described(record_set: RecordSet) -> str:
    identifier = record_set.get("SetIdentifier")
    values = _values(record_set)
    if "AliasTarget" in record_set:
        values = [f"alias of {record_set['AliasTarget']['DNSName']}"]
    named = f" “{identifier}”" if identifier else ""
    ttl = f", TTL {record_set['TTL']} s" if "TTL" in record_set else ""
    return f"{record_set['Name'].rstrip('.')} {record_set['Type']}{named} {', '.join(values)}{ttl}"


def same(one: RecordSet, other: RecordSet) -> bool:
    """Whether both are the same set, whatever they hold."""
    keys = "Type", "SetIdentifier"
    return is_at(one, other["Name"]) and [one.get(key) for key in keys] == [other.get(key) for key in keys]


def named_in(text: str, names: Collection[str]) -> list[str]:
    """Which of these names a message names; all of them if it names none."""
    lowered = text.lower()
    told = [name for name in names if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", lowered)]
    return told or list(names)


def _member(key: str, record_set: RecordSet, for_ipv6: RecordSet | None) -> Member:
    alias = record_set.get("AliasTarget")
    target = str(alias["DNSName"] if alias else _values(record_set)[0]).rstrip(".")
    addresses = [
        value
        for there in (record_set, for_ipv6)
        if there and there["Type"] in ("A", "AAAA")
        for value in _values(there)
    ]
    return Member(key, target, record_set["Weight"], tuple(addresses), record_set.get("HealthCheckId", ""))


def _key(record_set: RecordSet) -> str:
    return str(record_set["SetIdentifier"]).split(":", 2)[2]


def _weights(sets: dict[str, RecordSet]) -> dict[str, int]:
    return {key: record_set["Weight"] for key, record_set in sets.items()}


def _values(record_set: RecordSet) -> list[str]:
    return [record["Value"] for record in record_set.get("ResourceRecords", ())]
