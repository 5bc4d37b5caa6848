"""Amazon Route 53: one weighted CNAME set and a beacon per hostname, written in one batch of UPSERTs.

Nothing is ever deleted here except by `adopt`, which an operator calls; so the role needs no right to DELETE in daily
work. Options of the account: `role_arn` and `external_id` (without them the worker's own credentials), `endpoint_url`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
)
from botocore.parsers import ResponseParserError

from dns.providers.contract import (
    Member,
    Provider,
    ProviderError,
    Receipt,
    WeightedSet,
    Zone,
    candidate_zones,
    is_below,
)
from services.hostnames import is_address

REGION = "us-east-1"  # where Route 53's control plane is, for everybody
_CONFIG = Config(
    region_name=REGION,
    connect_timeout=2,
    read_timeout=8,
    # Few attempts: a write that keeps failing is due again by its row, which waits without holding a worker.
    retries={"mode": "standard", "total_max_attempts": 2},
)
_ROLE_SECONDS = 900
_ROLE_RENEWED_BEFORE_SECONDS = 120
_MOST_PAGES = 5
_TRANSIENT = {
    "ExpiredToken",
    "InternalError",
    "InternalFailure",
    "PriorRequestNotComplete",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_ADOPTABLE = ("A", "AAAA", "CNAME")

RecordSet = dict[str, Any]
"""A ResourceRecordSet as the API gives and takes it."""


class Route53Provider(Provider):
    def __init__(self, options: dict[str, Any], *, client: Any = None) -> None:
        super().__init__(options)
        self._own_client = client

    def find_zone(self, hostname: str) -> Zone:
        names = candidate_zones(hostname)
        for name in names:
            ids = self._public_zones(name)
            if len(ids) > 1:
                several = ", ".join(ids)
                raise ProviderError(
                    f"{hostname}: this account has several public zones named {name} ({several})", permanent=True
                )
            if ids:
                return Zone(name, ids[0])
        raise ProviderError(f"{hostname}: this account has none of the public zones {', '.join(names)}", permanent=True)

    def apply(self, wanted: WeightedSet) -> Receipt:
        _refuse_misplaced(wanted)
        existing = self._read(wanted)
        for record_set in existing:
            if not _is_ours(record_set, wanted):
                raise ProviderError(
                    f"foreign record: {_described(record_set)}; an operator must adopt or remove it",
                    permanent=True,
                )
        return self._write(wanted, [_upsert(record_set) for record_set in _wanted_sets(wanted, existing)])

    def adopt(self, wanted: WeightedSet) -> Receipt:
        """Replace the simple record of the hostname by our weighted ones, in one batch. Only an operator's act.

        A simple set can't be converted, and DELETE must repeat its exact values: if somebody changes the record in
        between, Route 53 refuses the whole batch. Raises ProviderError if anything but simple addresses or a CNAME is
        there, since what is deleted must be what the weighted set replaces.
        """
        _refuse_misplaced(wanted)
        existing = [record_set for record_set in self._read(wanted) if not _is_beacon(record_set, wanted)]
        if not existing:
            raise ProviderError(f"{wanted.hostname} has no record to adopt", permanent=True)
        for record_set in existing:
            if "SetIdentifier" in record_set or record_set["Type"] not in _ADOPTABLE:
                raise ProviderError(
                    f"{wanted.hostname} can't be adopted: {_described(record_set)} is not a simple A, AAAA or CNAME",
                    permanent=True,
                )
        deletions = [{"Action": "DELETE", "ResourceRecordSet": record_set} for record_set in existing]
        *members, beacon = _wanted_sets(wanted, [])
        creations = [{"Action": "CREATE", "ResourceRecordSet": member} for member in members]
        return self._write(wanted, [*deletions, *creations, _upsert(beacon)])

    def _public_zones(self, name: str) -> list[str]:
        """Ids of the public zones with exactly this name. The API lists *from* a name on, so neighbours come too."""
        with self._calling("ListHostedZonesByName") as client:
            page = client.list_hosted_zones_by_name(DNSName=f"{name}.", MaxItems="100")
        return [
            zone["Id"].removeprefix("/hostedzone/")
            for zone in page["HostedZones"]
            if zone["Name"] == f"{name}." and not zone.get("Config", {}).get("PrivateZone", False)
        ]

    def _read(self, wanted: WeightedSet) -> list[RecordSet]:
        """Everything at the hostname, and at the beacon's name as far as the same pages show it (its next neighbour).

        The API lists from a name on; without the identifier, pages that end inside a weighted set would repeat.
        """
        names = (f"{wanted.hostname}.", f"{wanted.beacon_name}.")
        found: list[RecordSet] = []
        start = {"StartRecordName": names[0]}
        for _ in range(_MOST_PAGES):
            with self._calling("ListResourceRecordSets") as client:
                page = client.list_resource_record_sets(HostedZoneId=wanted.zone_id, MaxItems="100", **start)
            found += [record_set for record_set in page["ResourceRecordSets"] if record_set["Name"].lower() in names]
            if not page.get("IsTruncated") or page.get("NextRecordName", "").lower() != names[0]:
                return found
            start = {
                f"Start{key}": page[f"Next{key}"]
                for key in ("RecordName", "RecordType", "RecordIdentifier")
                if f"Next{key}" in page
            }
        raise ProviderError(f"{wanted.hostname} has more records than {_MOST_PAGES} pages hold", permanent=True)

    def _write(self, wanted: WeightedSet, changes: list[dict[str, Any]]) -> Receipt:
        batch = {"Comment": f"tranche rev={wanted.generation}", "Changes": changes}
        with self._calling("ChangeResourceRecordSets") as client:
            info = client.change_resource_record_sets(HostedZoneId=wanted.zone_id, ChangeBatch=batch)["ChangeInfo"]
        return Receipt(
            change_id=info["Id"].removeprefix("/change/"),
            details={"status": info["Status"], "submitted_at": info["SubmittedAt"].isoformat()},
        )

    @contextmanager
    def _calling(self, action: str) -> Iterator[Any]:
        """The client for one call, whose errors become ProviderErrors."""
        try:
            yield self._own_client or _client(_Access.of(self.options))
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code == "ExpiredToken":
                _clients.pop(_Access.of(self.options), None)
            message = f"Route 53 {action}: {code}: {error.response['Error'].get('Message', '')}"
            raise ProviderError(message, permanent=code not in _TRANSIENT and status < 500) from error
        except (
            ConnectionError,
            CredentialRetrievalError,
            HTTPClientError,
            MetadataRetrievalError,
            ResponseParserError,
        ) as error:
            raise ProviderError(f"Route 53 {action}: {error}", permanent=False) from error
        except BotoCoreError as error:
            raise ProviderError(f"Route 53 {action}: {error}", permanent=True) from error


# --- records --------------------------------------------------------------------------------------------------------


def _refuse_misplaced(wanted: WeightedSet) -> None:
    """Repeats what the contract promises, because here a mistake would reach somebody's live zone."""
    if wanted.hostname == wanted.zone:
        raise ProviderError(f"{wanted.hostname} is the zone's apex, where no CNAME may stand", permanent=True)
    if not is_below(wanted.hostname, wanted.zone):
        raise ProviderError(f"{wanted.hostname} is not in the zone {wanted.zone}", permanent=True)
    for member in wanted.members:
        if is_address(member.target):
            raise ProviderError(f"{member.key} of {wanted.hostname} is {member.target}, not a name", permanent=True)


