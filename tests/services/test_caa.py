"""CAA records in a real PowerDNS, and the rules of RFC 8659 in tables."""

from __future__ import annotations

from typing import Any

import dnslib
import pytest
from dnslib import QTYPE, RR

from services import caa
from services.caa import Allowed, allowed, judge, missing, problem
from services.lookup import LookupFailed
from tests.servers import PowerDns, ScriptedDns, free_port, powerdns_fixture, scripted_fixture  # noqa: F401

HOST = "www.cust.test"
LETSENCRYPT, DIGICERT = '0 issue "letsencrypt.org"', '0 issue "DigiCert.com"'


@pytest.fixture
def zone(powerdns: PowerDns, settings: Any) -> PowerDns:
    powerdns.zone("cust.test")
    powerdns.zone("cdn.test")
    powerdns.put("cust.test", HOST, "A", "192.0.2.1")
    settings.AUTHORITY_OVERRIDES = {"cust.test": powerdns.text, "cdn.test": powerdns.text}
    return powerdns


def test_without_records_anybody_may_issue(zone: PowerDns) -> None:
    assert allowed(HOST) == Allowed(HOST, None)
    assert allowed(f"not.there.{HOST}").issuers is None


def test_the_records_at_the_name_count(zone: PowerDns) -> None:
    zone.put("cust.test", "cust.test", "CAA", '0 issue "pki.goog"')
    zone.put("cust.test", HOST, "CAA", LETSENCRYPT, DIGICERT, '0 iodef "mailto:a@cust.test"')
    assert allowed("WWW.cust.test.") == Allowed(HOST, frozenset({"letsencrypt.org", "digicert.com"}), HOST)


def test_else_those_of_the_nearest_parent_that_has_some(zone: PowerDns) -> None:
    zone.put("cust.test", "cust.test", "CAA", LETSENCRYPT)
    assert allowed(HOST) == Allowed(HOST, frozenset({"letsencrypt.org"}), "cust.test")
    assert allowed(f"deep.down.{HOST}").found_at == "cust.test"


def test_they_may_stand_in_the_zone_above(zone: PowerDns, scripted: ScriptedDns, settings: Any) -> None:
    scripted.script = lambda query, _: query.reply(aa=1)
    settings.AUTHORITY_OVERRIDES |= {"sub.cust.test": scripted.text}
    zone.put("cust.test", "cust.test", "CAA", LETSENCRYPT)
    assert allowed("www.sub.cust.test").found_at == "cust.test"
    assert len(scripted.seen) == 2, "www.sub.cust.test and sub.cust.test"


def test_a_semicolon_forbids_everybody(zone: PowerDns) -> None:
    zone.put("cust.test", HOST, "CAA", '0 issue ";"')
    zone.put("cust.test", "cust.test", "CAA", LETSENCRYPT)
    assert allowed(HOST) == Allowed(HOST, frozenset(), HOST)


def test_wildcards_have_a_property_of_their_own(zone: PowerDns) -> None:
    zone.put("cust.test", "cust.test", "CAA", LETSENCRYPT, '0 issuewild "pki.goog"')
    assert allowed(HOST).issuers == {"letsencrypt.org"}
    assert allowed("*.cust.test") == Allowed("*.cust.test", frozenset({"pki.goog"}), "cust.test", tag="issuewild")
    zone.put("cust.test", "cust.test", "CAA", LETSENCRYPT)
    assert allowed("*.cust.test").issuers == {"letsencrypt.org"}


def test_behind_a_cname_the_targets_records_count_but_not_those_above_it(zone: PowerDns) -> None:
    zone.put("cust.test", "app.cust.test", "CNAME", "edge.cdn.test.")
    zone.put("cust.test", "cust.test", "CAA", LETSENCRYPT)
    zone.put("cdn.test", "cdn.test", "CAA", '0 issue "never.test"')
    zone.put("cdn.test", "edge.cdn.test", "CNAME", "pop.cdn.test.")
    zone.put("cdn.test", "pop.cdn.test", "A", "192.0.2.1")
    assert allowed("app.cust.test").found_at == "cust.test"
    zone.put("cdn.test", "pop.cdn.test", "CAA", '0 issue "pki.goog"')
    found = allowed("app.cust.test")
    assert found == Allowed("app.cust.test", frozenset({"pki.goog"}), "pop.cdn.test", alias="app.cust.test")
    assert "pop.cdn.test (where app.cust.test leads by CNAME)" in problem(found, ["letsencrypt.org"])


def test_aliases_in_a_circle_end(scripted: ScriptedDns, settings: Any) -> None:
    def script(query: Any, _protocol: str) -> Any:
        reply = query.reply(aa=1)
        reply.add_answer(RR(query.q.qname, QTYPE.CNAME, rdata=dnslib.CNAME("a.cust.test")))
        return reply

    scripted.script = script
    settings.AUTHORITY_OVERRIDES = {"cust.test": scripted.text}
    with pytest.raises(LookupFailed, match=r"a\.cust\.test is behind more than 8 CNAMEs"):
        allowed("a.cust.test")


