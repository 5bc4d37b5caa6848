"""The check list: each line red once and green once; what arms, what disarms and what does neither; whose turn it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from dnslib import QTYPE, RCODE, RR

from customers.models import Event
from dns import outbox, ownership, readiness, steering
from dns.models import DnsAccount, Drill, RecordSet, SteeringTerms
from dns.providers.contract import Check
from services import caa, lookup
from services.models import Target
from storms.models import PathVerdict
from tests import factories
from tests.dns import rails
from tests.dns.rails import AmazonRail, PowerRail, Rail
from tests.dns.test_ownership import opened, put
from tests.dns.test_steering import newest, split, steered_service, storm_over
from tests.route53_fake import OWN_ACCOUNT
from tests.servers import ScriptedDns, powerdns_fixture, scripted_fixture
from tests.services import tls
from tests.services.tls import TlsSite, pki_fixture

pytestmark = pytest.mark.django_db

__all__ = ["pki_fixture", "powerdns_fixture", "scripted_fixture"]

DAY, HOUR, MINUTE, SECOND = (timedelta(seconds=n) for n in (86_400, 3_600, 60, 1))
PARITY, ALLOWED = readiness._parity, caa.allowed


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks the world beside the vendor is good, but in the tests of it."""
    good = Check("parity", True, "as the test wants", is_must=False)
    monkeypatch.setattr(readiness, "_parity", lambda *a: [good])
    monkeypatch.setattr(caa, "allowed", caa.Allowed)


@pytest.fixture(params=["route53", "powerdns"])
def rail(request: pytest.FixtureRequest, settings: Any) -> Iterator[Rail]:
    with opened(request.param, request, settings) as rail:
        yield rail


@pytest.fixture
def amazon(request: pytest.FixtureRequest, settings: Any) -> Iterator[AmazonRail]:
    with opened("route53", request, settings) as rail:
        yield rail


@pytest.fixture
def power(request: pytest.FixtureRequest, settings: Any) -> Iterator[PowerRail]:
    with opened("powerdns", request, settings) as rail:
        yield rail


@pytest.fixture
def row() -> RecordSet:
    """At a provider that only logs, where there is nothing to complain of."""
    domain = factories.domain(hostname="www.shop.test")
    for role in ("primary", "backup"):
        factories.target(role, domain=domain, address=f"{role}.cdn.test")
    return prepared(factories.record_set(domain=domain))


def row_on(rail: Rail) -> RecordSet:
    return prepared(rails.service_on(rail, rail.account()).domains.get().record_set)


def prepared(row: RecordSet) -> RecordSet:
    """Never checked, with paths that are up."""
    RecordSet.objects.filter(pk=row.pk).update(armed_at=None, unarmed_reason="not checked yet", is_restless=False)
    see(row, timezone.now())
    return RecordSet.objects.select_related("domain__service", "account").get(pk=row.pk)


def see(row: RecordSet, now: datetime, role: str = "", **kw: Any) -> None:
    for target in row.domain.targets.paths():
        if role in ("", target.role):
            good = {
                "verdict": "UP", "reason": "", "since": now, "evaluated_at": now, "newest_good_at": now,
                "availability": 1.0, "certificate_expires_at": now + 90 * DAY,
            }  # fmt: skip
            PathVerdict.objects.update_or_create(target=target, defaults=good | kw)


def listed(row: RecordSet, now: datetime | None = None) -> dict[str, Check]:
    checks = readiness.list_of(readiness._record_set(row.pk), now or timezone.now())
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    return found


def assert_red(check: Check, text: str, *, is_must: bool = True, is_unclear: bool = False) -> None:
    assert not check.holds and text in check.text, check
    assert check.advice and (check.is_must, check.is_unclear) == (is_must, is_unclear), check


def checked(row: RecordSet, now: datetime | None = None) -> RecordSet:
    """After its list was gone through."""
    readiness.check(row.pk, now or timezone.now())
    row.refresh_from_db()
    return row


