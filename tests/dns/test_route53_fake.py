"""The fake of Route 53 by itself: that it refuses what Amazon refuses, and serves what Amazon would serve."""

from __future__ import annotations

import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import dnslib
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from tests.route53_fake import Policy, Refusal, Route53Fake, route53_fake_fixture

__all__ = ["route53_fake_fixture"]

HOST = "www.cust.test."
CLOUDFRONT = "Z2FDTNDATAQYW2"
THEIRS = "222222222222"
ARN = f"arn:aws:iam::{THEIRS}:role/tranche"


def record(name: str = HOST, qtype: str = "CNAME", *values: str, ttl: int | None = 30, **fields: Any) -> dict[str, Any]:
    plain = (
        {} if ttl is None else {"TTL": ttl, "ResourceRecords": [{"Value": value} for value in values or ("a.test.",)]}
    )
    return {"Name": name, "Type": qtype} | plain | fields


def member(identifier: str, weight: int, value: str = "a.cdn.test.", **fields: Any) -> dict[str, Any]:
    return record(HOST, "CNAME", value, SetIdentifier=identifier, Weight=weight) | fields


def alias(zone_id: str, target: str, *, healthy: bool = False, **fields: Any) -> dict[str, Any]:
    target_of = {"HostedZoneId": zone_id, "DNSName": target, "EvaluateTargetHealth": healthy}
    return record(HOST, "A", ttl=None, AliasTarget=target_of) | fields


class Person:
    """Somebody with a client and a zone."""

    def __init__(self, fake: Route53Fake) -> None:
        self.client = fake.client()
        self.zone = fake.zone("cust.test")

    def change(self, *changes: tuple[str, dict[str, Any]], zone: str = "") -> str:
        batch = [{"Action": action, "ResourceRecordSet": fields} for action, fields in changes]
        info = self.client.change_resource_record_sets(HostedZoneId=zone or self.zone, ChangeBatch={"Changes": batch})
        return str(info["ChangeInfo"]["Id"])

    def upsert(self, *sets: dict[str, Any], zone: str = "") -> str:
        return self.change(*(("UPSERT", fields) for fields in sets), zone=zone)

    def status(self, change_id: str) -> str:
        return str(self.client.get_change(Id=change_id)["ChangeInfo"]["Status"])

    def listed(self, **given: Any) -> list[tuple[str, str, str]]:
        found = self.client.list_resource_record_sets(HostedZoneId=self.zone, **given)["ResourceRecordSets"]
        return [(there["Name"], there["Type"], there.get("SetIdentifier", "")) for there in found]


@pytest.fixture
def person(route53_fake: Route53Fake) -> Person:
    return Person(route53_fake)


