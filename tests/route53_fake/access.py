"""Who calls: keys and sessions with their accounts, roles that can be assumed, and what a role's policy lets it do."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.route53_fake.changes import Change
from tests.route53_fake.errors import Refusal, denied

_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/,]+)/")
_ZONE_ACTIONS = (
    "ChangeResourceRecordSets",
    "ListResourceRecordSets",
    "GetHostedZone",
    "ListResourceRecordSetProtections",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a role may do; None means anything. Zones are ids; names are as IAM compares them, "www.cust.test"."""

    calls: Collection[str] | None = None
    zones: Collection[str] | None = None
    names: Collection[str] | None = None
    types: Collection[str] | None = None
    actions: Collection[str] | None = None

    @classmethod
    def steady(cls, zone_id: str, *hostnames: str) -> Policy:
        """Daily work, and no more: to UPSERT the hostnames' CNAMEs and beacons in one zone, and to read there."""
        allowed = [*hostnames, *(f"_tranche.{hostname}" for hostname in hostnames)]
        return cls((*_ZONE_ACTIONS, "GetChange"), (zone_id,), allowed, ("CNAME", "TXT"), ("UPSERT",))

    def allows(self, action: str, zone_id: str) -> bool:
        if self.calls is not None and action not in self.calls:
            return False
        return self.zones is None or not zone_id or zone_id in self.zones

    def allows_all(self, changes: Collection[Change]) -> bool:
        """As with ForAllValues: every name, type and action of the batch must be allowed."""
        given = [(_normalised(change.record_set.name), change.record_set.type, change.action) for change in changes]
        allowed = (self.names, self.types, self.actions)
        return all(
            value in permitted
            for values in given
            for value, permitted in zip(values, allowed, strict=True)
            if permitted is not None
        )


def _normalised(name: str) -> str:
    return name.removesuffix(".")


@dataclass(slots=True)
class Role:
    arn: str
    account: str
    external_id: str
    policy: Policy | None
    longest_seconds: int


@dataclass(slots=True)
class Principal:
    """A key's owner. `token` and `until` are those of a session; `refused` is the code that it gets since it was revoked."""

    account: str
    arn: str
    policy: Policy | None = None
    token: str = ""
    until: float = float("inf")
    refused: str = ""


@dataclass(slots=True)
class Access:
    principals: dict[str, Principal] = field(default_factory=dict)
    """By access key id."""
    roles: dict[str, Role] = field(default_factory=dict)

    def key(self, account: str) -> str:
        """An access key id that serves for good; the same each time."""
        for key_id, principal in self.principals.items():
            if principal.account == account and not principal.token:
                return key_id
        key_id = f"AKIA{secrets.token_hex(8).upper()}"
        self.principals[key_id] = Principal(account, f"arn:aws:iam::{account}:user/person")
        return key_id

    def principal(self, headers: Any, now: float) -> Principal:
        """Raises Refusal. Signatures are not looked at."""
        found = _CREDENTIAL.match(headers.get("Authorization", ""))
        if not found:
            raise Refusal("MissingAuthenticationToken", "Missing Authentication Token", 403)
        principal = self.principals.get(found[1])
        if principal is None or headers.get("X-Amz-Security-Token", "") != principal.token:
            raise Refusal("InvalidClientTokenId", "The security token included in the request is invalid.", 403)
        if principal.refused == "ExpiredToken" or now >= principal.until:
            raise Refusal("ExpiredToken", "The security token included in the request is expired", 403)
        if principal.refused:
            raise Refusal(principal.refused, f"User: {principal.arn} is not authorized to access this resource", 403)
        return principal

    def assume(self, caller: Principal, given: dict[str, Any], now: float) -> dict[str, Any]:
        """What AssumeRole answers. Raises Refusal, and doesn't tell a missing role from a wrong external id."""
        arn, seconds = given["RoleArn"], given.get("DurationSeconds", 3600)
        role = self.roles.get(arn)
        if role is None or given.get("ExternalId", "") != role.external_id:
            raise denied(caller.arn, "sts:AssumeRole", arn)
        if seconds > role.longest_seconds:
            raise Refusal(
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            )
        key_id, token = f"ASIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(48)
        session = arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + f"/{given['RoleSessionName']}"
        self.principals[key_id] = Principal(role.account, session, role.policy, token, now + seconds)
        return {
            "Credentials": {
                "AccessKeyId": key_id,
                "SecretAccessKey": secrets.token_hex(20),
                "SessionToken": token,
                "Expiration": datetime.now(UTC) + timedelta(seconds=seconds),
            },
            "AssumedRoleUser": {"AssumedRoleId": f"AROA{key_id[4:]}:{given['RoleSessionName']}", "Arn": session},
        }

    def revoke(self, account: str, code: str) -> None:
        for principal in self.principals.values():
            if principal.account == account:
                principal.refused = code


def authorise(principal: Principal, action: str, zone_id: str) -> None:
    """Raises Refusal."""
    if principal.policy and not principal.policy.allows(action, zone_id):
        raise _not_allowed(principal, action, zone_id)


def authorise_changes(principal: Principal, zone_id: str, changes: Collection[Change]) -> None:
    """Raises Refusal."""
    if principal.policy and not principal.policy.allows_all(changes):
        raise _not_allowed(principal, "ChangeResourceRecordSets", zone_id)


def _not_allowed(principal: Principal, action: str, zone_id: str) -> Refusal:
    return denied(principal.arn, f"route53:{action}", f"arn:aws:route53:::hostedzone/{zone_id}" if zone_id else "")


def zone_of_another(principal: Principal) -> Refusal:
    """What an account hears of a zone that isn't its own."""
    return Refusal("AccessDenied", f"User: {principal.arn} is not authorized to access this resource", 403)