def kinds() -> list[str]:
    return list(Event.objects.filter(kind__startswith="domain.").order_by("pk").values_list("kind", flat=True))


# --- all of it --------------------------------------------------------------------------------------------------------


def test_a_list_of_which_all_holds_arms(rail: Rail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caa, "allowed", ALLOWED)
    row, now = row_on(rail), timezone.now()
    found = listed(row)
    assert [name for name, check in found.items() if not check.holds and check.is_must] == []
    assert not any(check.is_unclear for check in found.values())
    names = [
        "proof", "zone", "record", "name", "size", "delegation", "independence", "ttl", "backup", "certificate", "caa",
        "parity",
    ]  # fmt: skip
    assert [name for name in found if name in names] == names, "in the order in which it is mended"
    assert all(found[name].holds for name in names)
    checked(row, now)
    assert (row.armed_at, row.unarmed_reason, row.is_restless) == (now, "", True)
    assert (row.checked_at, row.next_check_at) == (now, now + DAY)
    assert [check["name"] for check in row.checks] == list(found)
    event = Event.objects.get(kind="domain.armed")
    assert (event.customer_id, event.summary) == (row.customer_id, f"{row.domain} is armed")
    checked(row, now + HOUR)
    assert row.armed_at == now, "it stays armed since then"
    assert kinds() == ["domain.armed"]


# --- the vendor's side ------------------------------------------------------------------------------------------------


def test_proof(row: RecordSet) -> None:
    assert listed(row)["proof"].holds
    row.domain.verified_at = None
    row.domain.save()
    check = listed(row)["proof"]
    assert_red(check, "www.shop.test is not verified")
    assert row.domain.challenge_name in check.advice and row.domain.challenge_value in check.advice


def test_a_zone_that_the_account_lacks(rail: Rail) -> None:
    row = row_on(rail)
    row.domain.hostname = "www.elsewhere.test"
    row.domain.save()
    RecordSet.objects.update(zone="", zone_id="")
    check = listed(row)["zone"]
    assert_red(check, "elsewhere.test")
    assert check.advice == "Choose the account that holds the zone."
    assert checked(row).unarmed_reason.startswith("zone: ")


def test_a_zone_that_is_gone(rail: Rail) -> None:
    row = checked(row_on(rail))
    assert row.armed_at
    if isinstance(rail, AmazonRail):
        rail.fake.remove(rail.zone_id)
    else:
        assert isinstance(rail, PowerRail)
        rail.server._api.delete(f"/zones/{rail.zone}.").raise_for_status()
    checked(row)
    assert row.armed_at is None and "zone: " in row.unarmed_reason, "disarmed, and nothing broke"


def test_revoked_permissions_disarm_and_are_the_accounts_trouble(amazon: AmazonRail) -> None:
    row = checked(row_on(amazon))
    amazon.fake.revoke(OWN_ACCOUNT)
    assert_red(listed(row)["permissions"], "not authorized")
    checked(row)
    row.account.refresh_from_db()
    assert (row.armed_at, row.account.trouble) == (None, "access_denied")
    checked(row)
    assert Event.objects.filter(kind="dns_account.failing").count() == 1
    amazon.fake.restore(OWN_ACCOUNT)
    checked(row)
    row.account.refresh_from_db()
    assert (row.armed_at is not None, row.account.trouble) == (True, "")
    assert kinds() == ["domain.armed", "domain.disarmed", "domain.armed"]


def test_a_key_that_is_refused(power: PowerRail) -> None:
    row = row_on(power)
    row.account.seal({"api_key": "an-old-one"})
    row.account.save()
    assert_red(listed(row)["API"], "401")
    RecordSet.objects.update(zone="")
    assert_red(listed(row)["permissions"], "401")