def _wanted_sets(wanted: WeightedSet, existing: list[RecordSet]) -> list[RecordSet]:
    """Every member, every former member of ours at weight 0, and the beacon last.

    All of them each time: a weighted set must have one TTL throughout, and drift is repaired in passing. Former members
    stay: at weight 0 nobody is sent to them, and deleting would need a right that daily work doesn't have.
    """
    sets = {_identifier(wanted, member.key): _member_set(wanted, member) for member in wanted.members}
    prefix = _identifier(wanted, "")
    for record_set in existing:
        identifier = record_set.get("SetIdentifier", "")
        if identifier.startswith(prefix) and identifier not in sets:
            target = record_set["ResourceRecords"][0]["Value"]
            sets[identifier] = _member_set(wanted, Member(identifier.removeprefix(prefix), target, 0))
    beacon = {
        "Name": f"{wanted.beacon_name}.",
        "Type": "TXT",
        "TTL": wanted.ttl_seconds,
        "ResourceRecords": [{"Value": f'"{wanted.beacon_value}"'}],
    }
    return [*sets.values(), beacon]


def _member_set(wanted: WeightedSet, member: Member) -> RecordSet:
    return {
        "Name": f"{wanted.hostname}.",
        "Type": "CNAME",
        "SetIdentifier": _identifier(wanted, member.key),
        "Weight": member.percent,
        "TTL": wanted.ttl_seconds,
        "ResourceRecords": [{"Value": f"{member.target.rstrip('.')}."}],
    }