# --- silence is not "anybody" -----------------------------------------------------------------------------------------


def test_a_server_that_does_not_know_the_zone_tells_nothing(zone: PowerDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"elsewhere.test": zone.text}
    with pytest.raises(LookupFailed, match=r"no name server of elsewhere\.test told .* REFUSED"):
        allowed("www.elsewhere.test")


def test_one_server_that_answers_is_enough(zone: PowerDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cust.test": f"127.0.0.1:{free_port()};{zone.text}"}
    zone.put("cust.test", HOST, "CAA", LETSENCRYPT)
    assert allowed(HOST).issuers == {"letsencrypt.org"}


def test_a_failing_name_is_not_passed_over_for_its_parent(scripted: ScriptedDns, settings: Any) -> None:
    def script(query: Any, _protocol: str) -> Any:
        reply = query.reply(aa=1)
        if str(query.q.qname) == "cust.test.":
            reply.add_answer(RR("cust.test", QTYPE.CAA, rdata=dnslib.CAA(0, "issue", "letsencrypt.org")))
        else:
            reply.header.rcode = dnslib.RCODE.SERVFAIL
        return reply

    scripted.script = script
    settings.AUTHORITY_OVERRIDES = {"cust.test": scripted.text}
    assert allowed("cust.test").issuers == {"letsencrypt.org"}
    with pytest.raises(LookupFailed, match="SERVFAIL"):
        allowed(HOST)


def test_looking_ends(zone: PowerDns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caa, "_SECONDS", -1.0)
    with pytest.raises(LookupFailed, match="took longer"):
        allowed(HOST)


# --- what records mean ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "issuers"),
    [
        (['0 issue "a.test"', '0 issue "b.test"'], {"a.test", "b.test"}),
        (['0 issue ";"', '0 issue "a.test"'], {"a.test"}),
        (['0 issue ""'], set()),
        (['0 issue " a.test ; account=1; validationmethods=dns-01"'], {"a.test"}),
        (['0 issue "; policy=ev"'], set()),
        (['0 ISSUE "A.Test."'], {"a.test"}),
        (['0 issue "not a name"'], set()),
        (['0 issuewild "a.test"'], None),
        (['0 iodef "mailto:a@b.test"'], None),
        (['128 issue "a.test"'], {"a.test"}),
        (['128 iodef "mailto:a@b.test"'], None),
        (['0 tbs "unknown"', '0 issue "a.test"'], {"a.test"}),
        (['0 tbs "unknown"'], None),
        (['128 tbs "unknown"', '0 issue "a.test"'], set()),
        (['128 a b "unknown"', '0 issue "a.test"'], set()),
        (['1 tbs "only the first bit is critical"'], None),
    ],
)
def test_a_set_of_records_allows(records: list[str], issuers: set[str] | None) -> None:
    found = judge(HOST, "cust.test", list(map(caa._property, records)))
    assert found.issuers == issuers
    assert found.found_at == "cust.test"


# --- what is wrong ----------------------------------------------------------------------------------------------------

CDN = ["letsencrypt.org", "pki.goog"]


def test_nothing_is_wrong_where_anybody_or_all_of_them_may_issue() -> None:
    assert problem(Allowed(HOST), CDN) == ""
    assert problem(Allowed(HOST, frozenset({"pki.goog", "letsencrypt.org", "x.test"}), HOST), CDN) == ""
    assert problem(Allowed(HOST, frozenset(), HOST), []) == ""
    assert missing(Allowed(HOST, frozenset({"pki.goog"}), HOST), ["PKI.goog."]) == []


def test_the_records_to_add_are_written_out() -> None:
    assert problem(Allowed(HOST, frozenset({"digicert.com"}), "cust.test"), CDN) == (
        "The CAA records of cust.test don't let letsencrypt.org, pki.goog issue a certificate for www.cust.test, so this CDN "
        'gets no certificate. Add beside them: cust.test. CAA 0 issue "letsencrypt.org", cust.test. CAA 0 issue "pki.goog"'
    )


def test_one_of_several_that_may_not_is_a_lesser_problem() -> None:
    said = problem(Allowed(HOST, frozenset({"pki.goog"}), "cust.test"), CDN)
    assert "don't let letsencrypt.org issue" in said
    assert "which this CDN may use as well" in said


def test_for_a_wildcard_the_property_that_decides_is_to_be_added() -> None:
    wild = Allowed("*.cust.test", frozenset(), "cust.test", tag="issuewild")
    assert 'cust.test. CAA 0 issuewild "pki.goog"' in problem(wild, ["pki.goog"])


def test_what_no_authority_knows_is_to_be_removed() -> None:
    found = judge(HOST, "cust.test", [caa.Property(True, "tbs", "x")])
    assert "critical property, “tbs”" in problem(found, CDN)
    assert "remove it" in problem(found, CDN)