def test_what_is_out_of_reach_neither_arms_nor_disarms(power: PowerRail) -> None:
    row, now = row_on(power), timezone.now()
    power.proxy.fail("GET", "reset_before", times=1000)
    assert_red(listed(row)["API"], "", is_unclear=True)
    assert checked(row, now).armed_at is None
    power.recover()
    assert checked(row, now).armed_at == now
    power.proxy.fail("GET", "reset_before", times=1000)
    assert checked(row, now).armed_at == now
    assert row.next_check_at == now + 10 * MINUTE, "sooner than tomorrow"
    assert kinds() == ["domain.armed"]


def test_the_half_of_the_calls_that_storms_have_is_left_to_them(amazon: AmazonRail) -> None:
    row = row_on(amazon)
    DnsAccount.objects.update(burst_calls=100, calls_left=50, calls_left_at=timezone.now(), calls_per_second=0.1)
    assert_red(listed(row)["account"], "used up", is_unclear=True)
    assert DnsAccount.objects.get().trouble == "", "that is no trouble of the account"


def test_a_record_that_is_not_ours(rail: Rail) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", "old.cdn.test.")
    assert_red(listed(row)["record"], "old.cdn.test")
    assert checked(row).armed_at is None


def test_a_share_on_every_path_must_fit(rail: Rail) -> None:
    """What fits at 100/0 may not in a storm."""
    row = row_on(rail)
    long = "a-rather-long-label-as-some-vendors-make-them.of-a-customer.of-a-region"
    for rank in (2, 3):
        factories.target("backup", domain=row.domain, rank=rank, address=f"{long}-{rank}.cdn.test")
    see(row, timezone.now())
    check = listed(row)["size"]
    if rail.name == "route53":
        assert check.holds
    else:
        assert_red(check, "4 targets with names so long that its record takes")
        Target.objects.filter(rank=3).update(enabled=False)
        assert listed(row)["size"].holds


def test_a_path_that_no_vendor_may_be_given(row: RecordSet) -> None:
    row.domain.targets.filter(role="backup").update(address="192.0.2.1")
    assert_red(listed(row)["size"], "192.0.2.1")


@pytest.mark.parametrize("with_form", [False, True])
def test_an_apex(rail: Rail, with_form: bool) -> None:
    row = row_on(rail)
    row.domain.hostname = rail.zone
    row.domain.save()
    form = {target.address: ["192.0.2.1"] for target in row.domain.targets.all()} if with_form else {}
    RecordSet.objects.update(apex_addresses=form)
    check = listed(row)["name"]
    if rail.name == "route53" and with_form:
        assert check.holds
    else:
        assert_red(check, "apex, where no CNAME may stand")
        assert checked(row).armed_at is None


# --- where the world looks ----------------------------------------------------------------------------------------------


def delegated(scripted: ScriptedDns, settings: Any, zones: dict[str, list[str]]) -> None:
    """What the resolver says of who serves which zone."""

    def script(query: Any, protocol: str) -> Any:
        reply = query.reply(ra=1)
        name = str(query.q.qname).rstrip(".")
        for server in zones.get(name, []) if query.q.qtype == QTYPE.NS else []:
            reply.add_answer(*RR.fromZone(f"{name}. 60 NS {server}."))
        return reply

    scripted.script = script
    settings.AUTHORITY_OVERRIDES, settings.DNS_RESOLVERS = {}, [scripted.text]


def test_a_delegation_to_other_servers(amazon: AmazonRail, scripted: ScriptedDns, settings: Any) -> None:
    row, zone = row_on(amazon), amazon.zone
    own = list(amazon.fake.zones[amazon.zone_id].name_servers)
    delegated(scripted, settings, {zone: own})
    assert listed(row)["delegation"].holds
    assert checked(row).armed_at

    delegated(scripted, settings, {zone: ["ns1.other.test", "ns2.other.test"]})
    check = listed(row)["delegation"]
    assert_red(check, f"{zone} is delegated to ns1.other.test, ns2.other.test, and this account’s zone has {own[0]}")
    assert checked(row).armed_at is None
    assert row.unarmed_reason.startswith("delegation: ")

    delegated(scripted, settings, {zone: [*own, "ns1.other.test"]})
    assert_red(listed(row)["delegation"], f"{zone} is delegated to ns1.other.test, and")  # who asks there sees nothing


