"""What each operation does. The parameters are checked by then; errors are Refusals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from tests.route53_fake import access, names, protections
from tests.route53_fake.access import Principal
from tests.route53_fake.errors import Refusal, invalid_input
from tests.route53_fake.records import TYPE_CODES
from tests.route53_fake.zones import Zone

if TYPE_CHECKING:
    from tests.route53_fake.fake import Route53Fake

Given = dict[str, Any]
Answer = dict[str, Any]

_LARGEST_PAGES = {"zones": 100, "records": 300, "health checks": 100}


class Operations:
    def __init__(self, fake: Route53Fake) -> None:
        self._fake = fake

    def named(self, action: str) -> Callable[[Principal, Given], Answer]:
        found: Callable[[Principal, Given], Answer] = _ACTIONS[action].__get__(self)
        return found

    # --- zones ------------------------------------------------------------------------------------------------------

    def list_hosted_zones_by_name(self, caller: Principal, given: Given) -> Answer:
        """From a position on, never a filter; private zones too, and all of those that share a name."""
        if "HostedZoneId" in given and "DNSName" not in given:
            raise invalid_input("The request must have a DNS name if it has a hosted zone id")
        limit = _page_size(given, "MaxItems", "zones")
        start = ("", "")
        if given.get("DNSName"):
            try:
                start = names.order(names.canonical(given["DNSName"])), given.get("HostedZoneId", "")
            except names.BadName as error:
                raise Refusal("InvalidDomainName", str(error)) from error
        zones = sorted(
            (zone for zone in self._fake.zones.values() if zone.account == caller.account),
            key=lambda zone: (names.order(zone.name), zone.id),
        )
        rest = [zone for zone in zones if (names.order(zone.name), zone.id) >= start]
        answer: Answer = {
            "HostedZones": [zone.described() for zone in rest[:limit]],
            "DNSName": given.get("DNSName"),
            "HostedZoneId": given.get("HostedZoneId"),
            "IsTruncated": len(rest) > limit,
            "MaxItems": given.get("MaxItems", str(limit)),
        }
        if len(rest) > limit:
            answer |= {"NextDNSName": rest[limit].name, "NextHostedZoneId": rest[limit].id}
        return answer

    def get_hosted_zone(self, caller: Principal, given: Given) -> Answer:
        zone = self._zone(caller, given["Id"])
        if zone.private:
            return {"HostedZone": zone.described(), "VPCs": [{"VPCRegion": "us-east-1", "VPCId": "vpc-1"}]}
        return {"HostedZone": zone.described(), "DelegationSet": {"NameServers": list(zone.name_servers)}}

    # --- records ----------------------------------------------------------------------------------------------------

    def list_resource_record_sets(self, caller: Principal, given: Given) -> Answer:
        """The newest state, whether it is served yet or not."""
        zone = self._zone(caller, given["HostedZoneId"])
        limit = _page_size(given, "MaxItems", "records")
        for dependent, needed in (("Type", "Name"), ("Identifier", "Type")):
            if f"StartRecord{dependent}" in given and f"StartRecord{needed}" not in given:
                raise invalid_input(f"The request must have a {needed.lower()} if it has a {dependent.lower()}")
        try:
            start = names.order(names.canonical(given["StartRecordName"])) if given.get("StartRecordName") else ""
        except names.BadName as error:
            raise invalid_input(str(error)) from error
        position = (start, given.get("StartRecordType", ""), given.get("StartRecordIdentifier", ""))
        shown = list(islice(zone.listed(position), limit + 1))
        following = shown[limit:]
        answer: Answer = {
            "ResourceRecordSets": [there.fields for there in shown[:limit]],
            "IsTruncated": bool(following),
            "MaxItems": given.get("MaxItems", str(limit)),
        }
        for there in following:
            answer |= {
                "NextRecordName": there.name,
                "NextRecordType": there.type,
                "NextRecordIdentifier": there.identifier,
            }
        return answer

    def change_resource_record_sets(self, caller: Principal, given: Given) -> Answer:
        zone = self._zone(caller, given["HostedZoneId"])
        batch = given["ChangeBatch"]
        submitted = self._fake.submit(zone, batch["Changes"], batch.get("Comment"), caller)
        return {"ChangeInfo": submitted.described()}

    def get_change(self, caller: Principal, given: Given) -> Answer:
        submitted = self._fake.submitted.get(given["Id"])
        if submitted is None or submitted.zone.account != caller.account:
            raise Refusal("NoSuchChange", f"Could not find resource with ID: {given['Id']}", 404)
        self._fake.poll(submitted)
        return {"ChangeInfo": submitted.described()}

    def test_dns_answer(self, caller: Principal, given: Given) -> Answer:
        zone = self._zone(caller, given["HostedZoneId"])
        if zone.private:
            raise invalid_input("TestDNSAnswer is not supported for private hosted zones")
        try:
            name = names.canonical(given["RecordName"])
        except names.BadName as error:
            raise invalid_input(str(error)) from error
        exists, members = self._fake.nameserver.pick(names.wire(name), TYPE_CODES.get(given["RecordType"], 0))
        return {
            "Nameserver": zone.name_servers[0],
            "RecordName": name,
            "RecordType": given["RecordType"],
            "RecordData": [value for member in members for value in member.values],
            "ResponseCode": "NOERROR" if exists else "NXDOMAIN",
            "Protocol": "UDP",
        }

    # --- protections ------------------------------------------------------------------------------------------------

    def list_resource_record_set_protections(self, caller: Principal, given: Given) -> Answer:
        return protections.page(self._zone(caller, given["HostedZoneId"]), given)

    def create_resource_record_set_protections(self, caller: Principal, given: Given) -> Answer:
        protections.create(self._zone(caller, given["HostedZoneId"]), given["Protections"])
        return {}

    def delete_resource_record_set_protections(self, caller: Principal, given: Given) -> Answer:
        protections.delete(self._zone(caller, given["HostedZoneId"]), given["Protections"])
        return {}

    # --- health checks ----------------------------------------------------------------------------------------------

    def create_health_check(self, caller: Principal, given: Given) -> Answer:
        checks = self._fake.health
        check = checks.create(caller.account, given["CallerReference"], given["HealthCheckConfig"])
        location = f"https://route53.amazonaws.com/2013-04-01/healthcheck/{check.id}"
        return {"HealthCheck": check.described(), "Location": location}

    def get_health_check(self, caller: Principal, given: Given) -> Answer:
        return {"HealthCheck": self._fake.health.find(caller.account, given["HealthCheckId"]).described()}

    def update_health_check(self, caller: Principal, given: Given) -> Answer:
        return {"HealthCheck": self._fake.health.update(caller.account, given).described()}

    def delete_health_check(self, caller: Principal, given: Given) -> Answer:
        self._fake.health.delete(caller.account, given["HealthCheckId"])
        return {}

    def list_health_checks(self, caller: Principal, given: Given) -> Answer:
        limit = _page_size(given, "MaxItems", "health checks")
        checks = sorted(self._fake.health.of(caller.account), key=lambda check: check.id)
        rest = [check for check in checks if check.id >= given.get("Marker", "")]
        answer: Answer = {
            "HealthChecks": [check.described() for check in rest[:limit]],
            "Marker": given.get("Marker", ""),
            "IsTruncated": len(rest) > limit,
            "MaxItems": given.get("MaxItems", str(limit)),
        }
        return answer | ({"NextMarker": rest[limit].id} if len(rest) > limit else {})

    def get_health_check_status(self, caller: Principal, given: Given) -> Answer:
        check = self._fake.health.find(caller.account, given["HealthCheckId"])
        return {"HealthCheckObservations": self._fake.health.observations(check)}

    def _zone(self, caller: Principal, zone_id: str) -> Zone:
        zone = self._fake.zones.get(zone_id)
        if zone is None:
            raise Refusal("NoSuchHostedZone", f"No hosted zone found with ID: {zone_id}", 404)
        if zone.account != caller.account:
            raise access.zone_of_another(caller)
        return zone


def _page_size(given: Given, key: str, what: str) -> int:
    """Larger pages than the largest are asked for in vain."""
    largest = _LARGEST_PAGES[what]
    text = given.get(key, str(largest))
    if not text.isdigit() or int(text) < 1:
        raise invalid_input(f"Invalid value '{text}' for {key.lower()}")
    return min(int(text), largest)


_ACTIONS: dict[str, Any] = {
    "ListHostedZonesByName": Operations.list_hosted_zones_by_name,
    "GetHostedZone": Operations.get_hosted_zone,
    "ListResourceRecordSets": Operations.list_resource_record_sets,
    "ChangeResourceRecordSets": Operations.change_resource_record_sets,
    "GetChange": Operations.get_change,
    "TestDNSAnswer": Operations.test_dns_answer,
    "ListResourceRecordSetProtections": Operations.list_resource_record_set_protections,
    "CreateResourceRecordSetProtections": Operations.create_resource_record_set_protections,
    "DeleteResourceRecordSetProtections": Operations.delete_resource_record_set_protections,
    "CreateHealthCheck": Operations.create_health_check,
    "GetHealthCheck": Operations.get_health_check,
    "UpdateHealthCheck": Operations.update_health_check,
    "DeleteHealthCheck": Operations.delete_health_check,
    "ListHealthChecks": Operations.list_health_checks,
    "GetHealthCheckStatus": Operations.get_health_check_status,
}
ACTIONS = tuple(_ACTIONS)
