"""Route 53 over the wire against moto: that calls arrive and answers are read. What Amazon refuses is in test_route53_strict."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from dns.providers.contract import Member, ProviderError, Trouble, WeightedSet, Zone
from dns.providers.route53 import Route53Provider

HOSTNAME = "www.cust.test"
MARK = "tranche:fd462c9d269f:"


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Amazon:
    """An account in moto: what the tests put into it, and what they find there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = boto3.client("route53", endpoint_url=url)

    def zone(self, name: str, *, private: bool = False) -> Zone:
        vpc: dict[str, Any] = {}
        if private:  # moto goes by the flag, Amazon by the VPC
            vpc = {
                "VPC": {"VPCRegion": "us-east-1", "VPCId": "vpc-1"},
                "HostedZoneConfig": {"PrivateZone": True},
            }
        reference = f"{name}-{datetime.now(UTC)}"
        made = self.client.create_hosted_zone(Name=name, CallerReference=reference, **vpc)
        return Zone(name, made["HostedZone"]["Id"].removeprefix("/hostedzone/"))

    def put(self, zone: Zone, name: str, qtype: str, *values: str, **kw: Any) -> None:
        records = [{"Value": value} for value in values]
        record_set = {"Name": f"{name}.", "Type": qtype, "TTL": 300, "ResourceRecords": records} | kw
        batch = {"Changes": [{"Action": "CREATE", "ResourceRecordSet": record_set}]}
        self.client.change_resource_record_sets(HostedZoneId=zone.id, ChangeBatch=batch)

    def records(self, zone: Zone) -> dict[tuple[str, str, str], tuple[int | None, int, str]]:
        """By name, type and identifier: weight, TTL and value; without the zone's own SOA and NS."""
        listed = self.client.list_resource_record_sets(HostedZoneId=zone.id)["ResourceRecordSets"]
        return {
            (r["Name"], r["Type"], r.get("SetIdentifier", "")): (
                r.get("Weight"),
                r["TTL"],
                " ".join(value["Value"] for value in r["ResourceRecords"]),
            )
            for r in listed
            if r["Type"] not in ("SOA", "NS")
        }


@pytest.fixture
def amazon(moto_url: str) -> Amazon:
    httpx.post(f"{moto_url}/moto-api/reset", trust_env=False).raise_for_status()
    return Amazon(moto_url)


@pytest.fixture
def provider(amazon: Amazon) -> Route53Provider:
    return Route53Provider({"endpoint_url": amazon.url})


def wanted(zone: Zone, *members: Member, generation: int = 7, hostname: str = HOSTNAME) -> WeightedSet:
    members = members or (Member("primary", "a.cdn.test", 100), Member("backup-1", "b.cdn.test", 0))
    return WeightedSet(hostname, zone.name, zone.id, ttl_seconds=30, generation=generation, members=members)


def refused(call: Any, *args: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(*args)
    return caught.value


# --- zones ----------------------------------------------------------------------------------------------------------


def test_the_zone_with_the_longest_suffix_is_found(amazon: Amazon, provider: Route53Provider) -> None:
    parent, child = amazon.zone("cust.test"), amazon.zone("app.cust.test")
    assert provider.find_zone("www.app.cust.test") == child
    assert provider.find_zone("www.cust.test") == parent
    assert provider.find_zone("wwwapp.cust.test") == parent


def test_a_private_zone_is_not_found(amazon: Amazon, provider: Route53Provider) -> None:
    amazon.zone("cust.test", private=True)
    assert refused(provider.find_zone, HOSTNAME).permanent
    public = amazon.zone("cust.test")
    assert provider.find_zone(HOSTNAME) == public


def test_several_zones_of_one_name_are_refused(amazon: Amazon, provider: Route53Provider) -> None:
    zones = [amazon.zone("cust.test"), amazon.zone("cust.test")]
    error = refused(provider.find_zone, HOSTNAME)
    assert error.permanent
    assert error.trouble == Trouble.ZONE
    assert "several public zones named cust.test" in str(error)
    assert all(zone.id in str(error) for zone in zones)


# --- records --------------------------------------------------------------------------------------------------------


def test_all_members_and_the_beacon_are_written(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    receipt = provider.apply([wanted(zone)])
    assert amazon.records(zone) == {
        ("www.cust.test.", "CNAME", f"{MARK}primary"): (100, 30, "a.cdn.test."),
        ("www.cust.test.", "CNAME", f"{MARK}backup-1"): (0, 30, "b.cdn.test."),
        ("_tranche.www.cust.test.", "TXT", ""): (None, 30, '"rev=7"'),
    }
    assert receipt.change_id
    assert set(receipt.details) == {"status", "submitted_at", "names"}
    assert provider.is_live({"change_id": receipt.change_id, **receipt.details})


def test_a_repeat_changes_nothing_and_a_new_plan_changes_weights(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    provider.apply([wanted(zone)])
    before = amazon.records(zone)
    provider.apply([wanted(zone)])
    assert amazon.records(zone) == before
    members = Member("primary", "a.cdn.test", 0), Member("backup-1", "b.cdn.test", 100)
    new = wanted(zone, *members, generation=8)
    provider.apply([new])
    assert [(weight, value) for weight, _, value in amazon.records(zone).values()] == [
        (0, "a.cdn.test."),
        (100, "b.cdn.test."),
        (None, '"rev=8"'),
    ]
    assert provider.read(zone, [HOSTNAME])[HOSTNAME].difference(new) == ""


def test_other_names_are_left_alone(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    amazon.put(zone, "aaa.cust.test", "A", "192.0.2.1")
    amazon.put(zone, "x.www.cust.test", "A", "192.0.2.2")
    provider.apply([wanted(zone)])
    assert len(amazon.records(zone)) == 5


@pytest.mark.parametrize(("qtype", "value"), [("CNAME", "old.cdn.test."), ("A", "192.0.2.1")])
def test_a_simple_record_is_adopted(amazon: Amazon, provider: Route53Provider, qtype: str, value: str) -> None:
    zone = amazon.zone("cust.test")
    amazon.put(zone, HOSTNAME, qtype, value)
    provider.adopt(wanted(zone))
    assert {key[2] for key in amazon.records(zone)} == {f"{MARK}primary", f"{MARK}backup-1", ""}
    assert (f"{HOSTNAME}.", qtype, "") not in amazon.records(zone)
    provider.apply([wanted(zone, generation=8)])


# --- access ---------------------------------------------------------------------------------------------------------


def test_a_role_reaches_its_own_account_only(amazon: Amazon) -> None:
    theirs = {"role_arn": "arn:aws:iam::222222222222:role/tranche", "external_id": "x" * 8, "endpoint_url": amazon.url}
    zone = amazon.zone("cust.test")
    assert Route53Provider({"endpoint_url": amazon.url}).find_zone(HOSTNAME) == zone
    assert refused(Route53Provider(theirs).find_zone, HOSTNAME).permanent