def _identifier(wanted: WeightedSet, key: str) -> str:
    return f"tranche:{hashlib.sha256(wanted.hostname.encode()).hexdigest()[:12]}:{key}"


def _is_ours(record_set: RecordSet, wanted: WeightedSet) -> bool:
    return _is_beacon(record_set, wanted) or (
        record_set["Name"].lower() == f"{wanted.hostname}."
        and record_set["Type"] == "CNAME"
        and record_set.get("SetIdentifier", "").startswith(_identifier(wanted, ""))
        and "Weight" in record_set
        and len(record_set.get("ResourceRecords", [])) == 1
    )


def _is_beacon(record_set: RecordSet, wanted: WeightedSet) -> bool:
    return (
        record_set["Name"].lower() == f"{wanted.beacon_name}."
        and record_set["Type"] == "TXT"
        and "SetIdentifier" not in record_set
        and all(record["Value"].startswith('"rev=') for record in record_set.get("ResourceRecords", []))
    )


def _upsert(record_set: RecordSet) -> dict[str, Any]:
    return {"Action": "UPSERT", "ResourceRecordSet": record_set}


def _described(record_set: RecordSet) -> str:
    identifier = record_set.get("SetIdentifier")
    values = [record["Value"] for record in record_set.get("ResourceRecords", [])]
    values += [f"alias of {record_set['AliasTarget']['DNSName']}"] if "AliasTarget" in record_set else []
    named = f" “{identifier}”" if identifier else ""
    return f"{record_set['Name'].rstrip('.')} {record_set['Type']}{named} {', '.join(values)}"


# --- access ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Access:
    role_arn: str
    external_id: str
    endpoint_url: str | None

    @classmethod
    def of(cls, options: dict[str, Any]) -> _Access:
        role_arn, external_id = options.get("role_arn", ""), options.get("external_id", "")
        if role_arn and not external_id:
            raise ProviderError("the account has a role_arn without an external_id", permanent=True)
        return cls(role_arn, external_id, options.get("endpoint_url") or None)


_clients: dict[_Access, tuple[float, Any]] = {}
"""Clients by access, with the monotonic time until which their credentials serve. A storm makes thousands of calls."""


def _client(access: _Access) -> Any:
    known = _clients.get(access)
    if known and time.monotonic() < known[0]:
        return known[1]
    session, serves = boto3.session.Session(), float("inf")
    if access.role_arn:
        sts = session.client("sts", endpoint_url=access.endpoint_url, config=_CONFIG)
        serves = time.monotonic() + _ROLE_SECONDS - _ROLE_RENEWED_BEFORE_SECONDS
        given = sts.assume_role(
            RoleArn=access.role_arn,
            RoleSessionName="tranche",
            ExternalId=access.external_id,
            DurationSeconds=_ROLE_SECONDS,
        )["Credentials"]
        session = boto3.session.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    client = session.client("route53", endpoint_url=access.endpoint_url, config=_CONFIG)
    _clients[access] = serves, client
    return client