def test_name_servers_by_other_names_count_once_they_show_what_was_written(
    amazon: AmazonRail, scripted: ScriptedDns, settings: Any
) -> None:
    row = row_on(amazon)
    delegated(scripted, settings, {amazon.zone: [f"ns1.{amazon.zone}"]})
    assert not listed(row)["delegation"].holds
    RecordSet.objects.update(generation=1, observed_generation=1)
    assert listed(row)["delegation"].holds
    RecordSet.objects.update(drifted_since=timezone.now())
    assert not listed(row)["delegation"].holds


def test_a_zone_below_that_hides_the_accounts(amazon: AmazonRail, scripted: ScriptedDns, settings: Any) -> None:
    row = row_on(amazon)
    hostname = row.domain.hostname
    delegated(scripted, settings, {amazon.zone: ["ns1.own.test"], hostname: ["ns1.other.test"]})
    assert_red(listed(row)["delegation"], f"the world finds {hostname} in the zone {hostname}, not in {amazon.zone}")


def test_a_resolver_that_fails(power: PowerRail, scripted: ScriptedDns, settings: Any) -> None:
    row = checked(row_on(power))
    delegated(scripted, settings, {})
    scripted.script = lambda query, _: _servfail(query)
    assert_red(listed(row)["delegation"], "SERVFAIL", is_unclear=True)
    assert checked(row).armed_at


def _servfail(query: Any) -> Any:
    reply = query.reply()
    reply.header.rcode = RCODE.SERVFAIL
    return reply


def test_a_zone_that_two_accounts_hold(power: PowerRail) -> None:
    first, second = row_on(power), row_on(power)
    for row, other in ((first, second), (second, first)):
        check = listed(row)["one account"]
        assert_red(check, f"another account holds {power.zone} too")
        assert other.account.name not in check.text, "whose it is, is nobody else's business"
    assert checked(first).armed_at is None
    DnsAccount.objects.filter(pk=second.account_id).update(customer=first.customer)
    assert_red(listed(first)["one account"], f"{second.account.name} holds {power.zone} too")


def test_whose_writes_dns_shows_holds_the_zone(power: PowerRail) -> None:
    first, second = row_on(power), row_on(power)
    RecordSet.objects.filter(pk=first.pk).update(generation=3, observed_generation=3)
    assert "one account" not in listed(first)
    assert not listed(second)["one account"].holds


def test_a_claim_that_is_not_proven_disarms_nobody(power: PowerRail) -> None:
    first, second = row_on(power), row_on(power)
    second.domain.verified_at = None
    second.domain.save()
    assert "one account" not in listed(first)
    assert checked(first).armed_at


def test_dns_that_an_insured_cdn_runs(power: PowerRail, scripted: ScriptedDns, settings: Any) -> None:
    row = row_on(power)
    delegated(scripted, settings, {power.zone: ["ada.ns.cloudflare.test"]})
    assert listed(row)["independence"].holds
    cdn = row.domain.targets.get(role="primary").cdn
    assert cdn
    cdn.name_servers = ["*.NS.cloudflare.test"]
    cdn.save()
    text = f"ada.ns.cloudflare.test is {cdn}’s own DNS: it may fall together with the primary path"
    assert_red(listed(row)["independence"], text, is_must=False)
    assert checked(row).armed_at


def test_route53_before_cloudfront(amazon: AmazonRail) -> None:
    row = row_on(amazon)
    assert listed(row)["independence"].holds
    row.domain.targets.filter(role="primary").update(address="d1.cloudfront.net")
    assert_red(listed(row)["independence"], "Route 53 and d1.cloudfront.net hang on one vendor", is_must=False)
    RecordSet.objects.update(data_plane=True)
    assert listed(row)["independence"].holds


# --- what caches keep ---------------------------------------------------------------------------------------------------


