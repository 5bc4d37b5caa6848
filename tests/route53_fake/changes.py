"""A batch of changes: the rules between record sets, checked in order against the zone. All of it holds, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.route53_fake import names, records
from tests.route53_fake.errors import Refusal, invalid_batch
from tests.route53_fake.records import POLICIES, RecordSet

Node = Mapping[tuple[str, str | None], RecordSet]
"""The record sets at one name, by type and identifier. Never changed, only replaced."""

CLOUDFRONT = "Z2FDTNDATAQYW2"
ALIAS_ZONES = {
    CLOUDFRONT: "cloudfront.net.",
    "Z2BJ6XQ5FK7U4H": "awsglobalaccelerator.com.",
    "Z35SXDOTRQ7X7K": "us-east-1.elb.amazonaws.com.",
    "Z3AQBSTGFYJSTF": "s3-website-us-east-1.amazonaws.com.",
}
"""Amazon's own zones, by the id that an alias must name, with the domain that its targets are in."""

_MOST_RECORDS, _MOST_CHARACTERS = 1000, 32_000
_MOST_MEMBERS = 100
_MOST_SETS = 10_000
_EMPTY: Node = {}


@dataclass(frozen=True, slots=True)
class Change:
    action: str
    record_set: RecordSet


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a batch is checked against: the zone as it is, and what the account has besides."""

    zone_id: str
    zone_name: str
    private: bool
    nodes: Mapping[str, Node]
    size: int
    """How many record sets the zone has."""
    protections: Mapping[tuple[str, str], str]
    """The comments, by name and type."""
    has_health_check: Callable[[str], bool]
    distributions: Mapping[str, Iterable[str]]
    """Names that each CloudFront distribution or other target of Amazon's serves, by its domain."""


def changes_of(batch: Sequence[Mapping[str, Any]]) -> list[Change]:
    """From the request's list. Raises Refusal."""
    return [Change(item["Action"], records.record_set(item["ResourceRecordSet"], item["Action"])) for item in batch]


def outcome(around: Surroundings, changes: Sequence[Change]) -> dict[str, Node]:
    """The names that the batch touches, as they are after it. Raises Refusal, with everything that is wrong."""
    if complaints := [*_too_large(changes), *_protected(around, changes)]:
        raise invalid_batch(complaints)
    for change in changes:
        check = change.record_set.health_check
        if check and change.action != "DELETE" and not around.has_health_check(check):
            raise Refusal("NoSuchHealthCheck", f"No health check exists with the specified ID: {check}", 404)
    run = _Run(around)
    for change in changes:
        run.take(change)
    run.finish(changes)
    if run.complaints:
        raise invalid_batch(run.complaints)
    return run.touched


def _too_large(changes: Sequence[Change]) -> list[str]:
    """UPSERT counts twice for both limits; an alias is a record without a value."""
    found, characters = 0, 0
    for change in changes:
        times = 2 if change.action == "UPSERT" else 1
        found += times * max(1, len(change.record_set.values))
        characters += times * sum(map(len, change.record_set.values))
    complaints = []
    if found > _MOST_RECORDS:
        complaints.append(f"Number of records limit of {_MOST_RECORDS} exceeded.")
    if characters > _MOST_CHARACTERS:
        complaints.append(f"RDATA character limit of {_MOST_CHARACTERS} exceeded.")
    return complaints


def _protected(around: Surroundings, changes: Sequence[Change]) -> list[str]:
    if not around.protections:
        return []
    touched = dict.fromkeys((change.record_set.name, change.record_set.type) for change in changes)
    return [
        f"RRSet with DNS name {name}, type {qtype} cannot be changed as it is protected: {around.protections[name, qtype]}"
        for name, qtype in touched
        if (name, qtype) in around.protections
    ]


