"""Route 53: over the wire against moto, and against botocore's Stubber where moto is laxer than Amazon."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from dns.providers import route53
from dns.providers.contract import Member, ProviderError, WeightedSet, Zone
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


def test_a_zone_that_only_looks_alike_is_not_found(amazon: Amazon, provider: Route53Provider) -> None:
    amazon.zone("cust.test")
    error = refused(provider.find_zone, "www.evilcust.test")
    assert error.permanent
    assert str(error) == (
        "www.evilcust.test: this account has none of the public zones www.evilcust.test, evilcust.test"
    )


def test_a_private_zone_is_not_found(amazon: Amazon, provider: Route53Provider) -> None:
    amazon.zone("cust.test", private=True)
    assert refused(provider.find_zone, HOSTNAME).permanent
    public = amazon.zone("cust.test")
    assert provider.find_zone(HOSTNAME) == public


def test_several_zones_of_one_name_are_refused(amazon: Amazon, provider: Route53Provider) -> None:
    zones = [amazon.zone("cust.test"), amazon.zone("cust.test")]
    error = refused(provider.find_zone, HOSTNAME)
    assert error.permanent
    assert "several public zones named cust.test" in str(error)
    assert all(zone.id in str(error) for zone in zones)


# --- writing --------------------------------------------------------------------------------------------------------


def test_all_members_and_the_beacon_are_written(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    receipt = provider.apply(wanted(zone))
    assert amazon.records(zone) == {
        ("www.cust.test.", "CNAME", f"{MARK}primary"): (100, 30, "a.cdn.test."),
        ("www.cust.test.", "CNAME", f"{MARK}backup-1"): (0, 30, "b.cdn.test."),
        ("_tranche.www.cust.test.", "TXT", ""): (None, 30, '"rev=7"'),
    }
    assert receipt.change_id
    assert set(receipt.details) == {"status", "submitted_at"}


def test_a_repeat_changes_nothing_and_a_new_plan_changes_weights(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    provider.apply(wanted(zone))
    before = amazon.records(zone)
    provider.apply(wanted(zone))
    assert amazon.records(zone) == before
    members = Member("primary", "a.cdn.test", 0), Member("backup-1", "b.cdn.test", 100)
    provider.apply(wanted(zone, *members, generation=8))
    assert [(weight, value) for weight, _, value in amazon.records(zone).values()] == [
        (0, "a.cdn.test."),
        (100, "b.cdn.test."),
        (None, '"rev=8"'),
    ]


def test_a_former_member_stays_at_weight_0(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    provider.apply(wanted(zone, Member("primary", "a.cdn.test", 50), Member("backup-1", "b.cdn.test", 50)))
    provider.apply(wanted(zone, Member("primary", "a.cdn.test", 100), generation=8))
    assert amazon.records(zone)["www.cust.test.", "CNAME", f"{MARK}backup-1"] == (0, 30, "b.cdn.test.")


def test_other_names_are_left_alone(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    amazon.put(zone, "aaa.cust.test", "A", "192.0.2.1")
    amazon.put(zone, "x.www.cust.test", "A", "192.0.2.2")
    provider.apply(wanted(zone))
    assert len(amazon.records(zone)) == 5


@pytest.mark.parametrize(
    ("qtype", "value", "more"),
    [
        ("CNAME", "a.cdn.test.", {}),
        ("A", "192.0.2.1", {}),
        ("TXT", '"text"', {}),
        ("CNAME", "a.cdn.test.", {"SetIdentifier": "terraform-a", "Weight": 10}),
        ("CNAME", "a.cdn.test.", {"SetIdentifier": "tranche:000000000000:primary", "Weight": 10}),
        ("CNAME", "a.cdn.test.", {"SetIdentifier": f"{MARK}primary", "Region": "eu-west-1"}),
    ],
)
def test_a_foreign_record_is_refused_and_kept(
    amazon: Amazon, provider: Route53Provider, qtype: str, value: str, more: dict[str, Any]
) -> None:
    zone = amazon.zone("cust.test")
    amazon.put(zone, HOSTNAME, qtype, value, **more)
    before = amazon.records(zone)
    error = refused(provider.apply, wanted(zone))
    assert error.permanent
    assert str(error).startswith(f"foreign record: www.cust.test {qtype}")
    assert amazon.records(zone) == before


def test_foreign_text_at_the_beacons_name_is_refused(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    amazon.put(zone, f"_tranche.{HOSTNAME}", "TXT", '"somebody else"')
    assert "foreign record: _tranche.www.cust.test TXT" in str(refused(provider.apply, wanted(zone)))


def test_the_apex_is_refused(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    error = refused(provider.apply, wanted(zone, hostname="cust.test"))
    assert (str(error), error.permanent) == ("cust.test is the zone's apex, where no CNAME may stand", True)
    assert amazon.records(zone) == {}


def test_an_address_is_no_target_of_a_cname(amazon: Amazon) -> None:
    with pytest.raises(ValueError, match="not a hostname"):
        wanted(amazon.zone("cust.test"), Member("primary", "192.0.2.1", 100))


def test_a_missing_zone_is_for_a_person_to_mend(provider: Route53Provider) -> None:
    error = refused(provider.apply, wanted(Zone("cust.test", "ZNONE")))
    assert error.permanent
    assert "NoSuchHostedZone" in str(error)


# --- adopting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("qtype", "value"), [("CNAME", "old.cdn.test."), ("A", "192.0.2.1")])
def test_a_simple_record_is_adopted(amazon: Amazon, provider: Route53Provider, qtype: str, value: str) -> None:
    zone = amazon.zone("cust.test")
    amazon.put(zone, HOSTNAME, qtype, value)
    provider.adopt(wanted(zone))
    assert {key[2] for key in amazon.records(zone)} == {f"{MARK}primary", f"{MARK}backup-1", ""}
    assert (f"{HOSTNAME}.", qtype, "") not in amazon.records(zone)
    provider.apply(wanted(zone, generation=8))


def test_nothing_else_is_adopted(amazon: Amazon, provider: Route53Provider) -> None:
    zone = amazon.zone("cust.test")
    assert "has no record to adopt" in str(refused(provider.adopt, wanted(zone)))
    amazon.put(zone, HOSTNAME, "A", "192.0.2.1")
    amazon.put(zone, HOSTNAME, "MX", "10 mail.cust.test.")
    assert "MX 10 mail.cust.test. is not a simple A, AAAA or CNAME" in str(refused(provider.adopt, wanted(zone)))
    assert len(amazon.records(zone)) == 2
    other = amazon.zone("other.test")
    amazon.put(other, "www.other.test", "CNAME", "a.test.", SetIdentifier="terraform", Weight=1)
    assert refused(provider.adopt, wanted(other, hostname="www.other.test")).permanent


# --- access ---------------------------------------------------------------------------------------------------------


def test_a_role_reaches_its_own_account_only(amazon: Amazon) -> None:
    theirs = {"role_arn": "arn:aws:iam::222222222222:role/tranche", "external_id": "x" * 8, "endpoint_url": amazon.url}
    zone = amazon.zone("cust.test")
    assert Route53Provider({"endpoint_url": amazon.url}).find_zone(HOSTNAME) == zone
    assert refused(Route53Provider(theirs).find_zone, HOSTNAME).permanent


def test_a_role_is_assumed_once_for_many_calls(amazon: Amazon) -> None:
    options = {"role_arn": "arn:aws:iam::333333333333:role/tranche", "external_id": "y" * 8, "endpoint_url": amazon.url}
    access = route53._Access.of(options)
    assert route53._client(access) is route53._client(access)
    route53._clients[access] = 0.0, None
    assert route53._client(access) is not None


def test_a_role_without_an_external_id_is_refused() -> None:
    error = refused(Route53Provider({"role_arn": "arn:aws:iam::222222222222:role/tranche"}).find_zone, HOSTNAME)
    assert (str(error), error.permanent) == ("the account has a role_arn without an external_id", True)


# --- what moto can't do ---------------------------------------------------------------------------------------------

CUST = Zone("cust.test", "Z1")
FIRST_PAGE = {"HostedZoneId": "Z1", "MaxItems": "100", "StartRecordName": "www.cust.test."}
EMPTY_PAGE = {"ResourceRecordSets": [], "IsTruncated": False, "MaxItems": "100"}


@pytest.fixture
def stub() -> Iterator[Stubber]:
    with Stubber(boto3.client("route53")) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def stubbed(stub: Stubber) -> Route53Provider:
    return Route53Provider({}, client=stub.client)


@pytest.mark.parametrize(
    ("code", "status", "permanent"),
    [
        ("Throttling", 400, False),
        ("PriorRequestNotComplete", 400, False),
        ("ServiceUnavailable", 503, False),
        ("Whatever", 500, False),
        ("ExpiredToken", 403, False),
        ("InvalidChangeBatch", 400, True),
        ("InvalidInput", 400, True),
        ("AccessDenied", 403, True),
        ("NoSuchHostedZone", 404, True),
    ],
)
def test_what_amazon_refuses_is_permanent_or_not(stub: Stubber, code: str, status: int, permanent: bool) -> None:
    stub.add_response("list_resource_record_sets", EMPTY_PAGE, FIRST_PAGE)
    stub.add_client_error("change_resource_record_sets", code, "in Amazon's words", http_status_code=status)
    error = refused(stubbed(stub).apply, wanted(CUST))
    assert error.permanent is permanent
    assert str(error) == f"Route 53 ChangeResourceRecordSets: {code}: in Amazon's words"


def test_a_timeout_may_be_tried_again(stub: Stubber, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**kw: Any) -> None:
        raise ReadTimeoutError(endpoint_url="https://route53.amazonaws.com")

    monkeypatch.setattr(stub.client, "list_resource_record_sets", time_out)
    assert not refused(stubbed(stub).apply, wanted(CUST)).permanent


def test_nobody_listening_may_be_tried_again() -> None:
    provider = Route53Provider({"endpoint_url": "http://127.0.0.1:9"})
    assert not refused(provider.find_zone, HOSTNAME).permanent


def test_the_batch_is_one_in_order_and_says_its_revision(stub: Stubber) -> None:
    simple = {"Name": "www.cust.test.", "Type": "CNAME", "TTL": 300, "ResourceRecords": [{"Value": "old.test."}]}
    page = EMPTY_PAGE | {"ResourceRecordSets": [simple]}
    members = [
        {
            "Name": "www.cust.test.",
            "Type": "CNAME",
            "SetIdentifier": f"{MARK}{key}",
            "Weight": weight,
            "TTL": 30,
            "ResourceRecords": [{"Value": target}],
        }
        for key, weight, target in (("primary", 100, "a.cdn.test."), ("backup-1", 0, "b.cdn.test."))
    ]
    beacon = {"Name": "_tranche.www.cust.test.", "Type": "TXT", "TTL": 30, "ResourceRecords": [{"Value": '"rev=7"'}]}
    changes = [
        {"Action": "DELETE", "ResourceRecordSet": simple},
        *({"Action": "CREATE", "ResourceRecordSet": member} for member in members),
        {"Action": "UPSERT", "ResourceRecordSet": beacon},
    ]
    info = {"Id": "/change/C1", "Status": "PENDING", "SubmittedAt": datetime(2026, 11, 23, 12, tzinfo=UTC)}
    stub.add_response("list_resource_record_sets", page, FIRST_PAGE)
    stub.add_response(
        "change_resource_record_sets",
        {"ChangeInfo": info},
        {"HostedZoneId": "Z1", "ChangeBatch": {"Comment": "tranche rev=7", "Changes": changes}},
    )
    receipt = stubbed(stub).adopt(wanted(CUST))
    assert receipt.change_id == "C1"
    assert receipt.details == {"status": "PENDING", "submitted_at": "2026-11-23T12:00:00+00:00"}


def test_a_set_cut_by_a_page_is_read_to_its_end(stub: Stubber) -> None:
    def member(identifier: str) -> dict[str, Any]:
        return {
            "Name": "www.cust.test.",
            "Type": "CNAME",
            "SetIdentifier": identifier,
            "Weight": 0,
            "TTL": 30,
            "ResourceRecords": [{"Value": "a.test."}],
        }

    following = {"RecordName": "www.cust.test.", "RecordType": "CNAME", "RecordIdentifier": "terraform"}
    first = EMPTY_PAGE | {"ResourceRecordSets": [member(f"{MARK}primary")], "IsTruncated": True}
    first |= {f"Next{key}": value for key, value in following.items()}
    stub.add_response("list_resource_record_sets", first, FIRST_PAGE)
    stub.add_response(
        "list_resource_record_sets",
        EMPTY_PAGE | {"ResourceRecordSets": [member("terraform")]},
        FIRST_PAGE | {f"Start{key}": value for key, value in following.items()},
    )
    assert "foreign record: www.cust.test CNAME “terraform”" in str(refused(stubbed(stub).apply, wanted(CUST)))


def test_pages_without_end_are_given_up(stub: Stubber) -> None:
    endless = EMPTY_PAGE | {"IsTruncated": True, "NextRecordName": "www.cust.test.", "NextRecordType": "CNAME"}
    stub.add_response("list_resource_record_sets", endless, FIRST_PAGE)
    for _ in range(4):
        stub.add_response("list_resource_record_sets", endless, FIRST_PAGE | {"StartRecordType": "CNAME"})
    assert refused(stubbed(stub).apply, wanted(CUST)).permanent


def test_neighbours_that_the_listing_goes_on_to_are_not_the_zone(stub: Stubber) -> None:
    def page(*zones: tuple[str, str]) -> dict[str, Any]:
        listed = [{"Id": f"/hostedzone/{zid}", "Name": name, "CallerReference": "r"} for name, zid in zones]
        return {"HostedZones": listed, "IsTruncated": True, "MaxItems": "100"}

    stub.add_response("list_hosted_zones_by_name", page(("x.www.cust.test.", "Z9")))
    stub.add_response("list_hosted_zones_by_name", page(("cust.test.", "Z1"), ("evilcust.test.", "Z2")))
    assert stubbed(stub).find_zone(HOSTNAME) == CUST
