"""Route 53 against a fake that refuses what Amazon refuses, answers late, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from dns.providers.contract import Check, Member, ProviderError, Standing, Trouble, WeightedSet, Zone
from dns.providers.route53 import Route53Provider, clients, refusals
from tests.route53_fake import Policy, Route53Fake, route53_fake_fixture
from tests.route53_fake.access import Access

__all__ = ["route53_fake_fixture"]

HOSTNAME = "www.cust.test"
MARK = "tranche:fd462c9d269f:"
PRIMARY, BACKUP = Member("primary", "a.cdn.test", 100), Member("backup-1", "b.cdn.test", 0)
ROLE = "arn:aws:iam::222222222222:role/tranche"
WRITE = "ChangeResourceRecordSets"


@pytest.fixture(autouse=True)
def _no_client_of_another_test() -> None:
    clients._held.clear()


@pytest.fixture
def zone(route53_fake: Route53Fake) -> Zone:
    return Zone("cust.test", route53_fake.zone("cust.test"))


@pytest.fixture
def provider(route53_fake: Route53Fake) -> Route53Provider:
    return Route53Provider({"endpoint_url": route53_fake.url})


@pytest.fixture
def comparing(route53_fake: Route53Fake) -> Route53Provider:
    return Route53Provider({"endpoint_url": route53_fake.url, "compare_and_set": True})


def wanted(zone: Zone, *members: Member, hostname: str = HOSTNAME, ttl: int = 30, **more: Any) -> WeightedSet:
    more = {"generation": 7} | more
    return WeightedSet(hostname, zone.name, zone.id, ttl, members=members or (PRIMARY, BACKUP), **more)


def shifted(zone: Zone, **more: Any) -> WeightedSet:
    return wanted(zone, replace(PRIMARY, percent=0), replace(BACKUP, percent=100), **{"generation": 8} | more)


def shown(fake: Route53Fake, zone: Zone) -> list[str]:
    """The zone's records, a line each."""
    lines = []
    for (name, qtype, identifier), there in fake.records(zone.id).items():
        words = [name.removesuffix(".cust.test."), qtype, identifier.removeprefix(MARK), there.weight, there.ttl]
        words += there.values if there.alias is None else [f"alias {there.alias}"]
        lines.append(" ".join(str(word) for word in words if word not in (None, "")))
    return lines


def actions(fake: Route53Fake) -> list[str]:
    return [call.action for call in fake.calls]


