"""Health checks: what their settings must be, and which of them count as healthy."""

from __future__ import annotations

import ipaddress
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.route53_fake.errors import Refusal, invalid_input

_MOST = 200
_PORTS = {"HTTP": 80, "HTTP_STR_MATCH": 80, "HTTPS": 443, "HTTPS_STR_MATCH": 443}
_ENDPOINT_FIELDS = (
    "IPAddress", "Port", "ResourcePath", "FullyQualifiedDomainName", "SearchString", "RequestInterval",
    "FailureThreshold", "MeasureLatency", "EnableSNI", "Regions",
)  # fmt: skip
_RESETTABLE = ("FullyQualifiedDomainName", "Regions", "ResourcePath", "ChildHealthChecks")
_REGIONS = ("us-east-1", "us-west-1", "us-west-2", "eu-west-1", "ap-southeast-1", "ap-southeast-2", "sa-east-1")


@dataclass(slots=True)
class HealthCheck:
    id: str
    account: str
    caller_reference: str
    given: dict[str, Any]
    """The settings as they were sent, by which a repeated request is known."""
    config: dict[str, Any]
    version: int = 1

    def described(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "CallerReference": self.caller_reference,
            "HealthCheckConfig": self.config,
            "HealthCheckVersion": self.version,
        }


@dataclass(slots=True)
class HealthChecks:
    """Of all accounts. `endpoint_up` is what the checkers see, by id, which tests set; unset means up."""

    endpoint_up: dict[str, bool] = field(default_factory=dict)
    _checks: dict[str, HealthCheck] = field(default_factory=dict)
    _gone: set[tuple[str, str]] = field(default_factory=set)
    """Accounts and caller references of those that were deleted."""

    def of(self, account: str) -> Iterator[HealthCheck]:
        return (check for check in self._checks.values() if check.account == account)

    def find(self, account: str, check_id: str) -> HealthCheck:
        check = self._checks.get(check_id)
        if check is None or check.account != account:
            raise Refusal("NoSuchHealthCheck", f"No health check exists with the specified ID: {check_id}", 404)
        return check

    def has(self, account: str, check_id: str) -> bool:
        check = self._checks.get(check_id)
        return check is not None and check.account == account

    def create(self, account: str, reference: str, given: dict[str, Any]) -> HealthCheck:
        """The same request again is the same check; the reference of another one, or of a deleted one, is taken."""
        for check in self.of(account):
            if check.caller_reference == reference and check.given == given:
                return check
        taken = {check.caller_reference for check in self.of(account)}
        if reference in taken or (account, reference) in self._gone:
            raise Refusal(
                "HealthCheckAlreadyExists",
                "A different health check has already been created with the specified caller reference.",
                409,
            )
        if len(taken) >= _MOST:
            raise Refusal("TooManyHealthChecks", f"Limits Exceeded: MaximumHealthChecks={_MOST}")
        config = self._checked(account, given)
        check = HealthCheck(str(uuid.uuid4()), account, reference, given, config)
        self._checks[check.id] = check
        return check

    def update(self, account: str, given: dict[str, Any]) -> HealthCheck:
        check = self.find(account, given["HealthCheckId"])
        if given.get("HealthCheckVersion", check.version) != check.version:
            raise Refusal("HealthCheckVersionMismatch", f"The current version is {check.version}", 409)
        reset = given.get("ResetElements", [])
        changed = {
            key: value
            for key, value in given.items()
            if key not in ("HealthCheckId", "HealthCheckVersion", "ResetElements")
        }
        if clash := [name for name in reset if name in changed]:
            raise invalid_input(f"Invalid parameter : {clash[0]} is both set and reset.")
        kept = {key: value for key, value in check.config.items() if key not in reset}
        check.config = self._checked(account, kept | changed)
        check.version += 1
        return check

    def delete(self, account: str, check_id: str) -> None:
        """Even if records name it: then nobody can say what its status will be, and here it is healthy."""
        check = self.find(account, check_id)
        del self._checks[check_id]
        self._gone.add((account, check.caller_reference))

    def is_healthy(self, check_id: str) -> bool:
        """A disabled check is healthy. `Inverted` turns round what comes out, whatever it was made from."""
        check = self._checks.get(check_id)
        if check is None:
            return True
        config = check.config
        if config["Disabled"]:
            healthy = True
        elif config["Type"] == "CALCULATED":
            children = sum(map(self.is_healthy, config.get("ChildHealthChecks", ())))
            healthy = children >= config.get("HealthThreshold", 0)
        else:
            healthy = self.endpoint_up.get(check_id, True)
        return healthy != config["Inverted"]

    def observations(self, check: HealthCheck) -> list[dict[str, Any]]:
        """What the checkers of each region saw, before any inversion."""
        up = self.endpoint_up.get(check.id, True)
        status = "Success: HTTP Status Code 200, OK" if up else "Failure: The health checker could not connect."
        report = {"Status": status, "CheckedTime": datetime.now(UTC)}
        return [
            {"Region": region, "IPAddress": f"15.177.{number}.1", "StatusReport": report}
            for number, region in zip(itertools.count(), check.config.get("Regions", _REGIONS), strict=False)
        ]

    def _checked(self, account: str, given: dict[str, Any]) -> dict[str, Any]:
        """The settings with their defaults. Raises Refusal."""
        kind = given["Type"]
        common = {"Inverted": False, "Disabled": False}
        if kind == "CALCULATED":
            self._refuse_bad_calculation(account, given)
            return common | given
        if kind not in _PORTS and kind != "TCP":
            raise invalid_input(f"Invalid parameter : the type {kind} is not known here.")
        _refuse_bad_endpoint(given)
        defaults = {"RequestInterval": 30, "FailureThreshold": 3, "MeasureLatency": False}
        if kind in _PORTS:
            defaults |= {"Port": _PORTS[kind], "EnableSNI": kind.startswith("HTTPS")}
        return common | defaults | given

    def _refuse_bad_calculation(self, account: str, given: dict[str, Any]) -> None:
        for name in _ENDPOINT_FIELDS:
            if name in given:
                raise invalid_input(f"Invalid parameter : Calculated health checks must not have {name} specified.")
        for name in ("ChildHealthChecks", "HealthThreshold"):
            if name not in given:
                raise invalid_input(f"Invalid parameter : Calculated health checks must have {name} specified.")
        for child in given["ChildHealthChecks"]:
            if not self.has(account, child):
                raise invalid_input(f"Invalid parameter : There is no child health check {child}.")
            if self._checks[child].config["Type"] == "CALCULATED":
                raise invalid_input("Invalid parameter : Calculated health checks cannot monitor each other.")