@dataclass(slots=True)
class _Run:
    """The zone while a batch is tried out on it. A change that is wrong is passed over, and the next ones are tried."""

    around: Surroundings
    touched: dict[str, Node] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    _actions: dict[tuple[str, str, str | None], list[str]] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        found = self.touched.get(name)
        return found if found is not None else self.around.nodes.get(name, _EMPTY)

    def take(self, change: Change) -> None:
        given, action = change.record_set, change.action
        actions = self._actions.setdefault((given.name, *given.key), [])
        actions.append(action)
        if len(actions) > 1 and actions != ["DELETE", "CREATE"]:
            self.complaints.append(
                f"The request contains an invalid set of changes for a resource record set '{given.type} {given.name}'"
            )
            return
        zone = self.around.zone_name
        if not names.is_within(given.name, zone):
            self.complaints.append(f"RRSet with DNS name {given.name} is not permitted in zone {zone}")
            return
        node = self.node(given.name)
        present = node.get(given.key)
        others = {key: there for key, there in node.items() if key != given.key}
        if action == "DELETE":
            if present is None:
                self.complaints.append(f"Tried to delete {_named(given)} but it was not found")
            elif not present.agrees_with(given):
                self.complaints.append(
                    f"Tried to delete {_named(given)} but the values provided do not match the current values"
                )
            else:
                self.touched[given.name] = others
            return
        if action == "CREATE" and present is not None:
            self.complaints.append(f"Tried to create {_named(given)} but it already exists")
            return
        complaints = [*records.problems(given), *self._misplaced(given, others), *self._alias_problems(given)]
        if complaints:
            self.complaints += complaints
        else:
            self.touched[given.name] = others | {given.key: given}

    def finish(self, changes: Sequence[Change]) -> None:
        """What can only be said of the whole: a group's TTL may change if all its members change in the batch."""
        for change in changes:
            given = change.record_set
            if change.action == "DELETE" or self.node(given.name).get(given.key) is not given:
                continue
            members = [there for there in self.node(given.name).values() if there.type == given.type]
            described = f"RRSet with DNS name {given.name} and type {given.type}, SetIdentifier {given.identifier}"
            if given.policy == "Weight" and len({member.ttl for member in members if member.alias is None}) > 1:
                self.complaints.append(f"{described} cannot be created as weighted sets must contain the same TTL.")
            if len(members) > _MOST_MEMBERS:
                self.complaints.append(
                    f"{described} cannot be created as more than {_MOST_MEMBERS} RRSets exist with the same name and type."
                )
            if given.alias and given.fields["AliasTarget"]["HostedZoneId"] == self.around.zone_id:
                self.complaints += self._missing_target(given)
        apex = {qtype for qtype, _ in self.node(self.around.zone_name)}
        if "SOA" not in apex:
            self.complaints.append("A HostedZone must contain exactly one SOA record.")
        if "NS" not in apex:
            self.complaints.append("A HostedZone must contain at least one NS record for the zone itself.")
        before = sum(len(self.around.nodes.get(name, _EMPTY)) for name in self.touched)
        if self.around.size - before + sum(map(len, self.touched.values())) > _MOST_SETS:
            self.complaints.append(f"Exceeded limit MAX_RRSETS_BY_ZONE for zone: {self.around.zone_id}")

    def _misplaced(self, given: RecordSet, others: Node) -> list[str]:
        """Whether it may stand beside what is at its name now, so the order within a batch matters."""
        zone, of_type = self.around.zone_name, f"RRSet of type {given.type} with DNS name {given.name}"
        if given.type == "CNAME":
            if given.name == zone:
                return [f"{of_type} is not permitted at apex in zone {zone}"]
            if any(qtype != "CNAME" for qtype, _ in others):
                return [
                    f"{of_type} is not permitted as it conflicts with other records with the same DNS name in zone {zone}"
                ]
        elif any(qtype == "CNAME" for qtype, _ in others):
            return [
                f"{of_type} is not permitted because a conflicting RRSet of type CNAME with the same DNS name "
                f"already exists in zone {zone}"
            ]
        if given.type == "SOA" and given.name != zone:
            return [f"{of_type} is not permitted except at apex in zone {zone}"]
        siblings = [there for there in others.values() if there.type == given.type]
        described = f"RRSet with DNS name {given.name}, type {given.type}"
        if not given.policy and siblings:
            return [f"{described} cannot be created as other RRSets exist with the same name and type."]
        if any(sibling.policy != given.policy for sibling in siblings):
            return [
                f"{described}, SetIdentifier {given.identifier} cannot be created as a non-{POLICIES[given.policy]} set "
                "exists with the same name and type."
            ]
        return []

    def _alias_problems(self, given: RecordSet) -> list[str]:
        if given.alias is None:
            return []
        target = given.fields["AliasTarget"]
        tried = (
            f"Tried to create an alias that targets {given.alias}, type {given.type} in zone {target['HostedZoneId']}"
        )
        if target["HostedZoneId"] == self.around.zone_id:
            if not names.is_within(given.alias, self.around.zone_name):
                return [f"{tried}, but the alias target name does not lie within the target zone"]
            if given.type in ("NS", "SOA"):
                return [f"{tried}, but {given.type} sets cannot be aliases"]
            return []  # whether the target is there is asked at the end of the batch
        domain = ALIAS_ZONES.get(target["HostedZoneId"])
        if domain is None or not names.is_within(given.alias, domain):
            return [
                f"{tried}, but the alias target name does not lie within the target zone",
                *([] if domain else [f"{tried}, but that target was not found"]),
            ]
        if given.type not in ("A", "AAAA", "HTTPS") or given.alias not in self.around.distributions:
            return [f"{tried}, but that target was not found"]
        if target["HostedZoneId"] == CLOUDFRONT:
            return self._cloudfront_problems(given, tried)
        return []

    def _cloudfront_problems(self, given: RecordSet, tried: str) -> list[str]:
        if given.fields["AliasTarget"]["EvaluateTargetHealth"]:
            return [f"{tried}, but EvaluateTargetHealth must be false for CloudFront distributions"]
        if self.around.private:
            return [f"{tried}, but CloudFront distributions cannot be targets in private hosted zones"]
        alternates = {names.canonical(name) for name in self.around.distributions[given.alias or ""]}
        wildcard = f"{names.WILDCARD}.{given.name.partition('.')[2]}"
        if given.name not in alternates and wildcard not in alternates:
            return [
                f"The request contains an invalid set of changes for a resource record set '{given.type} {given.name}'"
            ]
        return []

    def _missing_target(self, given: RecordSet) -> list[str]:
        assert given.alias is not None
        if any(qtype == given.type for qtype, _ in self.node(given.alias)):
            return []
        return [
            f"Tried to create an alias that targets {given.alias}, type {given.type} in zone {self.around.zone_id}, "
            "but that target was not found"
        ]


def _named(given: RecordSet) -> str:
    identifier = "" if given.identifier is None else f", set-identifier='{given.identifier}'"
    return f"resource record set [name='{given.name}', type='{given.type}'{identifier}]"