def test_a_ttl_that_makes_failover_slow(row: RecordSet) -> None:
    assert listed(row)["ttl"].holds
    row.ttl_seconds = 120
    row.save()
    assert_red(listed(row)["ttl"], "120 s")
    assert checked(row).unarmed_reason == "ttl: 120 s"


@pytest.mark.parametrize("ttl", [120, 86_400])
def test_what_stood_there_before_must_run_out_of_caches(rail: Rail, ttl: int) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", "old.cdn.test.", ttl=ttl)
    assert checked(row).unarmed_reason.startswith("record: ")
    ownership.adopt(row, User.objects.create_user("op"))
    row.refresh_from_db()
    assert row.arms_at and timedelta(0) < row.arms_at - timezone.now() - ttl * SECOND + 5 * SECOND < 5 * SECOND
    check = listed(row)["caches"]
    assert_red(check, f"may keep the record that stood there before until {row.arms_at:%Y-%m-%d %H:%M} UTC")
    for before in (ttl * SECOND - SECOND, SECOND):
        see(row, at := row.arms_at - before)
        assert checked(row, at).unarmed_reason.startswith("caches: ")
    assert row.next_check_at == row.arms_at, "not a minute later"
    see(row, row.arms_at)
    assert checked(row, row.arms_at).armed_at == row.arms_at


# --- the paths' side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        ({"verdict": "DOWN"}, "backup.cdn.test is DOWN"),
        ({"verdict": "UNKNOWN"}, "is UNKNOWN"),
        ({"newest_good_at": None}, "has no fresh good sample"),
        ({"newest_good_at": timezone.now() - HOUR}, "has no fresh good sample"),
        ({"evaluated_at": timezone.now() - HOUR}, "was last judged at"),
    ],
)
def test_a_backup_without_good_samples(row: RecordSet, spoil: dict[str, Any], text: str) -> None:
    assert listed(row)["backup"].holds
    see(row, timezone.now(), "backup", **spoil)
    assert_red(listed(row)["backup"], text)


def test_no_backup(row: RecordSet) -> None:
    row.domain.targets.filter(role="backup").update(enabled=False)
    assert_red(listed(row)["backup"], "there is none")


def test_certificates(row: RecordSet) -> None:
    now = timezone.now()
    assert listed(row)["certificate"].holds
    cases = [
        ("primary", None, "none was seen at primary.cdn.test", True),
        ("primary", now - HOUR, "that of primary.cdn.test ended on", True),
        ("backup", now - HOUR, "that of backup.cdn.test ended on", True),
        ("primary", now + 5 * DAY, "that of primary.cdn.test ends on", False),
        ("backup", now + 5 * DAY, "that of backup.cdn.test ends on", False),
    ]
    for role, expires_at, text, is_must in cases:
        see(row, now)
        see(row, now, role, certificate_expires_at=expires_at)
        assert_red(listed(row)["certificate"], text, is_must=is_must)
    see(row, now, certificate_expires_at=now + 5 * DAY)
    see(row, now, "backup", certificate_expires_at=now - HOUR)
    assert_red(listed(row)["certificate"], "ended on")  # the graver is not hidden by the other


def test_a_further_backup_without_certificate_is_told_and_keeps_nobody_from_protection(row: RecordSet) -> None:
    factories.target("backup", domain=row.domain, rank=2, address="third.cdn.test")
    assert_red(listed(row)["certificate"], "none was seen at third.cdn.test", is_must=False)
    assert checked(row).armed_at


