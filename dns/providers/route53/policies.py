"""What a customer grants, as text to paste into IAM: no more than daily work needs, and apart from that what an onboarding needs.

IAM looks at a batch as a whole: its names, types and actions must all be among those of *one* statement. So there is one
statement for all names of a zone, and DELETE can't be granted for the beacons alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dns.providers.contract import BEACON_LABEL, Zone

_CHANGE = "route53:ChangeResourceRecordSets"
_LONGEST = 6144
"""Characters of a managed policy, blanks not counted."""

Statement = dict[str, Any]


def text(zone: Zone, hostnames: Sequence[str], options: Mapping[str, Any]) -> str:
    daily = steady(zone, hostnames, compare_and_set=bool(options.get("compare_and_set")))
    parts = []
    if options.get("role_arn"):
        parts.append(
            f"Trust policy of {options['role_arn']}. Nobody but this server may assume it, and only with this external id. "
            "Put the server's own AWS identity in place of <…>: `aws sts get-caller-identity` there shows it.\n\n"
            + _pretty(trust(str(options.get("external_id", ""))))
        )
    parts.append(f"Daily work, for good. {_daily_words(daily, options)}\n\n{_pretty(daily)}")
    parts.append(
        "Besides, while names are found, adopted or released; take it away afterwards.\n\n"
        + _pretty(onboarding(zone, hostnames))
    )
    parts.append(
        "Besides, only if health checks are to shift traffic where Amazon's API is out of reach.\n\n"
        + _pretty(data_plane())
    )
    return "\n\n".join(f"{number}. {part}" for number, part in enumerate(parts, 1)) + "\n"


def trust(external_id: str) -> dict[str, Any]:
    return _policy(
        {
            "Effect": "Allow",
            "Principal": {"AWS": "<this server's AWS identity>"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
        }
    )


def steady(zone: Zone, hostnames: Sequence[str], *, compare_and_set: bool = False) -> dict[str, Any]:
    """To UPSERT these names' members and beacons and nothing else, and to read."""
    actions = ["UPSERT", "CREATE", "DELETE"] if compare_and_set else ["UPSERT"]
    zones = f"arn:aws:route53:::hostedzone/{zone.id}"
    reading: list[Statement] = [
        {
            "Effect": "Allow",
            "Action": [
                "route53:ListResourceRecordSets",
                "route53:GetHostedZone",
                "route53:ListResourceRecordSetProtections",
            ],
            "Resource": zones,
        },
        {"Effect": "Allow", "Action": "route53:GetChange", "Resource": "arn:aws:route53:::change/*"},
    ]
    found = _policy(_changing(zone, hostnames, _types(zone, hostnames), actions), *reading)
    if _length(found) > _LONGEST:
        found = _policy(_changing(zone, None, _types(zone, hostnames), actions), *reading)
    return found


def onboarding(zone: Zone, hostnames: Sequence[str]) -> dict[str, Any]:
    types = ["CNAME", "A", "AAAA", "TXT"]
    actions = ["UPSERT", "CREATE", "DELETE"]
    finding = {"Effect": "Allow", "Action": "route53:ListHostedZonesByName", "Resource": "*"}
    found = _policy(_changing(zone, hostnames, types, actions), finding)
    if _length(found) > _LONGEST:
        found = _policy(_changing(zone, None, types, actions), finding)
    return found


def data_plane() -> dict[str, Any]:
    return _policy(
        {
            "Effect": "Allow",
            "Action": ["route53:CreateHealthCheck", "route53:ListHealthChecks"],
            "Resource": "*",
        },
        {
            "Effect": "Allow",
            "Action": ["route53:UpdateHealthCheck", "route53:DeleteHealthCheck"],
            "Resource": "arn:aws:route53:::healthcheck/*",
        },
    )


def _changing(zone: Zone, hostnames: Sequence[str] | None, types: Sequence[str], actions: Sequence[str]) -> Statement:
    """`ForAllValues` holds of a request without such values, too; so it never stands without the zone."""
    prefix = "route53:ChangeResourceRecordSets"
    condition: dict[str, list[str]] = {}
    if hostnames is not None:
        names = [name for hostname in map(str.lower, hostnames) for name in (hostname, f"{BEACON_LABEL}.{hostname}")]
        condition[f"{prefix}NormalizedRecordNames"] = names
    condition |= {f"{prefix}RecordTypes": list(types), f"{prefix}Actions": list(actions)}
    return {
        "Effect": "Allow",
        "Action": _CHANGE,
        "Resource": f"arn:aws:route53:::hostedzone/{zone.id}",
        "Condition": {"ForAllValues:StringEquals": condition},
    }


def _types(zone: Zone, hostnames: Sequence[str]) -> list[str]:
    below, apex = any(name != zone.name for name in hostnames), zone.name in hostnames
    return [*(["CNAME"] if below else []), *(["A", "AAAA"] if apex else []), "TXT"]


def _daily_words(daily: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    words = []
    if options.get("compare_and_set"):
        words.append(
            "CREATE and DELETE are for the beacons, which compare-and-set replaces. IAM can’t grant them for the beacons "
            "alone, as it looks at a batch as a whole."
        )
    else:
        words.append("With it nothing can be deleted.")
    if "ChangeResourceRecordSetsNormalizedRecordNames" not in json.dumps(daily):
        words.append(
            f"The names would not fit into one policy of {_LONGEST} characters, and IAM wants all names of a batch in one "
            "statement; so it is for all names of the zone."
        )
    return " ".join(words)


def _policy(*statements: Statement) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _length(policy: Mapping[str, Any]) -> int:
    return len("".join(json.dumps(policy).split()))


def _pretty(policy: Mapping[str, Any]) -> str:
    return json.dumps(policy, indent=2, ensure_ascii=False)