def _refuse_bad_endpoint(given: dict[str, Any]) -> None:
    kind = given["Type"]
    if "AlarmIdentifier" in given:
        raise invalid_input("Invalid parameter : Basic health checks must not have an metric region specified.")
    for name in ("ChildHealthChecks", "HealthThreshold", "InsufficientDataHealthStatus", "RoutingControlArn"):
        if name in given:
            raise invalid_input(f"Invalid parameter : Basic health checks must not have {name} specified.")
    if given.get("EndpointType", "PUBLIC") != "PUBLIC":
        raise invalid_input("Invalid parameter : private endpoints are not known here.")
    if "IPAddress" not in given and not given.get("FullyQualifiedDomainName"):
        raise invalid_input("Invalid parameter : Either IPAddress or FullyQualifiedDomainName must be specified.")
    if "IPAddress" in given and not ipaddress.ip_address(given["IPAddress"]).is_global:
        raise invalid_input(f"Invalid parameter : {given['IPAddress']} is not an address on the internet.")
    if given.get("RequestInterval", 30) not in (10, 30):
        raise invalid_input("Invalid parameter : RequestInterval must be 10 or 30.")
    if kind.endswith("_STR_MATCH") and not given.get("SearchString"):
        raise invalid_input(f"Invalid parameter : {kind} health checks must have SearchString specified.")
    if not kind.endswith("_STR_MATCH") and "SearchString" in given:
        raise invalid_input(f"Invalid parameter : {kind} health checks must not have SearchString specified.")
    if given.get("ResourcePath", "/")[:1] not in ("/", ""):
        raise invalid_input("Invalid parameter : ResourcePath must begin with a slash.")
    if kind == "TCP":
        for name in ("ResourcePath", "EnableSNI"):
            if name in given:
                raise invalid_input(f"Invalid parameter : TCP health checks must not have {name} specified.")
        if "Port" not in given:
            raise invalid_input("Invalid parameter : TCP health checks must have Port specified.")
    if len(set(given.get("Regions", ()))) != len(given.get("Regions", ())):
        raise invalid_input("Invalid parameter : Regions must not be repeated.")