def refused(call: Callable[..., Any], *args: Any, **given: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(*args, **given)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def ask(fake: Route53Fake, name: str = HOST, qtype: str = "CNAME", *, tcp: bool = False) -> Any:
    question = dnslib.DNSRecord.question(name, qtype)
    question.header.rd = 0
    return dnslib.DNSRecord.parse(question.send(*fake.dns_address, tcp=tcp, timeout=2))


def answers(fake: Route53Fake, name: str = HOST, qtype: str = "CNAME") -> list[str]:
    return [str(rr.rdata) for rr in ask(fake, name, qtype).rr]


def shares(fake: Route53Fake, questions: int = 400) -> Counter[str]:
    """Over one socket, and without dnslib, which would take longer than the server."""
    fake.nameserver.random.seed(53)
    question = bytes(dnslib.DNSRecord.question(HOST, "CNAME").pack())
    found: Counter[bytes] = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(2)
        udp.connect(fake.dns_address)
        for _ in range(questions):
            udp.send(question)
            found[udp.recv(512)] += 1
    return Counter({str(dnslib.DNSRecord.parse(reply).rr[0].rdata): count for reply, count in found.items()})


# --- zones ----------------------------------------------------------------------------------------------------------


def test_zones_are_listed_from_a_name_on_with_duplicates_and_private_ones(route53_fake: Route53Fake) -> None:
    for name in ("z.test", "cust.test", "app.cust.test", "evilcust.test", "a-b.cust.test"):
        route53_fake.zone(name)
    twin, private = route53_fake.zone("cust.test"), route53_fake.zone("cust.test", private=True)
    client = route53_fake.client()

    def names(**given: Any) -> list[str]:
        return [zone["Name"] for zone in client.list_hosted_zones_by_name(**given)["HostedZones"]]

    everything = ["cust.test."] * 3 + ["a-b.cust.test.", "app.cust.test.", "evilcust.test.", "z.test."]
    assert names() == everything
    assert names(DNSName="app.cust.test") == ["app.cust.test.", "evilcust.test.", "z.test."]
    assert names(DNSName="b.cust.test")[0] == "evilcust.test."
    page = client.list_hosted_zones_by_name(MaxItems="2")
    seen, pages = page["HostedZones"], 1
    while page["IsTruncated"] and pages < 9:
        start = {"DNSName": page["NextDNSName"], "HostedZoneId": page["NextHostedZoneId"]}
        page = client.list_hosted_zones_by_name(MaxItems="2", **start)
        seen, pages = seen + page["HostedZones"], pages + 1
    assert [zone["Name"] for zone in seen] == everything
    assert pages == 4
    assert "NextDNSName" not in page
    assert {f"/hostedzone/{twin}", f"/hostedzone/{private}"} < {zone["Id"] for zone in seen}
    assert [zone["Id"] for zone in seen if zone["Config"]["PrivateZone"]] == [f"/hostedzone/{private}"]
    assert refused(client.list_hosted_zones_by_name, HostedZoneId=twin)[0] == "InvalidInput"


def test_a_zone_tells_its_name_servers(route53_fake: Route53Fake) -> None:
    first = route53_fake.zone("cust.test", name_servers=("ns-1.test", "ns-2.test"))
    second = route53_fake.zone("cust.test", id="Z2")
    client = route53_fake.client()
    assert client.get_hosted_zone(Id=first)["DelegationSet"]["NameServers"] == ["ns-1.test", "ns-2.test"]
    assert sorted(answers(route53_fake, "cust.test", "NS")) == ["ns-1.test.", "ns-2.test."]
    route53_fake.delegate(second)
    theirs = client.get_hosted_zone(Id=second)["DelegationSet"]["NameServers"]
    assert sorted(answers(route53_fake, "cust.test", "NS")) == sorted(f"{server}." for server in theirs)
    route53_fake.delegate(second, "ns.elsewhere.test")
    assert answers(route53_fake, "cust.test", "NS") == ["ns.elsewhere.test."]
    route53_fake.remove(second)
    assert refused(client.get_hosted_zone, Id=second) == ("NoSuchHostedZone", "No hosted zone found with ID: Z2")
    assert ask(route53_fake, "cust.test", "NS").header.rcode == dnslib.RCODE.REFUSED


# --- listing records ------------------------------------------------------------------------------------------------


def test_records_are_listed_by_reversed_labels_then_type_then_identifier(
    route53_fake: Route53Fake, person: Person
) -> None:
    person.upsert(
        record("x.www.cust.test", "A", "192.0.2.1"),
        record("www-2.cust.test", "A", "192.0.2.1"),
        record("_tranche.www.cust.test", "TXT", '"rev=1"'),
        record("*.cust.test", "TXT", '"any"'),
        record("b.cust.test", "TXT", '"t"'),
        record("b.cust.test", "A", "192.0.2.1"),
        member("two", 1),
        member("one", 1),
    )
    assert person.listed() == [
        ("cust.test.", "NS", ""),
        ("cust.test.", "SOA", ""),
        ("\\052.cust.test.", "TXT", ""),
        ("b.cust.test.", "A", ""),
        ("b.cust.test.", "TXT", ""),
        ("www-2.cust.test.", "A", ""),
        ("www.cust.test.", "CNAME", "one"),
        ("www.cust.test.", "CNAME", "two"),
        ("_tranche.www.cust.test.", "TXT", ""),
        ("x.www.cust.test.", "A", ""),
    ]
    assert person.listed(StartRecordName="WWW.cust.test", MaxItems="1") == [(HOST, "CNAME", "one")]
    assert person.listed(StartRecordName="c.cust.test", MaxItems="1") == [("www-2.cust.test.", "A", "")]
    assert person.listed(StartRecordName="b.cust.test", StartRecordType="AAAA")[0] == ("b.cust.test.", "TXT", "")
    for start in ({"StartRecordType": "A"}, {"StartRecordIdentifier": "one", "StartRecordName": HOST}):
        assert refused(person.listed, **start)[0] == "InvalidInput"
    assert refused(person.listed, MaxItems="many")[0] == "InvalidInput"


def test_a_page_may_cut_a_weighted_set(person: Person) -> None:
    person.upsert(*(member(f"m{number}", 1) for number in range(5)))
    page = person.client.list_resource_record_sets(HostedZoneId=person.zone, StartRecordName=HOST, MaxItems="2")
    assert (page["IsTruncated"], page["NextRecordName"], page["NextRecordType"], page["NextRecordIdentifier"]) == (
        True,
        HOST,
        "CNAME",
        "m2",
    )
    start = {"StartRecordName": HOST, "StartRecordType": "CNAME"}
    assert person.listed(MaxItems="2", **start)[0][2] == "m0"  # without the identifier, the same page again
    rest = person.client.list_resource_record_sets(
        HostedZoneId=person.zone, MaxItems="300", StartRecordIdentifier="m2", **start
    )
    assert [there["SetIdentifier"] for there in rest["ResourceRecordSets"]] == ["m2", "m3", "m4"]
    assert not rest["IsTruncated"]
    assert "NextRecordName" not in rest


def test_a_page_has_300_records_at_most(route53_fake: Route53Fake, person: Person) -> None:
    for number in range(310):
        route53_fake.put(person.zone, f"h{number}.cust.test", "A", "192.0.2.1")
    assert len(person.listed(MaxItems="1000")) == 300
    everything = person.client.get_paginator("list_resource_record_sets").paginate(HostedZoneId=person.zone)
    assert sum(len(page["ResourceRecordSets"]) for page in everything) == 312


# --- what is refused ------------------------------------------------------------------------------------------------

Changes = list[tuple[str, dict[str, Any]]]


def up(*sets: dict[str, Any]) -> Changes:
    return [("UPSERT", fields) for fields in sets]


SIMPLE = record(HOST, "CNAME", "old.test.")
ADDRESS = record(HOST, "A", "192.0.2.1")
ONE, TWO = member("one", 100), member("two", 0)
LATENCY = record(SetIdentifier="one", Region="eu-west-1")
GIVEN = f"Change with [Action=UPSERT, Name={HOST}, Type=CNAME, SetIdentifier"
CONTENTS = "Expected exactly one of [AliasTarget, all of [TTL, and ResourceRecords], or TrafficPolicyInstanceId]"

INVALID_INPUT: dict[str, tuple[Changes, str]] = {
    "a weight above 255": (up(member("one", 256)), "maxInclusive '255' for type 'ResourceRecordSetWeight'"),
    "a weight without an identifier": (up(record(Weight=1)), f"Missing field 'SetIdentifier' in {GIVEN}=null]"),
    "a check without an identifier": (up(record(HealthCheckId="x")), "Missing field 'SetIdentifier'"),
    "an identifier without a policy": (up(record(SetIdentifier="one")), f"but found none in {GIVEN}=one]"),
    "two policies": (up(member("one", 1, Region="eu-west-1")), "but found more than one"),
    "no content": (up(record(ttl=None)), f"Invalid request: {CONTENTS}, but found none in {GIVEN}=null]"),
    "no values": (up({"Name": HOST, "Type": "A", "TTL": 3}), "but found none"),
    "an alias with a TTL": (up(alias(CLOUDFRONT, "d1.cloudfront.net", TTL=60)), "but found more than one"),
    "a TTL out of bounds": (up(record(ttl=2**31)), "for type 'TTL'"),
    "a long identifier": (up(member("x" * 129, 1)), "maxLength '128'"),
    "a long value": (up(record(HOST, "TXT", f'"{"x" * 4000}"')), "maxLength '4000'"),
    "an unknown type": (up(record(HOST, "ANAME")), "cvc-enumeration-valid: Value 'ANAME'"),
    "an unknown action": ([("REPLACE", SIMPLE)], "cvc-enumeration-valid: Value 'REPLACE'"),
    "weighted NS": (up(record("sub.cust.test", "NS", "ns.test.", SetIdentifier="one", Weight=1)), "must be simple"),
}
INVALID_BATCH: dict[str, tuple[list[dict[str, Any]], Changes, str]] = {
    "another zone's name": (
        [],
        up(record("www.evilcust.test")),
        "RRSet with DNS name www.evilcust.test. is not permitted in zone cust.test.",
    ),
    "a name that only ends like the zone": ([], up(record("evilcust.test")), "is not permitted in zone cust.test."),
    "an empty label": ([], up(record("a..cust.test")), "DomainLabelEmpty"),
    "a long label": ([], up(record(f"{'x' * 64}.cust.test")), "DomainLabelTooLong"),
    "a CNAME at the apex": (
        [],
        up(record("cust.test")),
        "RRSet of type CNAME with DNS name cust.test. is not permitted at apex in zone cust.test.",
    ),
    "a CNAME beside others": (
        [ADDRESS],
        up(SIMPLE),
        f"RRSet of type CNAME with DNS name {HOST} is not permitted as it conflicts with other records with the same DNS "
        "name in zone cust.test.",
    ),
    "another beside a CNAME": (
        [SIMPLE],
        [("CREATE", ADDRESS)],
        f"RRSet of type A with DNS name {HOST} is not permitted because a conflicting RRSet of type CNAME with the same "
        "DNS name already exists in zone cust.test.",
    ),
    "weighted beside simple": (
        [SIMPLE],
        up(ONE),
        f"RRSet with DNS name {HOST}, type CNAME, SetIdentifier one cannot be created as a non-weighted set exists with "
        "the same name and type.",
    ),
    "weighted beside latency": (
        [LATENCY],
        up(TWO),
        "cannot be created as a non-weighted set exists with the same name",
    ),
    "weighted before the simple one is deleted": (
        [SIMPLE],
        [("CREATE", ONE), ("DELETE", SIMPLE)],
        "cannot be created as a non-weighted set exists with the same name and type.",
    ),
    "simple beside weighted": (
        [ONE, TWO],
        up(SIMPLE),
        f"RRSet with DNS name {HOST}, type CNAME cannot be created as other RRSets exist with the same name and type.",
    ),
    "a TTL of its own": (
        [ONE, TWO],
        up(member("one", 100, TTL=60)),
        f"RRSet with DNS name {HOST} and type CNAME, SetIdentifier one cannot be created as weighted sets must contain "
        "the same TTL.",
    ),
    "a CNAME of two values": ([], up(record(HOST, "CNAME", "a.test.", "b.test.")), "cannot have more than one value"),
    "a weighted set of two values": (
        [],
        up(record(HOST, "A", "192.0.2.1", "192.0.2.2", SetIdentifier="one", Weight=1)),
        "SetIdentifier one cannot have more than one value as it is weighted.",
    ),
    "more than 100 members": ([], up(*(member(f"m{number}", 1) for number in range(101))), "more than 100 RRSets"),
    "creating what is there": (
        [SIMPLE],
        [("CREATE", SIMPLE)],
        f"Tried to create resource record set [name='{HOST}', type='CNAME'] but it already exists",
    ),
    "creating a member that is there": (
        [ONE, TWO],
        [("CREATE", TWO)],
        f"Tried to create resource record set [name='{HOST}', type='CNAME', set-identifier='two'] but it already exists",
    ),
    "deleting what is not there": (
        [],
        [("DELETE", SIMPLE)],
        f"Tried to delete resource record set [name='{HOST}', type='CNAME'] but it was not found",
    ),
    "deleting other values": (
        [SIMPLE],
        [("DELETE", record(HOST, "CNAME", "new.test."))],
        f"Tried to delete resource record set [name='{HOST}', type='CNAME'] but the values provided do not match the "
        "current values",
    ),
    "deleting another TTL": ([SIMPLE], [("DELETE", SIMPLE | {"TTL": 31})], "do not match the current values"),
    "deleting another weight": ([ONE, TWO], [("DELETE", member("one", 99))], "do not match the current values"),
    "deleting twice": (
        [SIMPLE],
        [("DELETE", SIMPLE)] * 2,
        f"The request contains an invalid set of changes for a resource record set 'CNAME {HOST}'",
    ),
    "the same set twice": ([], up(ONE, member("one", 2)), "contains an invalid set of changes"),
    "what is no address": ([], up(record(HOST, "A", "192.0.2.300")), "ARRDATAIllegalIPv4Address"),
    "what is no name": ([], up(record(HOST, "CNAME", "a target.test")), "UnsupportedCharacter"),
    "text without quotes": ([], up(record(HOST, "TXT", "bare")), "Value should be enclosed in quotation marks"),
    "a long string of text": ([], up(record(HOST, "TXT", f'"{"x" * 256}"')), "CharacterStringTooLong"),
    "a value twice": ([], up(record(HOST, "A", *["192.0.2.1"] * 2)), "Duplicate Resource Record: '192.0.2.1'"),
    "a wildcard's NS": ([], up(record("*.cust.test", "NS", "ns.test.")), "cannot be a wildcard"),
    "an SOA below the apex": ([], up(record(HOST, "SOA", "a. b. 1 1 1 1 1")), "is not permitted except at apex"),
    "more than 1000 records": (
        [],
        up(*(record(f"h{number}.cust.test") for number in range(501))),
        "Number of records limit of 1000 exceeded.",
    ),
    "more than 32,000 characters": (
        [],
        up(*(record(f"h{number}.cust.test", "TXT", f'"{"x" * 248}"') for number in range(65))),
        "RDATA character limit of 32000 exceeded.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), INVALID_INPUT.values(), ids=INVALID_INPUT)
def test_invalid_input(route53_fake: Route53Fake, person: Person, changes: Changes, message: str) -> None:
    code, explained = refused(person.change, *changes)
    assert code == "InvalidInput"
    assert message in explained
    assert route53_fake.records(person.zone) == {}


@pytest.mark.parametrize(("there", "changes", "message"), INVALID_BATCH.values(), ids=INVALID_BATCH)
def test_an_invalid_batch(
    route53_fake: Route53Fake, person: Person, there: list[dict[str, Any]], changes: Changes, message: str
) -> None:
    for fields in there:
        route53_fake.edit(person.zone, {"Action": "CREATE", "ResourceRecordSet": fields})
    before = route53_fake.records(person.zone)
    code, explained = refused(person.change, *changes)
    assert code == "InvalidChangeBatch"
    assert re.match(r"\[.*\]$", explained)
    assert message in explained
    assert route53_fake.records(person.zone) == before


def test_a_health_check_must_exist(person: Person) -> None:
    code, message = refused(person.upsert, member("one", 1, HealthCheckId="nobody"))
    assert (code, "nobody" in message) == ("NoSuchHealthCheck", True)


def test_all_that_is_wrong_is_told_at_once(person: Person) -> None:
    code, message = refused(person.change, ("DELETE", record()), ("CREATE", record("www.other.test")))
    assert code == "InvalidChangeBatch"
    assert message == (
        f"[Tried to delete resource record set [name='{HOST}', type='CNAME'] but it was not found, "
        "RRSet with DNS name www.other.test. is not permitted in zone cust.test.]"
    )


def test_a_batch_is_done_whole_or_not_at_all(route53_fake: Route53Fake, person: Person) -> None:
    person.upsert(member("one", 100), member("two", 0))
    before = route53_fake.records(person.zone)
    batch = [("UPSERT", member("one", 0)), ("CREATE", record("new.cust.test")), ("DELETE", record("none.cust.test"))]
    assert refused(person.change, *batch)[0] == "InvalidChangeBatch"
    assert route53_fake.records(person.zone) == before


def test_the_apex_keeps_its_soa_and_ns(person: Person) -> None:
    own = person.client.list_resource_record_sets(HostedZoneId=person.zone)["ResourceRecordSets"]
    ns, soa = own
    assert refused(person.change, ("DELETE", soa)) == (
        "InvalidChangeBatch",
        "[A HostedZone must contain exactly one SOA record.]",
    )
    assert refused(person.change, ("DELETE", ns)) == (
        "InvalidChangeBatch",
        "[A HostedZone must contain at least one NS record for the zone itself.]",
    )
    person.change(("DELETE", ns), ("CREATE", ns | {"ResourceRecords": [{"Value": "ns.other.test."}]}))


def test_a_simple_record_becomes_weighted_in_one_batch_and_back(person: Person) -> None:
    old = record(HOST, "CNAME", "old.test.", ttl=300)
    person.upsert(old)
    person.change(("DELETE", old), ("CREATE", member("one", 100)), ("CREATE", member("two", 0)))
    assert person.listed(StartRecordName=HOST) == [(HOST, "CNAME", "one"), (HOST, "CNAME", "two")]
    person.change(("DELETE", member("one", 100)), ("DELETE", member("two", 0)), ("CREATE", old))
    assert person.listed(StartRecordName=HOST) == [(HOST, "CNAME", "")]


def test_a_groups_ttl_changes_with_all_its_members(person: Person) -> None:
    person.upsert(member("one", 100), member("two", 0))
    assert "same TTL" in refused(person.upsert, member("two", 0, TTL=60))[1]
    person.upsert(member("one", 100, TTL=60), member("two", 0, TTL=60))


def test_a_deletion_may_name_the_values_in_any_order(person: Person) -> None:
    person.upsert(record(HOST, "A", "192.0.2.1", "192.0.2.2"))
    person.change(("DELETE", record("WWW.Cust.test", "A", "192.0.2.2", "192.0.2.1")))
    assert person.listed(StartRecordName=HOST) == []


def test_limits_count_an_upsert_twice_and_a_creation_once(person: Person) -> None:
    person.change(*(("CREATE", record(f"h{number}.cust.test")) for number in range(501)))
    person.upsert(*(record(f"h{number}.cust.test") for number in range(500)))


def test_an_alias_leads_to_a_distribution_that_serves_the_name(route53_fake: Route53Fake, person: Person) -> None:
    route53_fake.distribution("d1.cloudfront.net", "www.cust.test", addresses=("198.51.100.7", "2001:db8::7"))
    route53_fake.distribution("d2.cloudfront.net", "*.other.test")
    tried = "Tried to create an alias that targets"
    for fields, message in (
        (alias(CLOUDFRONT, "d1.cloudfront.net", healthy=True), "EvaluateTargetHealth must be false"),
        (alias(CLOUDFRONT, "d2.cloudfront.net"), f"invalid set of changes for a resource record set 'A {HOST}'"),
        (alias(CLOUDFRONT, "d3.cloudfront.net"), "but that target was not found"),
        (
            alias("ZWRONG", "d1.cloudfront.net"),
            f"{tried} d1.cloudfront.net., type A in zone ZWRONG, but the alias target",
        ),
        (alias(CLOUDFRONT, "d1.cloudfront.net", Type="CNAME"), "but that target was not found"),
        (
            alias(person.zone, "none.cust.test"),
            f"{tried} none.cust.test., type A in zone {person.zone}, but that target",
        ),
        (alias(person.zone, "www.elsewhere.test"), "does not lie within the target zone"),
    ):
        code, explained = refused(person.upsert, fields)
        assert (code, message in explained) == ("InvalidChangeBatch", True), explained
    private = route53_fake.zone("cust.test", private=True)
    assert "private" in refused(person.upsert, alias(CLOUDFRONT, "d1.cloudfront.net"), zone=private)[1]
    person.upsert(
        alias(CLOUDFRONT, "d1.cloudfront.net"),
        alias(CLOUDFRONT, "d1.cloudfront.net", Type="AAAA"),
        alias(person.zone, HOST, Name="b.cust.test"),
    )
    route53_fake.settle()
    assert answers(route53_fake, HOST, "A") == ["198.51.100.7"]
    assert answers(route53_fake, HOST, "AAAA") == ["2001:db8::7"]
    assert answers(route53_fake, "b.cust.test", "A") == ["198.51.100.7"]


def test_a_persons_edit_is_refused_for_the_same_reasons(route53_fake: Route53Fake, person: Person) -> None:
    route53_fake.put(person.zone, "www.cust.test", "CNAME", "old.test.")
    with pytest.raises(Refusal, match="non-weighted set exists"):
        route53_fake.put(person.zone, "www.cust.test", "CNAME", "a.test.", SetIdentifier="one", Weight=1)
    with pytest.raises(Refusal, match="maxInclusive"):
        route53_fake.put(person.zone, "b.cust.test", "CNAME", "a.test.", SetIdentifier="one", Weight=256)
    route53_fake.delete(person.zone, "www.cust.test", "CNAME")
    assert route53_fake.records(person.zone) == {}


# --- propagation ----------------------------------------------------------------------------------------------------


def test_a_change_is_listed_at_once_and_served_once_it_is_in_sync(route53_fake: Route53Fake, person: Person) -> None:
    route53_fake.pending_polls = 2
    change = person.upsert(record())
    assert (HOST, "CNAME", "") in person.listed()
    assert route53_fake.records(person.zone, served=True) == {}
    for _ in range(2):
        assert person.status(change) == "PENDING"
        assert ask(route53_fake).header.rcode == dnslib.RCODE.NXDOMAIN
    assert person.status(change) == person.status(change) == "INSYNC"
    assert answers(route53_fake) == ["a.test."]
    assert refused(person.status, "C404") == ("NoSuchChange", "Could not find resource with ID: C404")


def test_a_change_may_be_served_at_a_time_of_its_own(route53_fake: Route53Fake, person: Person) -> None:
    now = 1000.0
    route53_fake.clock = lambda: now
    route53_fake.pending_polls, route53_fake.pending_seconds, route53_fake.lag_seconds = 0, 5.0, 30.0
    change = person.upsert(record())
    now += 4.9
    assert person.status(change) == "PENDING"
    now += 0.2
    assert person.status(change) == "INSYNC"
    assert answers(route53_fake) == []
    now += 25
    assert answers(route53_fake) == ["a.test."]
    route53_fake.lag_seconds = None
    person.upsert(record(HOST, "CNAME", "b.test."))
    assert answers(route53_fake) == ["a.test."]
    now += 5
    assert answers(route53_fake) == ["b.test."]


def test_an_earlier_change_does_not_undo_a_later_one(route53_fake: Route53Fake, person: Person) -> None:
    first = person.upsert(record(HOST, "CNAME", "first.test."))
    second = person.upsert(record(HOST, "CNAME", "second.test."))
    for change in (second, second, first, first):
        person.status(change)
    assert answers(route53_fake) == ["second.test."]


# --- access ---------------------------------------------------------------------------------------------------------


def assumed(fake: Route53Fake, external_id: str = "secret-of-theirs", arn: str = ARN, **given: Any) -> Any:
    """A client with a session of the role."""
    sts = fake.client(service="sts")
    answer = sts.assume_role(RoleArn=arn, RoleSessionName="tranche", ExternalId=external_id, **given)
    return fake.client(session=answer["Credentials"])


def test_accounts_do_not_see_each_other(route53_fake: Route53Fake, person: Person) -> None:
    theirs = route53_fake.zone("cust.test", account=THEIRS)
    client = route53_fake.client(THEIRS)
    zones = client.list_hosted_zones_by_name()["HostedZones"]
    assert [zone["Id"] for zone in zones] == [f"/hostedzone/{theirs}"]
    change = person.upsert(record())
    assert refused(client.get_change, Id=change)[0] == "NoSuchChange"
    assert refused(person.upsert, record(), zone=theirs)[0] == "AccessDenied"
    assert refused(client.get_hosted_zone, Id=person.zone)[0] == "AccessDenied"
    assert route53_fake.records(theirs) == {}


def test_a_role_is_assumed_with_its_external_id_only(route53_fake: Route53Fake) -> None:
    route53_fake.role(ARN, "secret-of-theirs", THEIRS)
    zone = route53_fake.zone("cust.test", account=THEIRS)
    code, message = refused(assumed, route53_fake, "guess")
    assert code == "AccessDenied"
    assert message.endswith(f"is not authorized to perform: sts:AssumeRole on resource: {ARN}")
    assert refused(assumed, route53_fake, arn=f"{ARN}-other")[0] == "AccessDenied"
    assert refused(assumed, route53_fake, DurationSeconds=7200)[0] == "ValidationError"
    client = assumed(route53_fake, DurationSeconds=900)
    assert client.get_hosted_zone(Id=zone)["HostedZone"]["Name"] == "cust.test."
    now = time.monotonic() + 901
    route53_fake.clock = lambda: now
    assert refused(client.get_hosted_zone, Id=zone)[0] == "ExpiredToken"


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken"])
def test_sessions_are_revoked(route53_fake: Route53Fake, code: str) -> None:
    route53_fake.role(ARN, "secret-of-theirs", THEIRS)
    zone = route53_fake.zone("cust.test", account=THEIRS)
    client = assumed(route53_fake)
    route53_fake.revoke(THEIRS, code)
    assert refused(client.get_hosted_zone, Id=zone)[0] == code
    assumed(route53_fake).get_hosted_zone(Id=zone)
    route53_fake.revoke(THEIRS, code, trust=True)
    assert refused(assumed, route53_fake)[0] == "AccessDenied"
    route53_fake.restore(THEIRS)
    client.get_hosted_zone(Id=zone)


def test_an_unknown_key_is_refused(route53_fake: Route53Fake, person: Person) -> None:
    del route53_fake.access.principals["test"]
    assert refused(person.listed)[0] == "InvalidClientTokenId"


def test_a_policy_lets_through_what_it_names(route53_fake: Route53Fake) -> None:
    zone, other = (route53_fake.zone(name, account=THEIRS) for name in ("cust.test", "other.test"))
    route53_fake.role(ARN, "secret-of-theirs", THEIRS, Policy.steady(zone, "www.cust.test"))
    client = assumed(route53_fake)

    def change(action: str, fields: dict[str, Any], zone_id: str = zone) -> str:
        batch = {"Changes": [{"Action": action, "ResourceRecordSet": fields}]}
        return str(client.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch=batch)["ChangeInfo"]["Id"])

    beacon = record("_tranche.www.cust.test", "TXT", '"rev=1"')
    client.get_change(Id=change("UPSERT", member("one", 100)))
    change("UPSERT", beacon)
    client.list_resource_record_sets(HostedZoneId=zone)
    for call in (
        lambda: change("DELETE", member("one", 100)),
        lambda: change("UPSERT", record("x.cust.test")),
        lambda: change("UPSERT", record(HOST, "A", "192.0.2.1")),
        lambda: change("UPSERT", record("www.other.test"), other),
        lambda: client.get_hosted_zone(Id=other),
        client.list_hosted_zones_by_name,
        client.list_health_checks,
    ):
        code, message = refused(call)
        assert code == "AccessDenied"
        assert message.startswith(f"User: arn:aws:sts::{THEIRS}:assumed-role/tranche/tranche is not authorized to")
    assert len(route53_fake.records(zone)) == 2


# --- limits and faults ----------------------------------------------------------------------------------------------


def test_calls_are_throttled_for_each_account_by_itself(route53_fake: Route53Fake, person: Person) -> None:
    now = 1000.0
    route53_fake.clock = lambda: now
    for _ in range(50):
        person.listed(MaxItems="1")
    assert refused(person.listed) == ("Throttling", "Rate exceeded")
    route53_fake.client(THEIRS).list_hosted_zones_by_name()
    now += 0.25
    for _ in range(2):
        person.listed()
    assert refused(person.listed)[0] == "Throttling"
    route53_fake.limit(1, 1)
    route53_fake.limit(3, 1, action="GetHostedZone", account=THEIRS)
    person.listed()
    assert refused(person.listed)[0] == "Throttling"


def test_an_action_may_have_a_bucket_of_its_own(route53_fake: Route53Fake) -> None:
    client = route53_fake.client()
    check = client.create_health_check(CallerReference="r", HealthCheckConfig=BEACON_CHECK)["HealthCheck"]["Id"]
    for _ in range(4):
        client.get_health_check_status(HealthCheckId=check)
    assert refused(client.get_health_check_status, HealthCheckId=check)[0] == "Throttling"
    client.get_health_check(HealthCheckId=check)


def test_a_zone_that_is_busy_takes_no_change(route53_fake: Route53Fake, person: Person) -> None:
    other = route53_fake.zone("other.test")
    route53_fake.busy(person.zone, 2)
    for _ in range(2):
        person.upsert(record("www.other.test"), zone=other)
        code, message = refused(person.upsert, record())
        assert code == "PriorRequestNotComplete"
        assert message == "The request was rejected because Route 53 was still processing a prior request."
    person.upsert(record())
    now = 1000.0
    route53_fake.clock = lambda: now
    route53_fake.prior_request_seconds = 2
    person.upsert(record())
    assert refused(person.upsert, record())[0] == "PriorRequestNotComplete"
    now += 2
    person.upsert(record())


NOT_DONE = {
    "throttle": "Throttling",
    "prior_request": "PriorRequestNotComplete",
    "access_denied": "AccessDenied",
    "error_500": "InternalFailure",
    "timeout_before": ReadTimeoutError,
    "reset_before": ConnectionClosedError,
}
DONE = {
    "lost_reply": ConnectionClosedError,
    "timeout_after": ReadTimeoutError,
    "applied_500": "InternalFailure",
    "applied_503": "ServiceUnavailable",
    "garbled": ResponseParserError,
    "half": ResponseParserError,
    "slow": "",
}


@pytest.mark.parametrize(("kind", "outcome"), [*NOT_DONE.items(), *DONE.items()])
def test_a_fault_is_done_or_not_whatever_the_caller_learns(
    route53_fake: Route53Fake, person: Person, kind: Any, outcome: Any
) -> None:
    person.client = route53_fake.client(read_timeout=0.15)
    route53_fake.fail("ChangeResourceRecordSets", kind, seconds=0.05 if kind == "slow" else 0.3)
    person.listed()
    if not outcome:
        person.upsert(record())
    elif isinstance(outcome, str):
        assert refused(person.upsert, record())[0] == outcome
    else:
        with pytest.raises(outcome):
            person.upsert(record())
    assert (HOST, "CNAME", "") in route53_fake.records(person.zone) or kind in NOT_DONE
    assert route53_fake.calls[-1].accepted is (kind in DONE)
    assert route53_fake.calls[-1].fault == kind
    person.client = route53_fake.client()
    if kind == "slow":
        time.sleep(0.05)
    person.upsert(record("after.cust.test"))


def test_faults_choose_their_calls(route53_fake: Route53Fake, person: Person) -> None:
    other = route53_fake.zone("other.test")
    route53_fake.fail("*", "access_denied", times=2, when=lambda asked: asked.zone_id == other)
    person.upsert(record())
    for _ in range(2):
        assert refused(person.upsert, record("www.other.test"), zone=other)[0] == "AccessDenied"
    person.upsert(record("www.other.test"), zone=other)
    route53_fake.fail("AssumeRole", "error_500", times=9)
    route53_fake.role(ARN, "secret-of-theirs", THEIRS)
    assert refused(assumed, route53_fake)[0] == "InternalFailure"
    route53_fake.recover()
    assumed(route53_fake)
    with pytest.raises(ValueError, match="none of the faults"):
        route53_fake.fail("*", "anything")  # type: ignore[arg-type]


def test_every_call_is_written_down(
    route53_fake: Route53Fake, person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    person.upsert(record(), record("b.cust.test"))
    route53_fake.fail("ChangeResourceRecordSets", "lost_reply")
    with pytest.raises(ConnectionClosedError):
        person.upsert(record())
    refused(person.status, "C404")
    told = [
        (call.account, call.action, call.zone_id, call.changes, call.accepted, call.error)
        for call in route53_fake.calls
    ]
    assert told == [
        ("default", "ChangeResourceRecordSets", person.zone, 2, True, ""),
        ("default", "ChangeResourceRecordSets", person.zone, 1, True, ""),
        ("default", "GetChange", "", 0, False, "NoSuchChange"),
    ]
    assert re.sub(r"\d\.\d{3}", "N", route53_fake.log()).splitlines() == [
        f"    N s  default ChangeResourceRecordSets {person.zone} 2 changes accepted",
        f"    N s  default ChangeResourceRecordSets {person.zone} 1 changes accepted (lost_reply)",
        "    N s  default GetChange NoSuchChange",
    ]
    assert "lost_reply" in capsys.readouterr().out


# --- protections ----------------------------------------------------------------------------------------------------


def test_a_protected_record_set_stops_the_whole_batch(route53_fake: Route53Fake, person: Person) -> None:
    protections = [{"RecordName": "www.cust.test", "RecordType": "CNAME", "Comment": "ask Ada first"}]
    person.client.create_resource_record_set_protections(HostedZoneId=person.zone, Protections=protections)
    listed = person.client.list_resource_record_set_protections(HostedZoneId=person.zone)
    assert listed["ResourceRecordSetProtections"] == [protections[0] | {"RecordName": HOST}]
    code, message = refused(person.upsert, record("b.cust.test"), record())
    assert (code, "ask Ada first" in message) == ("InvalidChangeBatch", True)
    assert route53_fake.records(person.zone) == {}
    keys = [{"RecordName": HOST, "RecordType": "CNAME"}]
    person.client.delete_resource_record_set_protections(HostedZoneId=person.zone, Protections=keys)
    person.upsert(record())
    route53_fake.protect(person.zone, HOST, "CNAME", "no")
    assert refused(person.upsert, record())[0] == "InvalidChangeBatch"
    route53_fake.unprotect(person.zone, HOST, "CNAME")


def test_protections_are_made_and_lifted_all_or_none(person: Person) -> None:
    client = person.client
    www, b = {"RecordName": "www.cust.test", "RecordType": "CNAME"}, {"RecordName": "b.cust.test", "RecordType": "A"}

    def create(*entries: dict[str, str]) -> None:
        client.create_resource_record_set_protections(HostedZoneId=person.zone, Protections=list(entries))

    def delete(*entries: dict[str, str]) -> None:
        client.delete_resource_record_set_protections(HostedZoneId=person.zone, Protections=list(entries))

    def listed(**given: str) -> list[str]:
        page = client.list_resource_record_set_protections(HostedZoneId=person.zone, **given)
        return [entry["RecordName"] for entry in page["ResourceRecordSetProtections"]]

    create(www)
    batch = "InvalidResourceRecordSetProtectionBatch"
    assert refused(create, www)[0] == "ProtectionAlreadyExists"
    assert refused(create, www, b)[0] == batch
    assert refused(create, b, b)[0] == batch
    assert refused(create, b | {"RecordName": "www.other.test"})[0] == batch
    assert refused(delete, www, b)[0] == batch
    assert refused(create, *([b] * 101))[0] == "InvalidInput"
    create(b, b | {"RecordType": "TXT"})
    assert listed() == ["b.cust.test.", "b.cust.test.", HOST]
    page = client.list_resource_record_set_protections(HostedZoneId=person.zone, MaxResults="2")
    assert listed(NextToken=page["NextToken"]) == [HOST]
    assert refused(listed, NextToken="mine")[0] == "InvalidPaginationToken"
    assert listed(StartRecordName="c.cust.test") == [HOST]


# --- health checks --------------------------------------------------------------------------------------------------

BEACON_CHECK = {
    "Type": "HTTPS",
    "FullyQualifiedDomainName": "beacon.tranche.test",
    "ResourcePath": "/b/1",
    "RequestInterval": 10,
    "FailureThreshold": 3,
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RequestInterval": 20}, "RequestInterval must be 10 or 30"),
        ({"FailureThreshold": 11}, "FailureThreshold"),
        ({"Type": "HTTPS_STR_MATCH"}, "must have SearchString"),
        ({"SearchString": "ok"}, "must not have SearchString"),
        ({"FullyQualifiedDomainName": ""}, "Either IPAddress or FullyQualifiedDomainName"),
        ({"IPAddress": "10.0.0.1"}, "not an address on the internet"),
        ({"Regions": ["us-east-1"] * 3}, "Regions must not be repeated"),
        ({"Regions": ["us-east-1", "us-west-1", "mars-1"]}, "mars-1"),
        ({"ResourcePath": "b"}, "must begin with a slash"),
        ({"Type": "CALCULATED"}, "must not have Port|must not have ResourcePath"),
        ({"AlarmIdentifier": {"Region": "us-east-1", "Name": "n"}}, "must not have an metric region specified"),
    ],
)
def test_settings_of_a_health_check_are_checked(
    route53_fake: Route53Fake, changed: dict[str, Any], message: str
) -> None:
    create = route53_fake.client().create_health_check
    code, explained = refused(create, CallerReference="r", HealthCheckConfig=BEACON_CHECK | changed)
    assert code == "InvalidInput"
    assert re.search(message, explained)


def test_a_health_check_is_made_once_for_each_reference(route53_fake: Route53Fake) -> None:
    client = route53_fake.client()

    def create(reference: str, **changed: Any) -> Any:
        return client.create_health_check(CallerReference=reference, HealthCheckConfig=BEACON_CHECK | changed)

    made = create("one")["HealthCheck"]
    assert made["HealthCheckConfig"] == BEACON_CHECK | {
        "Port": 443,
        "MeasureLatency": False,
        "Inverted": False,
        "Disabled": False,
        "EnableSNI": True,
    }
    assert create("one")["HealthCheck"] == made
    assert refused(create, "one", Inverted=True)[0] == "HealthCheckAlreadyExists"
    other = create("two", Type="HTTPS_STR_MATCH", SearchString="all is well", Inverted=True)["HealthCheck"]
    assert other["HealthCheckConfig"]["Inverted"]
    page = client.list_health_checks(MaxItems="1")
    rest = client.list_health_checks(Marker=page["NextMarker"])
    assert {check["Id"] for check in page["HealthChecks"] + rest["HealthChecks"]} == {made["Id"], other["Id"]}
    update = client.update_health_check
    updated = update(HealthCheckId=made["Id"], HealthCheckVersion=1, Inverted=True)["HealthCheck"]
    assert (updated["HealthCheckVersion"], updated["HealthCheckConfig"]["Inverted"]) == (2, True)
    assert refused(update, HealthCheckId=made["Id"], HealthCheckVersion=1)[0] == "HealthCheckVersionMismatch"
    theirs = route53_fake.client(THEIRS)
    assert refused(theirs.get_health_check, HealthCheckId=made["Id"])[0] == "NoSuchHealthCheck"
    client.delete_health_check(HealthCheckId=made["Id"])
    assert refused(client.get_health_check, HealthCheckId=made["Id"])[0] == "NoSuchHealthCheck"
    assert refused(create, "one")[0] == "HealthCheckAlreadyExists"


# --- DNS ------------------------------------------------------------------------------------------------------------


def test_answers_are_authoritative_and_complete(route53_fake: Route53Fake, person: Person) -> None:
    put = route53_fake.put
    put(person.zone, "a.b.cust.test", "A", "192.0.2.1", "192.0.2.2", ttl=30)
    put(person.zone, "_tranche.www.cust.test", "TXT", '"rev=" "7"', ttl=30)
    put(person.zone, "*.wild.cust.test", "CNAME", "a.b.cust.test", ttl=30)
    put(person.zone, "sub.cust.test", "NS", "ns.sub.test.")
    put(person.zone, "mail.cust.test", "MX", "10 mx.test.")
    put(person.zone, "mail.cust.test", "AAAA", "2001:db8::1")
    assert answers(route53_fake, "a.b.cust.test", "A") == ["192.0.2.1", "192.0.2.2"]
    assert answers(route53_fake, "_tranche.WWW.cust.test", "TXT") == ['"rev=","7"']
    assert answers(route53_fake, "x.wild.cust.test", "A") == ["a.b.cust.test.", "192.0.2.1", "192.0.2.2"]
    assert answers(route53_fake, "mail.cust.test", "MX") == ["10 mx.test."]
    assert answers(route53_fake, "mail.cust.test", "AAAA") == ["2001:db8::1"]
    found = ask(route53_fake, "a.b.cust.test", "A")
    assert (found.header.aa, found.rr[0].ttl, found.header.rcode) == (1, 30, 0)
    for name, rcode in (
        ("b.cust.test", "NOERROR"),
        ("a.b.cust.test", "NOERROR"),
        ("none.cust.test", "NXDOMAIN"),
        ("x.a.b.cust.test", "NXDOMAIN"),
        ("cust.test", "NOERROR"),
    ):
        empty = ask(route53_fake, name, "SRV")
        assert (empty.header.aa, dnslib.RCODE[empty.header.rcode], empty.rr) == (1, rcode, [])
        assert (str(empty.auth[0].rname), empty.auth[0].rtype, empty.auth[0].ttl) == (
            "cust.test.",
            dnslib.QTYPE.SOA,
            900,
        )
    referral = ask(route53_fake, "deep.sub.cust.test", "A")
    assert (referral.header.aa, referral.rr, str(referral.auth[0].rdata)) == (0, [], "ns.sub.test.")
    assert ask(route53_fake, "www.evilcust.test").header.rcode == dnslib.RCODE.REFUSED


def test_what_does_not_fit_is_cut_and_comes_over_tcp(route53_fake: Route53Fake, person: Person) -> None:
    route53_fake.put(person.zone, HOST, "TXT", *(f'"{number:200}"' for number in range(4)))
    cut = ask(route53_fake, HOST, "TXT")
    assert (cut.header.tc, cut.rr) == (1, [])
    assert len(ask(route53_fake, HOST, "TXT", tcp=True).rr) == 4
    question = dnslib.DNSRecord.question(HOST, "TXT")
    question.add_ar(dnslib.EDNS0(udp_len=1232))
    whole = dnslib.DNSRecord.parse(question.send(*route53_fake.dns_address, timeout=2))
    assert (whole.header.tc, len(whole.rr), len(whole.ar)) == (0, 4, 1)


def test_nonsense_is_survived(route53_fake: Route53Fake, person: Person) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(2)
        udp.connect(route53_fake.dns_address)
        for data in (b"x", b"\0" * 11, b"\0" * 17, b"\0\1\0\0\0\1" + b"\0" * 6 + b"\xc0\x0c\0\0\1\0\1"):
            udp.send(data)
        udp.send(b"\0\1\0\0\0\1\0\0\0\0\0\0\x09cust\0\0\1\0\1")
        assert [udp.recv(512)[3] for _ in range(3)] == [dnslib.RCODE.FORMERR] * 3
    assert answers(route53_fake, "cust.test", "NS")


def test_weights_share_the_answers(route53_fake: Route53Fake, person: Person) -> None:
    def weigh(one: int, two: int) -> Counter[str]:
        person.upsert(member("one", one, "one.test."), member("two", two, "two.test."))
        route53_fake.settle()
        return shares(route53_fake)

    assert weigh(100, 0) == {"one.test.": 400}
    assert weigh(0, 255) == {"two.test.": 400}
    assert 260 < weigh(150, 50)["one.test."] < 340
    assert 160 < weigh(0, 0)["one.test."] < 240


def test_health_decides_among_members_with_weights_then_among_those_without(
    route53_fake: Route53Fake, person: Person
) -> None:
    def check(reference: str, **changed: Any) -> str:
        config = BEACON_CHECK | changed
        made = person.client.create_health_check(CallerReference=reference, HealthCheckConfig=config)
        return str(made["HealthCheck"]["Id"])

    primary, backup, beacon = check("primary"), check("backup"), check("beacon", Inverted=True)
    person.upsert(
        member("primary", 100, "primary.test.", HealthCheckId=primary),
        member("backup", 0, "backup.test.", HealthCheckId=backup),
    )
    route53_fake.settle()
    up = route53_fake.endpoint_up
    assert shares(route53_fake, 50) == {"primary.test.": 50}
    up[primary] = False
    assert shares(route53_fake, 50) == {"backup.test.": 50}
    up[backup] = False
    assert shares(route53_fake, 50) == {"primary.test.": 50}  # all are unhealthy, so all are healthy
    up[primary] = True
    assert shares(route53_fake, 50) == {"primary.test.": 50}
    person.upsert(member("primary", 100, "primary.test.", HealthCheckId=beacon))
    route53_fake.settle()
    up[backup] = True
    assert shares(route53_fake, 50) == {"backup.test.": 50}  # inverted: a beacon that is up says unhealthy
    up[beacon] = False
    assert shares(route53_fake, 50) == {"primary.test.": 50}
    status = person.client.get_health_check_status(HealthCheckId=beacon)["HealthCheckObservations"]
    assert status[0]["StatusReport"]["Status"].startswith("Failure")
    both = {"Type": "CALCULATED", "ChildHealthChecks": [primary, backup], "HealthThreshold": 2}
    calculated = person.client.create_health_check(CallerReference="both", HealthCheckConfig=both)["HealthCheck"]["Id"]
    assert route53_fake.health.is_healthy(calculated)
    up[primary] = False
    assert not route53_fake.health.is_healthy(calculated)
    person.client.update_health_check(HealthCheckId=primary, Disabled=True)
    assert route53_fake.health.is_healthy(primary)


def test_an_answer_can_be_asked_for_over_the_api(route53_fake: Route53Fake, person: Person) -> None:
    route53_fake.put(person.zone, HOST, "CNAME", "a.test.")
    test = person.client.test_dns_answer
    found = test(HostedZoneId=person.zone, RecordName="www.cust.test", RecordType="CNAME")
    assert (found["RecordData"], found["ResponseCode"]) == (["a.test."], "NOERROR")
    assert test(HostedZoneId=person.zone, RecordName="x.cust.test", RecordType="A")["ResponseCode"] == "NXDOMAIN"
    private = route53_fake.zone("cust.test", private=True)
    assert refused(test, HostedZoneId=private, RecordName=HOST, RecordType="A")[0] == "InvalidInput"


def test_large_zones_are_quick(route53_fake: Route53Fake, person: Person) -> None:
    """Bounds several times above what it takes, for machines that are busy."""
    for number in range(300):
        for identifier, weight in (("one", 100), ("two", 0)):
            name = f"h{number}.cust.test"
            route53_fake.put(person.zone, name, "CNAME", "a.test.", SetIdentifier=identifier, Weight=weight)
    batch = [
        member(identifier, weight, Name=f"h{number}.cust.test", TTL=300)
        for number in range(150)
        for identifier, weight in (("one", 0), ("two", 100))
    ]
    started = time.monotonic()
    person.upsert(*batch)
    assert time.monotonic() - started < 0.5
    question = bytes(dnslib.DNSRecord.question("h7.cust.test", "CNAME").pack())
    started = time.monotonic()
    for _ in range(5000):
        route53_fake.nameserver.answer(question)
    assert time.monotonic() - started < 0.5
