"""The fake as tests hold it: what they make, what they order, and what they look at afterwards."""

from __future__ import annotations

import heapq
import itertools
import secrets
import string
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import boto3
from botocore.config import Config

from tests.route53_fake import access, changes, faults, model, names
from tests.route53_fake.access import Access, Policy, Principal, Role
from tests.route53_fake.changes import Change, Surroundings
from tests.route53_fake.faults import Asked, Fault, Faults, Kind
from tests.route53_fake.gateway import Call, Gateway
from tests.route53_fake.health import HealthChecks
from tests.route53_fake.limits import ACCOUNT, Limit, Limits
from tests.route53_fake.nameserver import Nameserver
from tests.route53_fake.records import RecordSet
from tests.route53_fake.server import HttpServer
from tests.route53_fake.serving import Served
from tests.route53_fake.zones import Submitted, Zone

OWN_ACCOUNT = "default"
OWN_KEY = "test"
"""The access key id that the test environment sets."""
_IDS = string.ascii_uppercase + string.digits


class Route53Fake:
    """Amazon Route 53 and STS on `url`, and the name servers of its zones on `dns_address`.

    Every account has its own zones and health checks; OWN_KEY is the one of OWN_ACCOUNT. What the API accepts is listed
    at once, and served once it is INSYNC: after `pending_polls` answers of PENDING and `pending_seconds`. With
    `lag_seconds` it is served so long after it was submitted, whatever GetChange says.
    """

    def __init__(self) -> None:
        self.pending_polls = 1
        self.pending_seconds = 0.0
        self.lag_seconds: float | None = None
        self.prior_request_seconds = 0.0
        """For how long after a change its zone takes no other."""
        self.clock: Callable[[], float] = time.monotonic
        self.lock = threading.RLock()
        self.zones: dict[str, Zone] = {}
        self.submitted: dict[str, Submitted] = {}
        self.health = HealthChecks()
        self.endpoint_up = self.health.endpoint_up
        """By id of a health check, whether its endpoint is up; those that aren't named are."""
        self.access = Access({OWN_KEY: Principal(OWN_ACCOUNT, f"arn:aws:iam::{OWN_ACCOUNT}:user/tranche")})
        self.limits = Limits()
        self.faults = Faults()
        self.calls: list[Call] = []
        self.bugs: list[str] = []
        """Mistakes of the fake's own."""
        self.nameserver = Nameserver(self.health.is_healthy, self._serve_due)
        self._http = HttpServer(Gateway(self).answer)
        self._served: dict[str, Served] = {}
        self._due: list[tuple[float, int, Submitted]] = []
        self._next_due = float("inf")
        self._numbers = itertools.count(1)
        self._distributions: dict[str, tuple[str, ...]] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}

    # --- running ----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.port}"

    @property
    def dns_address(self) -> tuple[str, int]:
        return self.nameserver.address

    @property
    def dns_text(self) -> str:
        """As AUTHORITY_OVERRIDES and DNS_RESOLVERS want it."""
        return f"{self.dns_address[0]}:{self.dns_address[1]}"

    def start(self) -> None:
        self._http.start()
        self.nameserver.start()

    def stop(self) -> None:
        self._http.stop()
        self.nameserver.stop()

    def client(
        self, account: str = OWN_ACCOUNT, service: str = "route53", *, session: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> Any:  # fmt: skip
        """A boto3 client that tries once, with a key of the account, or with a session's Credentials from AssumeRole."""
        given = session or {"AccessKeyId": self.access.key(account), "SecretAccessKey": "secret", "SessionToken": None}
        settings = Config(**({"retries": {"mode": "standard", "total_max_attempts": 1}, "read_timeout": 5} | config))
        return _session().client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=given["AccessKeyId"],
            aws_secret_access_key=given["SecretAccessKey"],
            aws_session_token=given["SessionToken"],
            config=settings,
        )

    # --- zones and records ------------------------------------------------------------------------------------------

    def zone(
        self, name: str, *, private: bool = False, account: str = OWN_ACCOUNT, id: str | None = None,
        name_servers: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """A new hosted zone with its SOA and NS; returns its id. The world is led to the first public one of a name."""
        with self.lock:
            number = next(self._numbers)
            zone_id = id or _new_id("Z")
            servers = tuple(name_servers) or tuple(f"ns-{number * 4 + n}.awsdns-{number:02}.test" for n in range(4))
            zone = Zone(zone_id, names.canonical(name), account, private, servers, f"made-by-a-test-{number}")
            served = Served(zone.name, self._addresses)
            self.zones[zone_id], self._served[zone_id] = zone, served
            soa = f"{servers[0]}. awsdns-hostmaster.amazon.com. 1 7200 900 1209600 86400"
            own = [_simple(zone.name, "SOA", (soa,), 900), _simple(zone.name, "NS", [f"{s}." for s in servers], 172800)]
            zone.commit({zone.name: {there.key: there for there in own}})
            served.publish(zone.nodes, number)
            if not private:
                self.nameserver.origins.setdefault(served.origin, served)
            return zone_id

    def remove(self, zone_id: str) -> None:
        """Somebody deletes the zone, and all that was in it."""
        with self.lock:
            self.undelegate(zone_id)
            del self.zones[zone_id]

    def delegate(self, zone_id: str, *name_servers: str) -> None:
        """Lead the world to this zone of its name; with `name_servers`, DNS names those, and not the zone's own."""
        with self.lock:
            served = self._served[zone_id]
            served.parent_names = tuple(f"{server.removesuffix('.')}." for server in name_servers)
            served.forget()
            self.nameserver.origins[served.origin] = served

    def undelegate(self, zone_id: str) -> None:
        """Lead the world to no zone of this name, if it was led to this one."""
        served = self._served[zone_id]
        if self.nameserver.origins.get(served.origin) is served:
            del self.nameserver.origins[served.origin]

    def put(self, zone_id: str, name: str, type: str, *values: str, ttl: int = 300, **fields: Any) -> None:
        """A person's UPSERT, served at once; `fields` are those of the API: SetIdentifier, Weight, AliasTarget, …

        Raises Refusal as the API would.
        """
        given: dict[str, Any] = {"Name": name, "Type": type, **fields}
        if "AliasTarget" not in fields:
            given |= {"TTL": ttl, "ResourceRecords": [{"Value": value} for value in values]}
        self.edit(zone_id, {"Action": "UPSERT", "ResourceRecordSet": given})

    def delete(self, zone_id: str, name: str, type: str, identifier: str | None = None) -> None:
        """A person's DELETE of what is there."""
        there = self.zones[zone_id].nodes[names.canonical(name)][type, identifier]
        self.edit(zone_id, {"Action": "DELETE", "ResourceRecordSet": there.fields})

    def edit(self, zone_id: str, *batch: Mapping[str, Any]) -> None:
        """A person's batch of changes, as boto3 takes them; served at once. Raises Refusal."""
        for change in batch:
            model.check(change, model.change_schema())
        with self.lock:
            submitted = self._accept(self.zones[zone_id], changes.changes_of(batch), None)
            submitted.in_sync = True
            self._publish(submitted)

    def records(self, zone_id: str, *, served: bool = False) -> dict[tuple[str, str, str], RecordSet]:
        """By name, type and identifier ("" if simple), in the order of listing, without the zone's own SOA and NS.

        With `served`, those that the name servers have.
        """
        with self.lock:
            self._serve_due()
            zone = self.zones[zone_id]
            found = zone.listed()
            if served:
                copy = Zone(zone.id, zone.name, zone.account, zone.private, zone.name_servers, "")
                copy.commit(self._served[zone_id].nodes_by_name())
                found = copy.listed()
            return {
                (there.name, there.type, there.identifier or ""): there
                for there in found
                if there.name != zone.name or there.type not in ("SOA", "NS")
            }

    def distribution(
        self, domain: str, *alternate_names: str, addresses: Sequence[str] = ("198.51.100.1", "2001:db8::1")
    ) -> None:
        """What an alias may lead to: a CloudFront distribution with its names, or another of Amazon's services."""
        with self.lock:
            key = names.canonical(domain)
            self._distributions[key], self._addresses[key] = alternate_names, tuple(addresses)
            for served in self._served.values():
                served.forget()

    def protect(self, zone_id: str, name: str, type: str, comment: str = "") -> None:
        self.zones[zone_id].protections[names.canonical(name), type] = comment

    def unprotect(self, zone_id: str, name: str, type: str) -> None:
        del self.zones[zone_id].protections[names.canonical(name), type]

    # --- accounts ---------------------------------------------------------------------------------------------------

    def role(
        self, arn: str, external_id: str, account: str, policy: Policy | None = None, *, longest_seconds: int = 3600
    ) -> None:
        """A role that whoever knows its external id may assume; its sessions act for the account."""
        self.access.roles[arn] = Role(arn, account, external_id, policy, longest_seconds)

    def revoke(self, account: str, code: str = "AccessDenied", *, trust: bool = False) -> None:
        """Refuse all keys and sessions that the account has now; with `trust`, its roles can't be assumed any more."""
        with self.lock:
            self.access.revoke(account, code)
            if trust:
                self.access.roles = {arn: role for arn, role in self.access.roles.items() if role.account != account}

    def restore(self, account: str) -> None:
        """Keys and sessions serve again; roles must be made anew."""
        with self.lock:
            self.access.revoke(account, "")

    # --- trouble ----------------------------------------------------------------------------------------------------

    def limit(
        self, capacity: float = ACCOUNT.capacity, refill: float = ACCOUNT.refill, *, account: str = "", action: str = ""
    ) -> None:
        """The size of a bucket and what it gains a second: of every account or one, for all actions together or one."""
        with self.lock:
            self.limits.set(Limit(capacity, refill), account, action)

    def fail(
        self, action: str, kind: Kind, times: float = 1, when: Callable[[Asked], bool] | None = None,
        *, seconds: float = 0.2,
    ) -> None:  # fmt: skip
        """Let the next calls of the action ("*" is any) fail, those that `when` chooses; see `faults.Kind`."""
        with self.lock:
            self.faults.add(Fault(action, kind, times, when, seconds))

    def recover(self) -> None:
        """Forget the faults that were ordered and have not come yet."""
        with self.lock:
            self.faults.ordered.clear()

    def busy(self, zone_id: str, calls: int = 1) -> None:
        """Refuse the zone's next changes with PriorRequestNotComplete."""
        self.zones[zone_id].refuses = calls

    def settle(self) -> None:
        """Everything that was submitted is INSYNC and served."""
        with self.lock:
            for submitted in self.submitted.values():
                submitted.in_sync = True
                self._publish(submitted)

    def log(self) -> str:
        """The calls, a line each with the seconds since the first one; printed, too, so that pytest shows them."""
        with self.lock:
            lines = [f"{call.at - self.calls[0].at:9.3f} s  {call}" for call in self.calls]
        text = "\n".join(lines)
        print(text)
        return text

    # --- for the operations -----------------------------------------------------------------------------------------

    def submit(
        self, zone: Zone, batch: Sequence[Mapping[str, Any]], comment: str | None, caller: Principal
    ) -> Submitted:
        """A batch that came over the API. Raises Refusal."""
        wanted = changes.changes_of(batch)
        access.authorise_changes(caller, zone.id, wanted)
        if zone.refuses > 0:
            zone.refuses -= 1
            raise faults.prior_request()
        if self.clock() < zone.busy_until:
            raise faults.prior_request()
        submitted = self._accept(zone, wanted, comment)
        serve_at = submitted.ready_at if self.pending_polls == 0 else None
        if self.lag_seconds is not None:
            serve_at = self.clock() + self.lag_seconds
        if serve_at is not None:
            heapq.heappush(self._due, (serve_at, submitted.number, submitted))
            self._next_due = self._due[0][0]
            self._serve_due()
        return submitted

    def poll(self, submitted: Submitted) -> None:
        if submitted.polls_left > 0:
            submitted.polls_left -= 1
        elif not submitted.in_sync and self.clock() >= submitted.ready_at:
            submitted.in_sync = True
            if self.lag_seconds is None:
                self._publish(submitted)

    def _accept(self, zone: Zone, wanted: Sequence[Change], comment: str | None) -> Submitted:
        def has_health_check(check_id: str) -> bool:
            return self.health.has(zone.account, check_id)

        around = Surroundings(
            zone.id, zone.name, zone.private, zone.nodes, zone.size, zone.protections, has_health_check,
            self._distributions,
        )  # fmt: skip
        touched = changes.outcome(around, wanted)
        zone.commit(touched)
        if self.prior_request_seconds:
            zone.busy_until = self.clock() + self.prior_request_seconds
        submitted = Submitted(
            _new_id("C"), next(self._numbers), zone, touched, comment, self.pending_polls,
            self.clock() + self.pending_seconds,
        )  # fmt: skip
        self.submitted[submitted.id] = submitted
        return submitted

    def _serve_due(self) -> None:
        if self.clock() < self._next_due:
            return
        with self.lock:
            while self._due and self._due[0][0] <= self.clock():
                self._publish(heapq.heappop(self._due)[2])
            self._next_due = self._due[0][0] if self._due else float("inf")

    def _publish(self, submitted: Submitted) -> None:
        if not submitted.served:
            submitted.served = True
            self._served[submitted.zone.id].publish(submitted.touched, submitted.number)


@cache
def _session() -> boto3.session.Session:
    return boto3.session.Session()


def _new_id(letter: str) -> str:
    return letter + "".join(secrets.choice(_IDS) for _ in range(20))


def _simple(name: str, qtype: str, values: Sequence[str], ttl: int) -> RecordSet:
    fields = {"Name": name, "Type": qtype, "TTL": ttl, "ResourceRecords": [{"Value": value} for value in values]}
    return RecordSet(name, qtype, None, "", None, ttl, tuple(values), None, None, fields)