def test_caa_records_that_forbid_the_backups_authorities(power: PowerRail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caa, "allowed", ALLOWED)
    row = row_on(power)
    cdn = row.domain.targets.get(role="backup").cdn
    assert cdn
    cdn.certificate_authorities = ["LetsEncrypt.org.", "pki.goog"]
    cdn.save()
    put(power, power.zone, "CAA", '0 issue "pki.goog"')
    assert listed(row)["caa"].holds, "one of them may"
    put(power, power.zone, "CAA", '0 issue "digicert.com"')
    check = listed(row)["caa"]
    assert_red(check, f"{cdn}: The CAA records of {power.zone} don't let letsencrypt.org, pki.goog", is_must=False)
    assert checked(row).armed_at

    def silent(hostname: str) -> caa.Allowed:
        raise lookup.LookupFailed("no name server told")

    monkeypatch.setattr(caa, "allowed", silent)
    assert_red(listed(row)["caa"], "no name server told", is_must=False, is_unclear=True)


@pytest.fixture
def sites(pki: Path, settings: Any) -> Iterator[list[TlsSite]]:
    settings.PROBE_EXTRA_CA_FILE = str(pki / "ca.pem")
    sites = [TlsSite(pki / "good.pem") for _ in range(2)]
    yield sites
    for site in sites:
        site.close()


def test_parity(sites: list[TlsSite], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_parity", PARITY)
    service = factories.service(probe_headers={"X-Probe": "a word"})
    domain = factories.domain(service=service, hostname=tls.HOST)
    for role, site in zip(("primary", "backup"), sites, strict=True):
        factories.target(role, domain=domain, address=site.address, port=site.port)
    row = prepared(factories.record_set(domain=domain))
    assert listed(row)["parity"].text == f"All 5 URLs of {tls.HOST} answer alike through both paths."
    assert {request.headers["x-probe"] for site in sites for request in site.requests} == {"a word"}
    sites[1].answer = tls.respond(503)
    assert_red(listed(row)["parity"], "does not answer like the primary: / (status)", is_must=False)

    sites[1].accepts = 0
    see(row, timezone.now(), "backup", verdict="DOWN")
    assert_red(listed(row)["parity"], "127.0.0.1 is DOWN", is_must=False, is_unclear=True)
    assert sites[1].accepts == 0, "who is down is not waited for"
    see(row, timezone.now())
    SteeringTerms.objects.create(customer=service.customer, service=service, parity_paths=["/ü"])
    assert_red(listed(row)["parity"], "“/ü”: use printable ASCII", is_must=False)


def test_a_drill(row: RecordSet) -> None:
    now = timezone.now()
    assert_red(listed(row)["drill"], "no good drill within 30 days", is_must=False)
    drill = Drill.objects.create(
        customer=row.customer, service=row.domain.service, state="passed", ended_at=now - 29 * DAY
    )
    assert listed(row)["drill"].holds
    for spoil in ({"ended_at": now - 31 * DAY}, {"ended_at": now, "state": "failed"}):
        Drill.objects.filter(pk=drill.pk).update(**spoil)
        assert not listed(row)["drill"].holds


# --- armed and disarmed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "arms", "stays"),
    [
        (Check("zone", True, "there"), True, True),
        (Check("zone", False, "gone"), False, False),
        (Check("zone", False, "nobody knows", is_unclear=True), False, True),
        (Check("caa", False, "forbidden", is_must=False), True, True),
        (Check("backup", False, "down"), False, True),
        (Check("certificate", False, "ended"), False, True),
        (Check("caches", False, "not yet"), False, True),
    ],
    ids=lambda value: f"{value.name} {value.text}" if isinstance(value, Check) else None,
)
def test_what_arms_and_what_disarms(row: RecordSet, check: Check, arms: bool, stays: bool) -> None:
    now = timezone.now()
    for since, expected in ((None, arms), (now - DAY, stays)):
        RecordSet.objects.update(armed_at=since, unarmed_reason="" if since else "not checked yet")
        readiness._store(RecordSet.objects.get(), [Check("proof", True, "proven"), check], now)
        row.refresh_from_db()
        assert (row.armed_at is not None) is expected
        assert row.unarmed_reason == ("" if expected else f"{check.name}: {check.text}")
        assert [stored["text"] for stored in row.checks] == ["proven", check.text]


