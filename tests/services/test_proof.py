"""Proofs against a real PowerDNS and a scripted server beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from dnslib import RCODE, RR

from customers.models import Event
from services import proof
from services.models import ServiceDomain
from tests import factories
from tests.servers import PowerDns, ScriptedDns, free_port, powerdns_fixture, scripted_fixture  # noqa: F401

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOSTNAME = "www.cust.test"
CHALLENGE = f"_tranche-challenge.{HOSTNAME}"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(proof, "_TIMEOUT_SECONDS", 0.3)
    return


@pytest.fixture
def zone(powerdns: PowerDns, settings: Any) -> PowerDns:
    powerdns.zone("cust.test")
    settings.AUTHORITY_OVERRIDES = {"cust.test": powerdns.text}
    return powerdns


def claim(**kw: Any) -> ServiceDomain:
    return factories.domain(**{"verified": False, "hostname": HOSTNAME} | kw)


def show(dns: PowerDns, *domains: ServiceDomain) -> None:
    dns.put("cust.test", CHALLENGE, "TXT", *(f'"{domain.challenge_value}"' for domain in domains))


def events() -> list[tuple[str, int | None, int]]:
    return list(Event.objects.order_by("id").values_list("kind", "customer_id", "subject_id"))


@pytest.mark.django_db
def test_a_shown_token_verifies_the_domain(zone: PowerDns) -> None:
    domain = claim()
    show(zone, domain)
    assert proof.check(domain, now=NOW) is domain
    assert (domain.verified_at, domain.checked_at) == (NOW, NOW)
    assert domain.check_result == "Verified: 1 of 1 name servers of cust.test answered, and showed the token."
    assert events() == [("domain.verified", domain.customer_id, domain.pk)]


@pytest.mark.django_db
def test_a_second_check_keeps_the_first_date_and_tells_nobody(zone: PowerDns) -> None:
    domain = claim()
    show(zone, domain)
    proof.check(domain, now=NOW)
    later = NOW.replace(hour=13)
    proof.check(domain, now=later)
    assert (domain.verified_at, domain.checked_at) == (NOW, later)
    assert len(events()) == 1


@pytest.mark.django_db
def test_other_text_is_no_proof(zone: PowerDns) -> None:
    domain, other = claim(), claim()
    zone.put("cust.test", CHALLENGE, "TXT", f'"{domain.challenge}"', f'"{other.challenge_value}"', '"v=spf1 -all"')
    proof.check(domain, now=NOW)
    assert (domain.verified_at, domain.checked_at) == (None, NOW)
    assert domain.check_result == (
        f"Not verified: the TXT record {CHALLENGE} with “{domain.challenge_value}” is missing at {zone.text}."
    )
    assert events() == []


@pytest.mark.django_db
def test_the_token_at_a_parents_name_is_no_proof(zone: PowerDns) -> None:
    domain = claim()
    zone.put("cust.test", "_tranche-challenge.cust.test", "TXT", f'"{domain.challenge_value}"')
    assert proof.check(domain).verified_at is None


@pytest.mark.django_db
def test_a_token_in_split_strings_among_others_is_a_proof(zone: PowerDns) -> None:
    domain = claim()
    value = domain.challenge_value
    zone.put("cust.test", CHALLENGE, "TXT", '"token=other"', f'"{value[:9]}" "{value[9:]}"')
    assert proof.check(domain).verified_at is not None


@pytest.mark.django_db
def test_a_cname_to_the_token_is_no_proof(zone: PowerDns) -> None:
    domain = claim()
    zone.put("cust.test", "elsewhere.cust.test", "TXT", f'"{domain.challenge_value}"')
    zone.put("cust.test", CHALLENGE, "CNAME", "elsewhere.cust.test.")
    proof.check(domain)
    assert domain.verified_at is None
    assert domain.check_result == (
        f"Not verified: {CHALLENGE} is a CNAME at {zone.text}; the TXT record must stand at this name itself."
    )


# --- what becomes of a proof ------------------------------------------------------------------------------------------

DAY = timedelta(days=1)


@pytest.mark.django_db
def test_a_lost_token_is_told_at_once_and_counts_after_three_days(zone: PowerDns) -> None:
    domain = claim(verified=True)
    zone.put("cust.test", CHALLENGE, "TXT", '"token=other"')
    verified_at = domain.verified_at
    for day, state in ((0, "missing"), (1, "missing"), (2, "missing"), (3, "lost"), (4, "lost")):
        now = NOW + day * DAY
        proof.check(domain, now=now)
        assert (domain.verified_at, domain.checked_at, domain.lost_since) == (verified_at, now, NOW)
        assert domain.proof_state(now) == state
        assert bool(domain.proof_problem(now)) is (state == "lost")
    assert domain.check_result.startswith("Still verified, but: the TXT record")
    assert [kind for kind, *_ in events()] == ["domain.proof_missing", "domain.proof_lost"]
    show(zone, domain)
    proof.check(domain, now=NOW + 5 * DAY)
    assert (domain.lost_since, domain.proof_problem(NOW + 5 * DAY)) == (None, "")
    assert [kind for kind, *_ in events()][-1] == "domain.proof_found"


@pytest.mark.django_db
def test_a_loss_between_two_looks_far_apart_is_told_once(zone: PowerDns) -> None:
    domain = claim(verified=True)
    for day in (0, 30, 31):
        proof.check(domain, now=NOW + day * DAY)
    assert [kind for kind, *_ in events()] == ["domain.proof_missing", "domain.proof_lost"]


@pytest.mark.django_db
def test_silence_is_no_loss(scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cust.test": scripted.text}
    domain = claim(verified=True)
    for script in (lambda query, _: None, _refusing):
        scripted.script = script
        proof.check(domain, now=NOW)
        assert (domain.lost_since, domain.proof_problem(NOW)) == (None, "")
        assert domain.check_result.startswith("Still verified, but: no name server")
    assert events() == []


def _refusing(query: Any, _protocol: str) -> Any:
    reply = query.reply(aa=1)
    reply.header.rcode = RCODE.SERVFAIL
    return reply


@pytest.mark.django_db
@pytest.mark.parametrize("is_shown", [True, False])
def test_a_token_that_was_never_published_expires(zone: PowerDns, is_shown: bool) -> None:
    domain = claim(challenge_issued_at=NOW - 31 * DAY)
    old = domain.challenge
    if is_shown:
        show(zone, domain)
    proof.check(domain, now=NOW)
    assert (domain.verified_at, domain.challenge_issued_at) == (None, NOW)
    assert domain.challenge != old and "Publish the new one" in domain.check_result
    show(zone, domain)
    assert proof.check(domain, now=NOW + DAY).verified_at == NOW + DAY


@pytest.mark.django_db
def test_the_token_of_a_verified_domain_does_not_expire(zone: PowerDns) -> None:
    domain = claim(verified=True, challenge_issued_at=NOW - 400 * DAY)
    show(zone, domain)
    assert proof.check(domain, now=NOW).proof_problem(NOW) == ""


@pytest.mark.django_db
def test_a_deleted_domain_is_not_verified(zone: PowerDns) -> None:
    domain = claim(deleted_at=NOW)
    show(zone, domain)
    proof.check(domain)
    assert (domain.verified_at, domain.check_result) == (None, "Not verified: the domain was deleted.")


@pytest.mark.django_db
def test_a_replaced_token_verifies_nothing(zone: PowerDns) -> None:
    domain = claim()
    show(zone, domain)
    ServiceDomain.objects.filter(pk=domain.pk).update(challenge="a-newer-one")
    assert proof.check(domain).check_result == "Not verified: the token was replaced while we looked for it."
    assert domain.verified_at is None


# --- several servers ------------------------------------------------------------------------------------------------


@pytest.fixture
def two_servers(zone: PowerDns, scripted: ScriptedDns, settings: Any) -> tuple[PowerDns, ScriptedDns]:
    settings.AUTHORITY_OVERRIDES = {"cust.test": f"{zone.text};{scripted.text}"}
    return zone, scripted


@pytest.mark.django_db
def test_every_answering_server_must_show_the_token(two_servers: tuple[PowerDns, ScriptedDns]) -> None:
    powerdns, scripted = two_servers
    domain = claim()
    show(powerdns, domain)
    scripted.script = lambda query, _: query.reply(aa=1)
    proof.check(domain)
    assert domain.verified_at is None
    assert domain.check_result.endswith(f"is missing at {scripted.text}.")

    def shows_it(query: Any, _protocol: str) -> Any:
        reply = query.reply(aa=1)
        reply.add_answer(*RR.fromZone(f'{CHALLENGE}. 5 IN TXT "{domain.challenge_value}"'))
        return reply

    scripted.script = shows_it
    assert proof.check(domain).check_result.startswith("Verified: 2 of 2 name servers")


@pytest.mark.django_db
@pytest.mark.parametrize("rcode", [None, "REFUSED", "SERVFAIL"])
def test_a_server_that_does_not_answer_is_passed_over(
    two_servers: tuple[PowerDns, ScriptedDns], rcode: str | None
) -> None:
    powerdns, scripted = two_servers
    domain = claim()
    show(powerdns, domain)

    def script(query: Any, _protocol: str) -> Any:
        reply = query.reply(aa=1)
        reply.header.rcode = getattr(RCODE, rcode or "NOERROR")
        return reply if rcode else None

    scripted.script = script
    proof.check(domain)
    assert domain.check_result == "Verified: 1 of 2 name servers of cust.test answered, and showed the token."


@pytest.mark.django_db
def test_an_answer_without_authority_is_no_proof(zone: PowerDns, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cust.test": f"{scripted.text};127.0.0.1:{free_port()}"}
    domain = claim()

    def from_a_cache(query: Any, _protocol: str) -> Any:
        reply = query.reply(aa=0)
        reply.add_answer(*RR.fromZone(f'{CHALLENGE}. 5 IN TXT "{domain.challenge_value}"'))
        return reply

    scripted.script = from_a_cache
    proof.check(domain)
    assert domain.verified_at is None
    assert domain.check_result.startswith(
        f"Not verified: no name server of cust.test answered for {CHALLENGE} ({scripted.text} is not authoritative; "
    )


@pytest.mark.django_db
def test_a_zone_that_cannot_be_found_is_said_and_the_sentence_fits(settings: Any) -> None:
    settings.DNS_RESOLVERS = [f"127.0.0.1:{free_port()}"]
    hostname = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 50, "test"])
    domain = claim(hostname=hostname)
    proof.check(domain, now=NOW)
    assert domain.checked_at == NOW
    assert domain.check_result.startswith("Not verified: the name servers were not found (resolver 127.0.0.1:")
    assert len(domain.check_result) <= 300


# --- several customers ----------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("who_goes", ["the contender", "the holder"])
def test_two_accounts_with_a_token_freeze_each_other_until_one_goes(zone: PowerDns, who_goes: str) -> None:
    first, second = claim(), claim()
    show(zone, first, second)
    proof.check(first, now=NOW)
    for _ in range(2):
        proof.check(second, now=NOW)
    first.refresh_from_db()
    assert (first.verified_at, second.verified_at, second.contested_since) == (NOW, None, NOW)
    assert second.check_result == (
        "Not verified: the token is there, but this hostname is verified for another account."
    )
    assert [domain.proof_state(NOW) for domain in (first, second)] == ["contested", "contested"]
    assert "another account" in first.proof_problem(NOW)
    told = [(kind, customer) for kind, customer, _ in events()][1:]
    assert sorted(told) == sorted(("domain.contested", domain.customer_id) for domain in (first, second))

    if who_goes == "the contender":
        show(zone, first)
        proof.check(second, now=NOW + DAY)
        assert second.contested_since is None
        assert first.proof_problem(NOW + DAY) == ""
    else:
        ServiceDomain.objects.filter(pk=first.pk).update(deleted_at=NOW)
        proof.check(second, now=NOW + DAY)
        assert second.verified_at == NOW + DAY and second.proof_problem(NOW + DAY) == ""


@pytest.mark.django_db
def test_a_deleted_contender_freezes_nobody(zone: PowerDns) -> None:
    first, second = claim(verified=True), claim(contested_since=NOW)
    assert first.proof_problem(NOW)
    ServiceDomain.objects.filter(pk=second.pk).update(deleted_at=NOW)
    assert first.proof_problem(NOW) == ""


@pytest.mark.django_db
def test_a_hostname_whose_proof_is_lost_goes_to_who_proves_it(zone: PowerDns) -> None:
    """And what the first account had published once proves nothing any more."""
    first, second = claim(), claim()
    show(zone, first)
    proof.check(first, now=NOW)
    old = first.challenge
    show(zone, second)
    proof.check(first, now=NOW + DAY)
    proof.check(second, now=NOW + DAY)
    assert second.verified_at is None, "one day is no loss"
    proof.check(second, now=NOW + 4 * DAY)
    first.refresh_from_db()
    assert (first.verified_at, first.lost_since, second.verified_at) == (None, None, NOW + 4 * DAY)
    assert first.challenge != old
    zone.put("cust.test", CHALLENGE, "TXT", f'"token={old}"', f'"{second.challenge_value}"')
    assert proof.check(first, now=NOW + 5 * DAY).verified_at is None
    assert [kind for kind, *_ in events()][-2:] == ["domain.released", "domain.verified"]
    assert ServiceDomain.objects.verified().get() == second


@pytest.mark.django_db
def test_what_is_due_is_looked_at_and_nothing_else(zone: PowerDns) -> None:
    hour = timedelta(hours=1)
    due = [
        claim(verified=True, checked_at=NOW - 25 * hour),
        claim(hostname="b.cust.test", checked_at=None),
        claim(hostname="c.cust.test", checked_at=NOW - hour, created_at=NOW - DAY),
        claim(hostname="d.cust.test", checked_at=NOW - 25 * hour, contested_since=NOW - DAY, created_at=NOW - 40 * DAY),
    ]
    rest = [
        claim(hostname="e.cust.test", verified=True, checked_at=NOW - 23 * hour),
        claim(hostname="f.cust.test", checked_at=NOW - 25 * hour, created_at=NOW - 8 * DAY),
        claim(hostname="g.cust.test", checked_at=NOW - timedelta(minutes=9), created_at=NOW - DAY),
        claim(hostname="h.cust.test", verified=True, checked_at=None, deleted_at=NOW),
    ]
    before = {domain.pk: domain.checked_at for domain in rest}
    assert proof.check_due(NOW, seconds=0) == 0
    assert proof.check_due(NOW, seconds=20) == len(due)
    for domain in due:
        domain.refresh_from_db()
        assert domain.checked_at and domain.checked_at > NOW
    assert {d.pk: d.checked_at for d in ServiceDomain.objects.filter(pk__in=before)} == before
    assert proof.check_due(NOW, seconds=20) == 0


@pytest.mark.django_db
@pytest.mark.parametrize("hostname", ["canary-1.demo.test", "localhost.test"])
def test_our_own_names_are_not_for_claiming(hostname: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["localhost.test"]
    factories.target("canary", hostname="canary-1.demo.test")
    domain = ServiceDomain(service=factories.service(), hostname=hostname)
    with pytest.raises(ValidationError, match="This hostname is ours"):
        domain.clean()


@pytest.mark.django_db
def test_an_unproven_claim_of_another_customer_blocks_nobody(zone: PowerDns) -> None:
    claim()
    mine = claim()
    show(zone, mine)
    assert proof.check(mine).verified_at is not None


@pytest.mark.django_db(transaction=True)
def test_of_customers_who_race_one_wins(zone: PowerDns) -> None:
    domains = [claim() for _ in range(8)]
    show(zone, *domains)
    start = threading.Barrier(len(domains))

    def race(domain: ServiceDomain) -> None:
        start.wait()
        try:
            proof.check(domain)
        finally:
            connection.close()

    threads = [threading.Thread(target=race, args=(domain,)) for domain in domains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ServiceDomain.objects.filter(verified_at__isnull=False).count() == 1
    assert ServiceDomain.objects.filter(check_result__contains="for another account").count() == 7
    assert [kind for kind, *_ in events()].count("domain.verified") == 1


@pytest.mark.django_db
def test_one_domain_keeps_no_other_from_being_looked_at(zone: PowerDns, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, well = claim(hostname="a.cust.test"), claim()
    show(zone, well)
    look = proof._look

    def stumble(domain: ServiceDomain) -> Any:
        if domain.pk == broken.pk:
            raise RuntimeError("unforeseen")
        return look(domain)

    monkeypatch.setattr(proof, "_look", stumble)
    assert proof.check_due(NOW, seconds=20) == 2
    broken.refresh_from_db()
    well.refresh_from_db()
    assert well.verified_at and broken.checked_at
    assert broken.check_result == "It could not be checked: RuntimeError."


@pytest.mark.parametrize(("length", "is_refused"), [(234, False), (235, True), (253, True)])
def test_a_hostname_leaves_room_for_the_name_of_its_record(length: int, is_refused: bool, db: None) -> None:
    labels = ".".join(["a" * 60] * 4)
    hostname = f"{labels}"[: length - 5].rstrip(".") + ".test"
    hostname = "b" * (length - len(hostname)) + hostname
    domain = ServiceDomain(service=factories.service(), hostname=hostname)
    assert len(hostname) == length
    if is_refused:
        with pytest.raises(ValidationError, match="At most 234 characters"):
            domain.clean()
    else:
        domain.clean()
