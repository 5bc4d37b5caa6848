"""What a hostname lacks before it can be steered: seen by reading, and by one attempt to get in that must fail."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from dns.providers.contract import BEACON_LABEL, Check, ProviderError, Trouble, Zone
from dns.providers.route53 import listing, records
from dns.providers.route53.clients import Api
from dns.providers.route53.records import RecordSet

_GRANT = "Grant it to the role; the list of permissions has the text to paste."


def preflight(api: Api, zone: Zone, hostname: str) -> list[Check]:
    """Raises ProviderError for trouble that may pass; what a person must mend is a check that doesn't hold."""
    found: list[Check] = []
    if api.access.role_arn:
        found.append(_external_id(api))
    in_zone = _zone(api, zone)
    found.append(in_zone)
    if not in_zone.holds:
        return found
    found.append(_is_only_one(api, zone))
    found += _records(api, zone, hostname)
    found.append(_protections(api, zone, hostname))
    return found


def _external_id(api: Api) -> Check:
    name = "external id is enforced"
    try:
        api.assume(f"wrong-{secrets.token_hex(16)}")
    except ProviderError as error:
        if error.trouble == Trouble.ACCESS:
            return Check(name, True, "the role can’t be assumed with another external id")
        if not error.permanent:
            raise
        return Check(name, False, str(error), "Correct the account’s role_arn.")
    return Check(
        name,
        False,
        "the role could be assumed with a wrong external id: whoever learns its ARN could use this server to get in",
        "Set the role’s trust policy as the list of permissions has it, with its condition on sts:ExternalId.",
    )


def _zone(api: Api, zone: Zone) -> Check:
    name = "hosted zone"
    try:
        answer = api.read("get_hosted_zone", Id=zone.id)
    except ProviderError as error:
        if not error.permanent:
            raise
        advice = _GRANT if error.trouble == Trouble.ACCESS else "Find the zone again: it may have been made anew."
        return Check(name, False, str(error), advice)
    there = answer.get("HostedZone", {})
    if not records.is_at({"Name": there.get("Name", "")}, zone.name):
        return Check(
            name, False, f"{zone.id} is the zone {there.get('Name', '')}, not {zone.name}", "Find the zone again."
        )
    if there.get("Config", {}).get("PrivateZone"):
        return Check(name, False, f"{zone.id} is private: the world can’t see it", "Name the public zone.")
    servers = ", ".join(listing.name_servers(answer))
    return Check(name, True, f"{zone.id} is the public zone {zone.name}; the parent must delegate to {servers}")


def _is_only_one(api: Api, zone: Zone) -> Check:
    name = "same name"
    try:
        ids = listing.public_zones(api, zone.name)
    except ProviderError as error:
        if error.trouble != Trouble.ACCESS:
            raise
        text = "can’t be told: ListHostedZonesByName is denied, which only finding a zone needs"
        return Check(name, True, text, is_must=False)
    if others := [there for there in ids if there != zone.id]:
        return Check(
            name,
            False,
            f"{', '.join(others)} is named {zone.name} too",
            f"See to it that the parent delegates to the name servers of {zone.id}: what is written elsewhere changes "
            "nothing. Then delete the others, or leave them be.",
            is_must=False,
        )
    return Check(name, True, f"{zone.id} is the account’s only public zone {zone.name}", is_must=False)


def _records(api: Api, zone: Zone, hostname: str) -> list[Check]:
    try:
        standing, found = listing.standing(api, zone, hostname)
    except ProviderError as error:
        if not error.permanent:
            raise
        return [Check("reading", False, str(error), _GRANT)]
    beacon_name, is_apex = f"{BEACON_LABEL}.{hostname}", hostname == zone.name
    others = records.foreign(found, hostname, beacon_name, is_apex=is_apex)
    checks = [Check("reading", True, f"{len(found)} record sets at {hostname} and {beacon_name}")]
    if standing.foreign:
        text = f"not ours: {'; '.join(standing.foreign)}"
        checks.append(Check("record", False, text, _advice(others, standing.foreign_ttl_seconds, hostname)))
    elif standing.members:
        split = ", ".join(f"{member.key} {member.percent} %" for member in standing.members)
        checks.append(Check("record", True, f"ours: {split}, TTL {standing.ttl_seconds} s"))
    else:
        checks.append(Check("record", True, f"nothing stands at {hostname}"))
    proven = standing.generation is not None
    checks.append(
        Check(
            "writing",
            proven,
            f"rev={standing.generation} was written here" if proven else "not proven: nothing of ours stands here yet",
            "" if proven else "Only a write can prove it: adopt the name, or apply a first change.",
            is_must=False,
        )
    )
    return checks


def _advice(others: Iterable[RecordSet], ttl_seconds: int | None, hostname: str) -> str:
    others = list(others)
    if others and all(records.is_adoptable(there) and records.is_at(there, hostname) for there in others):
        return (
            "Adopt it: one batch puts the weighted set in its place. Caches may keep the old answer for "
            f"{ttl_seconds} s; lower its TTL first where that is too long."
        )
    return "Remove it first: only a simple A, AAAA or CNAME at the hostname can be adopted."


def _protections(api: Api, zone: Zone, hostname: str) -> Check:
    name, beacon_name = "protection", f"{BEACON_LABEL}.{hostname}"
    types = {hostname: ("A", "AAAA") if hostname == zone.name else ("CNAME",), beacon_name: ("TXT",)}
    try:
        protected = [
            there
            for start, wanted in types.items()
            for there in listing.protections(api, zone.id, start)
            if there["RecordType"] in wanted
        ]
    except ProviderError as error:
        if error.trouble != Trouble.ACCESS:
            raise
        text = "can’t be told: ListResourceRecordSetProtections is denied"
        return Check(name, False, text, _GRANT, is_must=False, is_unclear=True)
    if protected:
        listed = "; ".join(
            f"{there['RecordName'].rstrip('.')} {there['RecordType']} ({there.get('Comment') or 'no comment'})"
            for there in protected
        )
        advice = "Lift the protections: while they stand, Amazon refuses whole batches that touch these records."
        return Check(name, False, listed, advice)
    return Check(name, True, f"no protection on {hostname} and {beacon_name}")