def test_arming_and_disarming_are_told_and_planned_at_once(row: RecordSet, monkeypatch: pytest.MonkeyPatch) -> None:
    row.account.customer = row.customer  # whose own words the vendor's are
    row.account.save()
    found = [Check("zone", False, "gone for good\0")]
    monkeypatch.setattr(readiness, "list_of", lambda row, now: found)
    checked(row)
    assert kinds() == [] and not row.is_restless, "it was not armed before"
    found[:] = [Check("zone", True, "there")]
    checked(row)
    RecordSet.objects.update(is_restless=False)
    found[:] = [Check("backup", False, "down"), Check("zone", False, "gone for good\0")]
    checked(row)
    assert row.is_restless
    events = Event.objects.filter(kind__startswith="domain.", customer=row.customer).order_by("pk")
    assert [(event.kind, event.summary) for event in events] == [
        ("domain.armed", "www.shop.test is armed"),
        ("domain.disarmed", "www.shop.test is disarmed: zone: gone for good\N{REPLACEMENT CHARACTER}"),
    ]


def test_a_storm_over_an_unarmed_domain_is_held_and_others_go_on() -> None:
    unarmed, other = (steered_service(vendor="log") for _ in range(2))
    row = unarmed.domains.get().record_set
    RecordSet.objects.filter(pk=row.pk).update(armed_at=None, unarmed_reason="delegation: the world looks elsewhere")
    act()
    storm_over(unarmed), storm_over(other)
    act()
    held = newest(unarmed)
    assert (held.state, held.refusal, split(held)["backup-1"]) == ("held", "not_armed", 100)
    assert held.held_reason == f"not_armed: {row.domain} is not armed: delegation: the world looks elsewhere"
    assert (newest(other).state, split(newest(other))["backup-1"]) == ("observed", 100)
    for target in row.domain.targets.all():
        PathVerdict.objects.filter(target=target).update(certificate_expires_at=timezone.now() + 90 * DAY)
    checked(row)
    act()
    assert (newest(unarmed).state, split(newest(unarmed))["backup-1"]) == ("observed", 100)


def act() -> None:
    steering.steer(timezone.now())
    outbox.submit(timezone.now())


# --- whose turn it is ---------------------------------------------------------------------------------------------------