def refused(call: Any, *args: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(*args)
    return caught.value


def kinds(error: ProviderError) -> tuple[Trouble, str]:
    return error.trouble, "unknown" if error.unknown else "permanent" if error.permanent else "later"


OURS = ["www CNAME backup-1 0 30 b.cdn.test.", "www CNAME primary 100 30 a.cdn.test.", '_tranche.www TXT 30 "rev=7"']
SHIFTED = ["www CNAME backup-1 100 30 b.cdn.test.", "www CNAME primary 0 30 a.cdn.test.", '_tranche.www TXT 30 "rev=8"']


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_write_is_one_call_that_reads_nothing(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    provider.apply([wanted(zone)])
    assert shown(route53_fake, zone) == OURS
    provider.apply([shifted(zone)])
    provider.apply([shifted(zone)])
    assert shown(route53_fake, zone) == SHIFTED
    assert actions(route53_fake) == [WRITE] * 3


def test_it_is_live_when_all_servers_have_it(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    receipt = provider.apply([wanted(zone)])
    assert not receipt.is_live
    stored = {"change_id": receipt.change_id, **receipt.details}
    assert [provider.is_live(stored) for _ in range(2)] == [False, True]
    assert refused(provider.is_live, stored | {"change_id": "C0"}).permanent


def test_many_names_are_one_batch(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    targets = [f"{'x' * 40}-{n}.some-cdn.example" for n in range(3)]
    members = [Member(f"backup-{n}", target, 100 if n == 0 else 0) for n, target in enumerate(targets)]
    names = [f"host{n}.cust.test" for n in range(provider.most_per_write)]
    provider.apply([wanted(zone, *members, hostname=name) for name in names])
    assert len(route53_fake.records(zone.id)) == 4 * len(names)
    assert actions(route53_fake) == [WRITE]


def test_a_batch_that_is_too_long_is_refused_before_it_is_sent(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    long = ".".join(["x" * 60] * 4)
    members = [Member("primary", f"a{long}", 100), Member("backup-1", f"b{long}", 0), Member("backup-2", long, 0)]
    sets = [wanted(zone, *members, hostname=f"host{n}.cust.test") for n in range(provider.most_per_write)]
    assert kinds(refused(provider.apply, sets)) == (Trouble.REFUSED, "permanent")
    assert route53_fake.calls == []
    provider.apply(sets[:20])


def test_a_batch_is_for_one_zone(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    other = Zone("other.test", route53_fake.zone("other.test"))
    both = [wanted(zone), wanted(other, hostname="www.other.test")]
    assert kinds(refused(provider.apply, both)) == (Trouble.ZONE, "permanent")
    assert kinds(refused(provider.apply, [wanted(Zone("cust.test"))])) == (Trouble.ZONE, "permanent")
    assert provider.apply([]).is_live


def test_one_bad_name_leaves_the_whole_batch_undone(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    route53_fake.put(zone.id, "bad.cust.test", "A", "192.0.2.1")
    error = refused(provider.apply, [wanted(zone), wanted(zone, hostname="bad.cust.test")])
    assert kinds(error) == (Trouble.FOREIGN, "permanent")
    assert shown(route53_fake, zone) == ["bad A 300 192.0.2.1"]


def test_a_new_ttl_reaches_all_members_at_once(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    provider.apply([wanted(zone)])
    provider.apply([wanted(zone, ttl=60)])
    assert {there.ttl for there in route53_fake.records(zone.id).values()} == {60}


@pytest.mark.parametrize(
    ("qtype", "values", "more", "trouble"),
    [
        ("CNAME", ["old.cdn.test."], {}, Trouble.FOREIGN),
        ("A", ["192.0.2.1", "192.0.2.2"], {}, Trouble.FOREIGN),
        ("TXT", ['"text"'], {}, Trouble.FOREIGN),
        ("CNAME", ["a.cdn.test."], {"SetIdentifier": "latency", "Region": "eu-west-1"}, Trouble.FOREIGN),
        ("CNAME", ["a.cdn.test."], {"SetIdentifier": "terraform", "Weight": 5, "ttl": 300}, Trouble.REFUSED),
    ],
)
def test_a_foreign_record_is_kept(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone,
    qtype: str, values: list[str], more: dict[str, Any], trouble: Trouble,
) -> None:  # fmt: skip
    route53_fake.put(zone.id, HOSTNAME, qtype, *values, **more)
    before = shown(route53_fake, zone)
    assert kinds(refused(provider.apply, [wanted(zone)])) == (trouble, "permanent")
    assert shown(route53_fake, zone) == before
    standing = provider.read(zone, [HOSTNAME])[HOSTNAME]
    assert len(standing.foreign) == 1
    assert f"www.cust.test {qtype}" in standing.foreign[0]
    assert (standing.members, standing.foreign_ttl_seconds) == ((), 300)


def test_a_protected_record_is_for_a_person(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    provider.apply([wanted(zone)])
    route53_fake.protect(zone.id, HOSTNAME, "CNAME", "ask Ann")
    error = refused(provider.apply, [shifted(zone)])
    assert kinds(error) == (Trouble.PROTECTED, "permanent")
    assert "ask Ann" in str(error)
    assert shown(route53_fake, zone) == OURS


def test_a_name_that_sounds_protected_is_not(route53_fake: Route53Fake, provider: Route53Provider) -> None:
    zone = Zone("is.protected.test", route53_fake.zone("is.protected.test"))
    route53_fake.put(zone.id, "www.is.protected.test", "A", "192.0.2.1")
    error = refused(provider.apply, [wanted(zone, hostname="www.is.protected.test")])
    assert error.trouble == Trouble.FOREIGN


# --- what goes wrong on the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "trouble", "how", "is_done"),
    [
        ("throttle", Trouble.THROTTLED, "later", False),
        ("prior_request", Trouble.THROTTLED, "later", False),
        ("access_denied", Trouble.ACCESS, "permanent", False),
        ("error_500", Trouble.UNREACHABLE, "unknown", False),
        ("timeout_before", Trouble.UNREACHABLE, "unknown", False),
        ("reset_before", Trouble.UNREACHABLE, "unknown", False),
        ("lost_reply", Trouble.UNREACHABLE, "unknown", True),
        ("timeout_after", Trouble.UNREACHABLE, "unknown", True),
        ("applied_500", Trouble.UNREACHABLE, "unknown", True),
        ("applied_503", Trouble.UNREACHABLE, "unknown", True),
        ("garbled", Trouble.UNREACHABLE, "unknown", True),
        ("half", Trouble.UNREACHABLE, "unknown", True),
    ],
)
def test_what_may_have_been_done_is_unknown_and_sent_once(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone,
    fault: Any, trouble: Trouble, how: str, is_done: bool,
) -> None:  # fmt: skip
    route53_fake.fail(WRITE, fault)
    assert kinds(refused(provider.apply, [wanted(zone)])) == (trouble, how)
    assert bool(route53_fake.records(zone.id)) is is_done
    assert actions(route53_fake) == [WRITE]
    standing = provider.read(zone, [HOSTNAME])[HOSTNAME]
    assert standing.generation == (7 if is_done else None)


def test_an_answer_that_takes_too_long_is_unknown(
    route53_fake: Route53Fake, zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CONFIG", clients.CONFIG.merge(clients.Config(read_timeout=0.2)))
    hasty = Route53Provider({"endpoint_url": route53_fake.url}, {"access_key_id": "test", "secret_access_key": "hasty"})
    route53_fake.fail(WRITE, "slow", seconds=0.5)
    assert kinds(refused(hasty.apply, [wanted(zone)])) == (Trouble.UNREACHABLE, "unknown")
    assert len(route53_fake.records(zone.id)) == 3


def test_nobody_listening_is_known(zone: Zone) -> None:
    error = refused(Route53Provider({"endpoint_url": "http://127.0.0.1:9"}).apply, [wanted(zone)])
    assert kinds(error) == (Trouble.UNREACHABLE, "later")
    error = refused(Route53Provider({"endpoint_url": "nonsense"}).apply, [wanted(zone)])
    assert kinds(error) == (Trouble.MISCONFIGURED, "permanent")


URL = {"endpoint_url": "https://route53.amazonaws.com", "error": "e"}


@pytest.mark.parametrize(
    ("error", "trouble", "how"),
    [
        (EndpointConnectionError(**URL), Trouble.UNREACHABLE, "later"),  # a name that isn't found, too
        (ConnectTimeoutError(**URL), Trouble.UNREACHABLE, "later"),
        (ReadTimeoutError(**URL), Trouble.UNREACHABLE, "unknown"),
        (ConnectionClosedError(**URL), Trouble.UNREACHABLE, "unknown"),
        (SSLError(**URL), Trouble.UNREACHABLE, "unknown"),
        (ResponseParserError("e"), Trouble.UNREACHABLE, "unknown"),
        (NoCredentialsError(), Trouble.ACCESS, "permanent"),
        (ParamValidationError(report="e"), Trouble.REFUSED, "permanent"),
    ],
)
def test_what_happens_on_the_way(error: Exception, trouble: Trouble, how: str) -> None:
    assert kinds(refusals.refused(WRITE, error, is_write=True)) == (trouble, how)
    assert not refusals.refused("ListResourceRecordSets", error, is_write=False).unknown


@pytest.mark.parametrize(
    ("code", "status", "text", "trouble", "how"),
    [
        ("Throttling", 400, "Rate exceeded", Trouble.THROTTLED, "later"),
        ("InvalidClientTokenId", 403, "", Trouble.ACCESS, "permanent"),
        ("ExpiredToken", 403, "", Trouble.ACCESS, "later"),
        ("Whatever", 502, "", Trouble.UNREACHABLE, "unknown"),
        ("InvalidInput", 400, "Invalid XML", Trouble.REFUSED, "permanent"),
        ("NoSuchHealthCheck", 404, "", Trouble.REFUSED, "permanent"),
        ("InvalidChangeBatch", 400, "[RDATA character limit of 32000 exceeded.]", Trouble.REFUSED, "permanent"),
        ("InvalidChangeBatch", 400, "[… is not permitted at apex in zone a.test.]", Trouble.UNSAFE, "permanent"),
        (
            "InvalidChangeBatch",
            400,
            "[RRSet a.protected.test. cannot be created as other RRSets exist with the same name and type.]",
            Trouble.FOREIGN,
            "permanent",
        ),
        (
            "InvalidChangeBatch",
            400,
            "[Tried to delete … but it was not found, … cannot be created as a non-weighted set exists with the same name]",
            Trouble.STALE,
            "later",
        ),
    ],
)
def test_what_amazon_answers(code: str, status: int, text: str, trouble: Trouble, how: str) -> None:
    response: Any = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert kinds(refusals.refused(WRITE, ClientError(response, WRITE), is_write=True)) == (trouble, how)


def test_an_answer_without_what_it_must_hold_is_unknown(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        class meta:
            method_to_api_mapping = {"change_resource_record_sets": WRITE, "get_change": "GetChange"}

        def change_resource_record_sets(self, **given: Any) -> dict[str, Any]:
            return next(answers)

        def get_change(self, **given: Any) -> dict[str, Any]:
            return {}

    answers: Iterator[dict[str, Any]] = iter([{}, {"ChangeInfo": {}}])
    monkeypatch.setattr(clients, "_client", lambda *args: Client())
    for _ in range(2):
        assert kinds(refused(Route53Provider({}).apply, [wanted(zone)])) == (Trouble.UNREACHABLE, "unknown")
    assert kinds(refused(Route53Provider({}).is_live, {"change_id": "C1"})) == (Trouble.UNREACHABLE, "later")


@pytest.mark.parametrize("fault", ["error_500", "reset_before", "lost_reply", "garbled", "half"])
def test_a_read_is_tried_twice_and_never_unknown(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone, fault: Any
) -> None:
    route53_fake.fail("ListResourceRecordSets", fault)
    assert provider.read(zone, [HOSTNAME]) == {HOSTNAME: Standing(HOSTNAME)}
    route53_fake.fail("ListResourceRecordSets", fault, times=2)
    assert kinds(refused(provider.read, zone, [HOSTNAME])) == (Trouble.UNREACHABLE, "later")


def test_a_zone_that_is_gone_or_not_ours(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    theirs = Zone("cust.test", route53_fake.zone("cust.test", account="222"))
    assert kinds(refused(provider.apply, [wanted(theirs)])) == (Trouble.ACCESS, "permanent")
    route53_fake.remove(zone.id)
    assert kinds(refused(provider.apply, [wanted(zone)])) == (Trouble.ZONE, "permanent")


def test_every_call_is_paid_for(route53_fake: Route53Fake, zone: Zone) -> None:
    route53_fake.role(ROLE, "x" * 8, "default")
    calls = []
    options = {"endpoint_url": route53_fake.url, "role_arn": ROLE, "external_id": "x" * 8}
    provider = Route53Provider(options, {}, lambda: calls.append(1))
    route53_fake.fail("ListResourceRecordSets", "error_500")
    provider.apply([wanted(zone)])
    provider.read(zone, [HOSTNAME])
    provider.preflight(zone, HOSTNAME)
    assert len(calls) == len(route53_fake.calls) > 8

    def empty() -> None:
        raise ProviderError("the bucket is empty", permanent=False, trouble=Trouble.THROTTLED)

    before = len(route53_fake.calls)
    error = refused(Route53Provider(options, {}, empty).apply, [wanted(zone)])
    assert (str(error), len(route53_fake.calls)) == ("the bucket is empty", before)


# --- compare and set -------------------------------------------------------------------------------------------------


def test_a_plan_that_finds_what_it_expects_takes_one_call(
    route53_fake: Route53Fake, comparing: Route53Provider, zone: Zone
) -> None:
    comparing.apply([wanted(zone)])
    comparing.apply([shifted(zone, expects=7)])
    assert shown(route53_fake, zone) == SHIFTED
    assert actions(route53_fake) == [WRITE] * 2


def test_a_plan_that_comes_late_is_refused_by_amazon(
    route53_fake: Route53Fake, comparing: Route53Provider, zone: Zone
) -> None:
    comparing.apply([wanted(zone)])
    comparing.apply([shifted(zone, generation=9, expects=7)])
    before = shown(route53_fake, zone)
    error = refused(comparing.apply, [wanted(zone, generation=8, expects=7)])
    assert kinds(error) == (Trouble.STALE, "unknown")
    assert "rev=9 stands there" in str(error)
    assert shown(route53_fake, zone) == before
    assert [call.error for call in route53_fake.calls[2:]] == ["InvalidChangeBatch", ""]
    assert kinds(refused(comparing.apply, [wanted(zone, generation=8, expects=9)])) == (Trouble.STALE, "unknown")
    assert len(route53_fake.calls) == 4


def test_what_is_older_than_the_plan_does_not_hold_it_up(
    route53_fake: Route53Fake, comparing: Route53Provider, zone: Zone
) -> None:
    comparing.apply([wanted(zone, ttl=60)])
    comparing.apply([wanted(zone, hostname="b.cust.test")])
    comparing.apply([shifted(zone, expects=7), shifted(zone, hostname="b.cust.test", expects=7)])  # another TTL
    comparing.apply([shifted(zone, expects=8)])  # a repeat
    comparing.apply([shifted(zone, generation=9, expects=7)])  # 8 was never observed
    assert '_tranche.www TXT 30 "rev=9"' in shown(route53_fake, zone)
    route53_fake.delete(zone.id, "_tranche.www.cust.test", "TXT")
    comparing.apply([shifted(zone, generation=10, expects=9)])
    assert '_tranche.www TXT 30 "rev=10"' in shown(route53_fake, zone)


def test_a_plan_that_is_overtaken_twice_is_stale(
    route53_fake: Route53Fake, comparing: Route53Provider, zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparing.apply([wanted(zone)])
    read = Route53Provider._standing_beacon

    def overtaken(self: Route53Provider, one: WeightedSet) -> Any:
        found = read(self, one)
        route53_fake.put(zone.id, one.beacon_name, "TXT", '"rev=12"', ttl=30)
        return found

    monkeypatch.setattr(Route53Provider, "_standing_beacon", overtaken)
    error = refused(comparing.apply, [wanted(zone, generation=8, expects=6)])
    assert kinds(error) == (Trouble.STALE, "unknown")
    assert shown(route53_fake, zone)[:2] == OURS[:2]


def test_too_many_surprises_split_the_batch(route53_fake: Route53Fake, comparing: Route53Provider, zone: Zone) -> None:
    names = [f"host{n}.cust.test" for n in range(11)]
    comparing.apply([wanted(zone, hostname=name) for name in names])
    late = [wanted(zone, hostname=name, generation=9, expects=6) for name in names]
    assert kinds(refused(comparing.apply, late)) == (Trouble.REFUSED, "permanent")
    comparing.apply(late[:10])


def test_a_text_of_somebody_elses_is_no_beacon(
    route53_fake: Route53Fake, comparing: Route53Provider, zone: Zone
) -> None:
    route53_fake.put(zone.id, "_tranche.www.cust.test", "TXT", '"mine"')
    assert kinds(refused(comparing.apply, [wanted(zone, expects=6)])) == (Trouble.FOREIGN, "permanent")
    standing = comparing.read(zone, [HOSTNAME])[HOSTNAME]
    assert (standing.generation, standing.foreign) == (None, ('_tranche.www.cust.test TXT "mine", TTL 300 s',))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_what_stands_is_read_as_it_was_written(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    provider.apply([wanted(zone), shifted(zone, hostname="app.cust.test", ttl=60)])
    for name in ("ww.cust.test", "wwww.cust.test", "a.www.cust.test", "_x.www.cust.test"):
        route53_fake.put(zone.id, name, "A", "192.0.2.1")
    standing = provider.read(zone, [HOSTNAME, "app.cust.test", "no.cust.test"])
    assert standing[HOSTNAME] == Standing(HOSTNAME, 7, (BACKUP, PRIMARY), 30)
    assert standing["app.cust.test"].difference(shifted(zone, hostname="app.cust.test", ttl=60)) == ""
    assert standing["no.cust.test"] == Standing("no.cust.test")
    assert len(route53_fake.calls) == 4


def test_an_edit_by_hand_is_seen(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    provider.apply([wanted(zone)])
    route53_fake.put(zone.id, HOSTNAME, "CNAME", "a.cdn.test.", ttl=30, SetIdentifier=f"{MARK}primary", Weight=200)
    difference = provider.read(zone, [HOSTNAME])[HOSTNAME].difference(wanted(zone))
    assert difference.startswith("primary is a.cdn.test at 200 %, and")


def test_a_set_that_pages_cut_is_read_to_its_end(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    provider.apply([wanted(zone)])
    for n in range(98):
        route53_fake.put(zone.id, HOSTNAME, "CNAME", "x.test.", ttl=30, SetIdentifier=f"a{n:02}", Weight=0)
    for n in range(120):
        route53_fake.put(zone.id, f"{n}.www.cust.test", "A", "192.0.2.1")
    standing = provider.read(zone, [HOSTNAME])[HOSTNAME]
    assert (len(standing.foreign), standing.members, standing.generation) == (98, (BACKUP, PRIMARY), 7)
    assert actions(route53_fake)[1:] == ["ListResourceRecordSets"] * 2


# --- adopting and releasing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qtype", "values"), [("CNAME", ["old.cdn.test."]), ("A", ["192.0.2.2", "192.0.2.1"]), ("AAAA", ["2001:db8::1"])]
)
def test_a_simple_record_is_adopted(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone, qtype: str, values: list[str]
) -> None:
    route53_fake.put(zone.id, HOSTNAME, qtype, *values)
    provider.adopt(wanted(zone))
    assert shown(route53_fake, zone) == OURS
    provider.adopt(wanted(zone))  # a repeat, as its first answer was lost
    assert shown(route53_fake, zone) == OURS


def test_nothing_else_is_adopted(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    assert "has no record to adopt" in str(refused(provider.adopt, wanted(zone)))
    route53_fake.put(zone.id, HOSTNAME, "MX", "10 mail.cust.test.")
    error = refused(provider.adopt, wanted(zone))
    assert kinds(error) == (Trouble.FOREIGN, "permanent")
    assert "MX 10 mail.cust.test., TTL 300 s can’t be adopted" in str(error)
    route53_fake.put(zone.id, "b.cust.test", "CNAME", "a.test.", SetIdentifier="terraform", Weight=1)
    assert refused(provider.adopt, wanted(zone, hostname="b.cust.test")).trouble == Trouble.FOREIGN
    route53_fake.put(zone.id, "_tranche.c.cust.test", "TXT", '"mine"')
    route53_fake.put(zone.id, "c.cust.test", "CNAME", "a.test.")
    assert refused(provider.adopt, wanted(zone, hostname="c.cust.test")).trouble == Trouble.FOREIGN
    assert len(route53_fake.records(zone.id)) == 4


def test_a_record_that_changes_meanwhile_is_not_adopted(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    route53_fake.put(zone.id, HOSTNAME, "CNAME", "old.cdn.test.")
    read = Route53Provider._found

    def overtaken(self: Route53Provider, one: WeightedSet) -> Any:
        found = read(self, one)
        route53_fake.put(zone.id, HOSTNAME, "CNAME", "new.cdn.test.")
        return found

    monkeypatch.setattr(Route53Provider, "_found", overtaken)
    assert kinds(refused(provider.adopt, wanted(zone))) == (Trouble.STALE, "later")
    assert shown(route53_fake, zone) == ["www CNAME 300 new.cdn.test."]


def test_released_is_what_was_before(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    provider.apply([wanted(zone, PRIMARY, BACKUP, Member("backup-2", "c.cdn.test", 0))])
    route53_fake.put(zone.id, "a.www.cust.test", "A", "192.0.2.1")
    for _ in range(2):  # the second time there is nothing left to do
        provider.release(wanted(zone), "b.cdn.test")
        assert shown(route53_fake, zone) == ["www CNAME 30 b.cdn.test.", "a.www A 300 192.0.2.1"]
    assert actions(route53_fake).count(WRITE) == 2
    assert kinds(refused(provider.release, wanted(zone), "c.cdn.test")) == (Trouble.FOREIGN, "permanent")
    assert refused(provider.release, wanted(zone, hostname="no.cust.test"), "c.cdn.test").permanent
    provider.adopt(wanted(zone))
    provider.apply([shifted(zone)])


# --- the apex --------------------------------------------------------------------------------------------------------

EDGE = Member("primary", "d1.cloudfront.net", 100)
FIXED = Member("backup-1", "b.cdn.test", 0, ("192.0.2.7", "192.0.2.8", "2001:db8::7"))


def apex(zone: Zone, *members: Member, **more: Any) -> WeightedSet:
    return wanted(zone, *members, hostname="cust.test", **more)


def apex_records(fake: Route53Fake, zone: Zone) -> list[str]:
    return [" ".join(line.split(" ")[1:]) for line in shown(fake, zone)]


@pytest.fixture
def distribution(route53_fake: Route53Fake) -> None:
    route53_fake.distribution("d1.cloudfront.net", "cust.test")
    route53_fake.distribution("acc.awsglobalaccelerator.com")


@pytest.mark.usefixtures("distribution")
def test_at_an_apex_aliases_and_addresses_are_weighed(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    mark = "tranche:be81c63ae583:"
    route53_fake.put(zone.id, "cust.test", "MX", "10 mail.cust.test.")
    one = apex(zone, EDGE, FIXED, Member("backup-2", "acc.awsglobalaccelerator.com", 0))
    provider.apply([one])
    assert [line.replace(mark, "") for line in apex_records(route53_fake, zone)] == [
        "A backup-1 0 30 192.0.2.7",
        "A backup-2 0 alias acc.awsglobalaccelerator.com.",
        "A primary 100 alias d1.cloudfront.net.",
        "AAAA backup-1 0 30 2001:db8::7",
        "AAAA backup-2 0 alias acc.awsglobalaccelerator.com.",
        "AAAA primary 100 alias d1.cloudfront.net.",
        "MX 300 10 mail.cust.test.",
        'TXT 30 "rev=7"',
    ]
    standing = provider.read(zone, ["cust.test"])["cust.test"]
    assert (standing.generation, standing.ttl_seconds, standing.foreign) == (7, 30, ())
    assert standing.difference(one) == ""
    assert standing.members == (
        Member("backup-1", "192.0.2.7", 0, ("192.0.2.7", "2001:db8::7")),
        Member("backup-2", "acc.awsglobalaccelerator.com", 0),
        Member("primary", "d1.cloudfront.net", 100),
    )
    two = apex(zone, replace(EDGE, percent=0), replace(FIXED, percent=100), generation=8)
    provider.apply([two])
    assert "backup-2" not in provider.read(zone, ["cust.test"])["cust.test"].difference(two)
    for qtype, other in (("A", "192.0.2.99"), ("AAAA", "2001:db8::99")):
        route53_fake.put(zone.id, "cust.test", qtype, other, ttl=30, SetIdentifier=f"{mark}backup-1", Weight=100)
    assert "192.0.2.99, and b.cdn.test was written" in provider.read(zone, ["cust.test"])["cust.test"].difference(two)


@pytest.mark.usefixtures("distribution")
def test_ipv6_is_served_only_if_it_can_be_led_away(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    provider.apply([apex(zone, EDGE, FIXED)])
    only_four = replace(FIXED, addresses=("192.0.2.7",), percent=100)
    away = apex(zone, replace(EDGE, percent=0), only_four, generation=8)
    provider.apply([away])
    standing = provider.read(zone, ["cust.test"])["cust.test"]
    assert [text.split(" ")[1] for text in standing.foreign] == ["AAAA", "AAAA"]  # left over, and they don't move
    provider.adopt(away)
    assert {line.split(" ")[0] for line in apex_records(route53_fake, zone)} == {"A", "TXT"}
    assert provider.read(zone, ["cust.test"])["cust.test"].foreign == ()


@pytest.mark.usefixtures("distribution")
def test_at_an_apex_a_simple_record_is_adopted_and_released(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    route53_fake.put(zone.id, "cust.test", "TXT", '"v=spf1 -all"')
    for qtype in ("A", "AAAA"):
        alias = {"HostedZoneId": "Z2FDTNDATAQYW2", "DNSName": "d1.cloudfront.net", "EvaluateTargetHealth": False}
        route53_fake.put(zone.id, "cust.test", qtype, AliasTarget=alias)
    standing = provider.read(zone, ["cust.test"])["cust.test"]
    assert (len(standing.foreign), standing.foreign_ttl_seconds) == (2, 60)
    provider.adopt(apex(zone, EDGE, FIXED))
    assert provider.read(zone, ["cust.test"])["cust.test"].foreign == ()
    for _ in range(2):
        provider.release(apex(zone, EDGE, FIXED), "b.cdn.test")
        assert apex_records(route53_fake, zone) == [
            "A 30 192.0.2.7", "AAAA 30 2001:db8::7", 'TXT 300 "v=spf1 -all"',
        ]  # fmt: skip


@pytest.mark.parametrize(
    "member", [BACKUP, replace(BACKUP, addresses=("2001:db8::1",)), replace(BACKUP, addresses=("x",))]
)
def test_what_has_no_form_for_an_apex_is_unsafe(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone, member: Member
) -> None:
    assert kinds(refused(provider.apply, [apex(zone, EDGE, member)])) == (Trouble.UNSAFE, "permanent")
    assert kinds(refused(provider.script, apex(zone, EDGE, member))) == (Trouble.UNSAFE, "permanent")
    assert route53_fake.calls == []


# --- access ----------------------------------------------------------------------------------------------------------


def role_of(fake: Route53Fake, policy: Policy | None = None, **more: Any) -> tuple[Zone, Route53Provider]:
    """A customer's account with a zone and a role, and the provider that assumes it."""
    fake.role(ROLE, "e" * 8, "222", policy)
    zone = Zone("cust.test", next((z for z, there in fake.zones.items() if there.account == "222"), ""))
    zone = zone if zone.id else Zone("cust.test", fake.zone("cust.test", account="222"))
    return zone, Route53Provider({"endpoint_url": fake.url, "role_arn": ROLE, "external_id": "e" * 8, **more})


def test_a_role_is_assumed_once_and_again_when_its_session_ends(
    route53_fake: Route53Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, provider = role_of(route53_fake)
    provider.apply([wanted(zone)])
    again = Route53Provider(provider.options)
    again.apply([shifted(zone)])
    assert actions(route53_fake).count("AssumeRole") == 1
    route53_fake.revoke("222", "ExpiredToken")
    assert kinds(refused(provider.apply, [wanted(zone)])) == (Trouble.ACCESS, "later")
    monkeypatch.setattr(clients, "_ROLE_RENEWED_BEFORE_SECONDS", 900)  # it has run out as soon as it is there
    provider.apply([shifted(zone, generation=9)])
    assert actions(route53_fake).count("AssumeRole") == 2
    provider.apply([shifted(zone, generation=9)])
    assert actions(route53_fake).count("AssumeRole") == 3


def test_a_role_that_is_taken_away_is_the_accounts_trouble(route53_fake: Route53Fake) -> None:
    zone, provider = role_of(route53_fake)
    provider.apply([wanted(zone)])
    route53_fake.revoke("222", "InvalidClientTokenId", trust=True)
    for _ in range(2):  # the session first, then the role itself
        error = refused(provider.apply, [shifted(zone)])
        assert kinds(error) == (Trouble.ACCESS, "permanent")
        assert error.is_accounts
    without = {"role_arn": ROLE, "endpoint_url": route53_fake.url}
    assert kinds(refused(Route53Provider(without).apply, [wanted(zone)])) == (Trouble.MISCONFIGURED, "permanent")


def test_keys_are_those_of_the_account(route53_fake: Route53Fake) -> None:
    theirs = Zone("cust.test", route53_fake.zone("cust.test", account="333"))
    keys = {"access_key_id": route53_fake.access.key("333"), "secret_access_key": "s"}
    Route53Provider({"endpoint_url": route53_fake.url}, keys).apply([wanted(theirs)])
    assert len(route53_fake.records(theirs.id)) == 3
    wrong = keys | {"access_key_id": "AKIANOBODY"}
    error = refused(Route53Provider({"endpoint_url": route53_fake.url}, wrong).apply, [wanted(theirs)])
    assert kinds(error) == (Trouble.ACCESS, "permanent")
    assert "a secret" not in repr(clients.Access.of({}, {"access_key_id": "A", "secret_access_key": "a secret"}))


def test_an_account_that_is_slow_keeps_no_other_waiting(route53_fake: Route53Fake, zone: Zone) -> None:
    _, slow = role_of(route53_fake)
    route53_fake.fail("AssumeRole", "slow", seconds=1.0)
    waiting = threading.Thread(target=slow.find_zone, args=[HOSTNAME])
    waiting.start()
    for n in range(4):
        keys = {"access_key_id": "test", "secret_access_key": f"{n}"}
        Route53Provider({"endpoint_url": route53_fake.url}, keys).apply([wanted(zone)])
    assert waiting.is_alive()
    waiting.join()


def granted(text: str, *numbers: int) -> Policy:
    """What the policies with these numbers in the text allow, as the fake knows it: as one statement on records."""
    policies, rest = [], text
    while "{" in rest:
        found, end = json.JSONDecoder().raw_decode(rest[rest.index("{") :])
        policies.append(found)
        rest = rest[rest.index("{") + end :]
    statements = [statement for number in numbers for statement in policies[number - 1]["Statement"]]
    calls = {call for s in statements for call in ([s["Action"]] if isinstance(s["Action"], str) else s["Action"])}
    changing = [s for s in statements if s["Action"] == "route53:ChangeResourceRecordSets"][-1]
    condition = changing["Condition"]["ForAllValues:StringEquals"]
    allowed = [
        condition.get(f"route53:ChangeResourceRecordSets{key}")
        for key in ("NormalizedRecordNames", "RecordTypes", "Actions")
    ]
    zone_id = changing["Resource"].removeprefix("arn:aws:route53:::hostedzone/")
    return Policy({call.removeprefix("route53:") for call in calls}, {zone_id}, *allowed)


def test_what_is_to_be_granted_is_enough_and_no_more(route53_fake: Route53Fake) -> None:
    zone, provider = role_of(route53_fake)
    text = provider.permissions(zone, [HOSTNAME, "app.cust.test"])
    assert f'"sts:ExternalId": "{"e" * 8}"' in text
    role_of(route53_fake, granted(text, 2))
    provider.apply([wanted(zone), wanted(zone, hostname="app.cust.test")])
    provider.read(zone, [HOSTNAME])
    assert [check.name for check in provider.preflight(zone, HOSTNAME) if check.is_must and not check.holds] == []
    denied = [
        lambda: provider.release(wanted(zone), "a.cdn.test"),
        lambda: provider.apply([wanted(zone, hostname="other.cust.test")]),
        lambda: provider.find_zone(HOSTNAME),
        lambda: provider.arm("one", "https://beacon.test/b", "shift"),
    ]
    for call in denied:
        assert kinds(refused(call)) == (Trouble.ACCESS, "permanent")
    role_of(route53_fake, granted(text, 2, 3))
    provider = Route53Provider(provider.options, {"access_key_id": "test", "secret_access_key": "anew"})
    assert provider.find_zone(HOSTNAME) == zone
    provider.release(wanted(zone), "a.cdn.test")
    provider.adopt(wanted(zone))


def test_a_name_that_was_not_granted_is_not_the_whole_accounts_trouble(route53_fake: Route53Fake) -> None:
    zone, provider = role_of(route53_fake)
    role_of(route53_fake, granted(provider.permissions(zone, [HOSTNAME]), 2))
    both = [wanted(zone), wanted(zone, hostname="new.cust.test")]
    error = refused(provider.apply, both)
    assert error.trouble == Trouble.ACCESS
    assert not error.is_accounts  # so the batch is split, until the one stands alone
    provider.apply(both[:1])


def test_compare_and_set_is_granted_what_it_needs(route53_fake: Route53Fake) -> None:
    zone, provider = role_of(route53_fake, compare_and_set=True)
    text = provider.permissions(zone, [HOSTNAME, "cust.test"])
    assert "CREATE and DELETE are for the beacons" in text
    policy = granted(text, 2)
    assert policy.types == ["CNAME", "A", "AAAA", "TXT"]
    role_of(route53_fake, policy)
    provider.apply([wanted(zone)])
    provider.apply([shifted(zone, expects=7)])


def test_more_names_than_a_policy_holds_are_granted_as_the_zone(provider: Route53Provider) -> None:
    names = [f"some-long-name-{n}.cust.test" for n in range(100)]
    text = provider.permissions(Zone("cust.test", "Z1"), names)
    assert "for all names of the zone" in text
    assert granted(text, 1).names is None
    assert "sts:AssumeRole" not in text


# --- the check list --------------------------------------------------------------------------------------------------


def failing(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks if not check.holds}


def test_a_free_name_has_all_that_can_be_seen(route53_fake: Route53Fake) -> None:
    zone, provider = role_of(route53_fake)
    checks = provider.preflight(zone, HOSTNAME)
    assert [name for name, check in failing(checks).items() if check.is_must] == []
    assert [check.name for check in checks] == [
        "external id is enforced", "hosted zone", "same name", "reading", "record", "writing", "protection",
    ]  # fmt: skip
    servers = provider.name_servers(zone)
    assert len(servers) == 4
    assert all(server in checks[1].text for server in servers)
    assert WRITE not in actions(route53_fake)
    provider.apply([wanted(zone)])
    checks = provider.preflight(zone, HOSTNAME)
    assert failing(checks) == {}
    assert checks[4].text == "ours: backup-1 0 %, primary 100 %, TTL 30 s"


def test_a_role_that_anybody_may_assume_is_found_out(
    route53_fake: Route53Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone, provider = role_of(route53_fake)
    assume = Access.assume

    def anybody(self: Access, caller: Any, given: dict[str, Any], now: float) -> dict[str, Any]:
        return assume(self, caller, given | {"ExternalId": "e" * 8}, now)

    monkeypatch.setattr(Access, "assume", anybody)
    check = failing(provider.preflight(zone, HOSTNAME))["external id is enforced"]
    assert check.is_must
    assert "whoever learns its ARN" in check.text


def test_what_stands_in_the_way_is_named(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    route53_fake.zone("cust.test")
    route53_fake.put(zone.id, HOSTNAME, "CNAME", "old.cdn.test.", ttl=900)
    route53_fake.protect(zone.id, HOSTNAME, "CNAME", "ask Ann")
    found = failing(provider.preflight(zone, HOSTNAME))
    assert list(found) == ["same name", "record", "writing", "protection"]
    assert found["record"].text == "not ours: www.cust.test CNAME old.cdn.test., TTL 900 s"
    assert found["record"].advice.startswith("Adopt it")
    assert "900 s" in found["record"].advice
    assert found["protection"].text == "www.cust.test CNAME (ask Ann)"
    route53_fake.put(zone.id, "b.cust.test", "MX", "10 mail.cust.test.")
    assert failing(provider.preflight(zone, "b.cust.test"))["record"].advice.startswith("Remove it first")


def test_a_zone_that_is_not_what_it_should_be(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    private = Zone("cust.test", route53_fake.zone("cust.test", private=True))
    assert "is private" in failing(provider.preflight(private, HOSTNAME))["hosted zone"].text
    assert "not other.test" in failing(provider.preflight(Zone("other.test", zone.id), HOSTNAME))["hosted zone"].text
    assert "NoSuchHostedZone" in failing(provider.preflight(Zone("cust.test", "Z0"), HOSTNAME))["hosted zone"].text
    assert provider.name_servers(private) == []
    route53_fake.fail("GetHostedZone", "throttle")
    assert refused(provider.preflight, zone, HOSTNAME).trouble == Trouble.THROTTLED


def test_what_may_not_be_asked_is_a_warning(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    route53_fake.fail("ListResourceRecordSetProtections", "access_denied")
    route53_fake.fail("ListHostedZonesByName", "access_denied")
    checks = provider.preflight(zone, HOSTNAME)
    assert {name: check.is_must for name, check in failing(checks).items()} == {
        "writing": False,
        "protection": False,
    }
    assert failing(checks)["protection"].is_unclear
    route53_fake.fail("ListResourceRecordSets", "access_denied")
    assert failing(provider.preflight(zone, HOSTNAME))["reading"].is_must


def test_neighbours_are_not_the_zone(route53_fake: Route53Fake, provider: Route53Provider, zone: Zone) -> None:
    for name in ("evilcust.test", "x.www.cust.test"):
        route53_fake.zone(name)
    assert provider.find_zone(HOSTNAME) == zone
    assert refused(provider.find_zone, "www.vilcust.test").trouble == Trouble.ZONE


# --- the data plane --------------------------------------------------------------------------------------------------


def test_a_beacon_shifts_traffic_without_the_api(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone
) -> None:
    check_id = provider.arm("tranche-1", "https://beacon.tranche.test/b/1?x=2", "shift now")
    assert provider.arm("tranche-1", "https://beacon.tranche.test/b/1?x=2", "shift now") == check_id
    assert route53_fake.health.find("default", check_id).config == {
        "Type": "HTTPS_STR_MATCH", "FullyQualifiedDomainName": "beacon.tranche.test", "Port": 443,
        "ResourcePath": "/b/1?x=2", "SearchString": "shift now", "Inverted": True, "RequestInterval": 10,
        "FailureThreshold": 3, "EnableSNI": True, "Disabled": False, "MeasureLatency": False,
    }  # fmt: skip
    one = wanted(zone, replace(PRIMARY, health_check_id=check_id), BACKUP)
    provider.apply([one])
    there = route53_fake.records(zone.id)
    assert there["www.cust.test.", "CNAME", f"{MARK}primary"].health_check == check_id
    assert there["www.cust.test.", "CNAME", f"{MARK}backup-1"].health_check is None
    assert provider.read(zone, [HOSTNAME])[HOSTNAME].members[1] == one.members[0]
    assert provider.arm("tranche-1", "https://beacon.tranche.test:8443/", "shift") == check_id
    assert route53_fake.health.find("default", check_id).config["Port"] == 8443
    provider.apply([wanted(zone)])
    for _ in range(2):
        provider.disarm(check_id)
    assert "takes no reference twice" in str(refused(provider.arm, "tranche-1", "https://beacon.tranche.test/", "x"))
    gone = refused(provider.apply, [one])
    assert kinds(gone) == (Trouble.REFUSED, "permanent")
    assert not gone.is_accounts


@pytest.mark.parametrize("url", ["http://beacon.test/", "https://192.0.2.1/", "https:///b", "beacon.test"])
def test_a_beacon_has_a_name_and_tls(route53_fake: Route53Fake, provider: Route53Provider, url: str) -> None:
    assert refused(provider.arm, "tranche-1", url, "shift").permanent
    assert route53_fake.calls == []


# --- break-glass -----------------------------------------------------------------------------------------------------

AWS = f"""#!{sys.executable}
import json, sys
from pathlib import Path
import boto3

given = sys.argv[1:]
assert given[:2] == ["route53", "change-resource-record-sets"], given
options = dict(zip(given[2::2], given[3::2], strict=True))
batch = options.pop("--change-batch")
assert batch.startswith("file://"), batch
client = boto3.client("route53", endpoint_url=options.pop("--endpoint-url"))
answer = client.change_resource_record_sets(
    HostedZoneId=options.pop("--hosted-zone-id"), ChangeBatch=json.loads(Path(batch.removeprefix("file://")).read_text())
)
assert not options, options
print(answer["ChangeInfo"]["Id"])
"""


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment where `aws` is a few lines of boto3 that take exactly what the script gives."""
    aws = tmp_path / "aws"
    aws.write_text(AWS)
    aws.chmod(0o755)
    yield os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    assert list(tmp_path.iterdir()) == [aws]


def test_the_script_writes_what_the_provider_would(
    route53_fake: Route53Fake, provider: Route53Provider, zone: Zone, shell: dict[str, str]
) -> None:
    script = provider.script(shifted(zone))
    for _ in range(2):
        done = subprocess.run(["bash", "-c", script], env=shell, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("/change/")
        assert shown(route53_fake, zone) == SHIFTED
    route53_fake.remove(zone.id)
    done = subprocess.run(["bash", "-c", script], env=shell, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "NoSuchHostedZone" in done.stderr


def test_the_script_holds_no_secrets(zone: Zone) -> None:
    options = {"role_arn": ROLE, "external_id": "very-secret"}
    provider = Route53Provider(options, {"access_key_id": "AKIA1", "secret_access_key": "very-secret"})
    script = provider.script(wanted(zone))
    assert "very-secret" not in script
    assert "AKIA1" not in script
    assert "--endpoint-url" not in script