def test_when_a_list_is_gone_through_again(row: RecordSet, monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    found = [Check("zone", False, "gone")]
    monkeypatch.setattr(readiness, "list_of", lambda row, now: found)
    assert checked(row, now).next_check_at == now + 5 * SECOND
    row.domain.created_at = now - 20 * MINUTE
    row.domain.save()
    assert checked(row, now).next_check_at == now + MINUTE
    row.domain.created_at = now - 2 * HOUR
    row.domain.save()
    assert checked(row, now).next_check_at == now + 10 * MINUTE
    found[:] = [Check("zone", True, "there"), Check("backup", True, "up")]
    assert checked(row, now).next_check_at == now + DAY
    found[1:] = [Check("backup", False, "down")]
    assert checked(row, now).next_check_at == now + DAY
    found[:] = [Check("zone", False, "nobody knows", is_unclear=True)]
    assert checked(row, now).next_check_at == now + 10 * MINUTE
    found[:] = [Check("zone", False, "gone")]
    assert checked(row, now).next_check_at == now + MINUTE, "it was disarmed just now"
    assert checked(row, now).next_check_at == now + 10 * MINUTE


def test_an_edit_meanwhile_is_not_forgotten(row: RecordSet, monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()

    def edited(row: RecordSet, now: datetime) -> list[Check]:
        RecordSet.objects.update(ttl_seconds=20, next_check_at=now + SECOND)
        return [Check("ttl", True, "30 s")]

    monkeypatch.setattr(readiness, "list_of", edited)
    checked(row, now)
    assert (row.ttl_seconds, row.next_check_at) == (20, now + SECOND)


def rows(count: int) -> list[RecordSet]:
    found = []
    for number in range(count):
        domain = factories.domain(hostname=f"www{number}.shop.test")
        for role in ("primary", "backup"):
            factories.target(role, domain=domain, address=f"{role}{number}.cdn.test")
        found.append(prepared(factories.record_set(domain=domain)))
    return found


def test_a_turn_has_its_time_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = timezone.now(), list[int]()

    def slow(row: RecordSet, now: datetime) -> list[Check]:
        seen.append(row.pk)
        time.sleep(0.03)
        return [Check("zone", True, "there")]

    monkeypatch.setattr(readiness, "list_of", slow)
    monkeypatch.setattr(readiness, "BUSY_SECONDS", 0.05)
    due = [row.pk for row in rows(5)]
    for place, pk in enumerate(due):
        RecordSet.objects.filter(pk=pk).update(next_check_at=now - (9 - place) * MINUTE)
    assert readiness.check_due(now) in (1, 2)
    assert seen == due[: len(seen)], "who waits longest is first"
    monkeypatch.setattr(readiness, "BUSY_SECONDS", 10)
    readiness.check_due(now)
    assert seen == due
    assert readiness.check_due(now) == 0


def test_nobody_has_anothers_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, released, deleted = rows(4)
    now, seen = timezone.now(), list[int]()
    RecordSet.objects.filter(pk=released.pk).update(released_at=now)
    type(deleted.domain).objects.filter(pk=deleted.domain_id).update(deleted_at=now)
    RecordSet.objects.filter(pk=first.pk).update(next_check_at=now - HOUR)

    def at_the_same_time(row: RecordSet, now: datetime) -> list[Check]:
        seen.append(row.pk)
        return [] if readiness.check_due(now) else [Check("zone", True, "there")]

    monkeypatch.setattr(readiness, "list_of", at_the_same_time)
    assert readiness.check_due(now) == 1
    assert seen == [first.pk, second.pk]


def test_what_was_released_meanwhile_is_not_armed(row: RecordSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def release(row: RecordSet, now: datetime) -> list[Check]:
        RecordSet.objects.update(released_at=now, unarmed_reason="its records were given back")
        return [Check("zone", True, "there")]

    monkeypatch.setattr(readiness, "list_of", release)
    assert (checked(row).armed_at, row.unarmed_reason) == (None, "its records were given back")


def test_a_check_that_breaks_is_logged_and_unclear_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    armed, unarmed, well = rows(3)
    now = timezone.now()
    RecordSet.objects.filter(pk=armed.pk).update(armed_at=now - DAY)
    certificate: Callable[..., Check] = readiness._certificate

    def broken(domain: Any, *args: Any) -> Check:
        if domain.pk != well.domain_id:
            raise RuntimeError("as the test wants")
        return certificate(domain, *args)

    monkeypatch.setattr(readiness, "_certificate", broken)
    assert readiness.check_due(now) == 3
    for row in (armed, unarmed, well):
        row.refresh_from_db()
    assert [row.armed_at for row in (armed, unarmed, well)] == [now - DAY, None, now]
    assert unarmed.unarmed_reason == "certificate: this check broke, which is our fault"
    stored = {check["name"]: check for check in unarmed.checks}
    assert stored["certificate"]["is_unclear"] and stored["parity"]["holds"], "the rest of the list was gone through"
    assert [r.message for r in caplog.records] == ["the check “certificate” broke"] * 2
    assert all(record.exc_info for record in caplog.records)


def test_a_list_that_can_not_be_stored_is_not_the_first_of_every_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = rows(2)
    now = timezone.now()
    store: Callable[..., None] = readiness._store

    def broken(row: RecordSet, *args: Any) -> None:
        if row.pk == bad.pk:
            raise RuntimeError("as the test wants")
        store(row, *args)

    monkeypatch.setattr(readiness, "_store", broken)
    assert readiness.check_due(now) == 2
    bad.refresh_from_db()
    good.refresh_from_db()
    assert (good.armed_at, bad.next_check_at) == (now, now + 10 * MINUTE)
    assert f"record set {bad.pk} could not be gone through" in caplog.text
