"""Facets from the service's choice to the verdict, the finding, the storm and its start."""

from __future__ import annotations

import pytest

from services import facets, rollups
from services.models import Service, Target
from storms.models import Finding, StormEvent
from storms.watch import watch
from tests import factories
from tests.storms.test_watch import NOW, Site, at

pytestmark = pytest.mark.django_db


def choose(site: Site, **kw: object) -> None:
    service = site.domain.service
    for name, value in kw.items():
        setattr(service, name, value)
    service.save()
    for facet in Target.objects.filter(role="facet").select_related("facet_of"):
        assert facet.facet_of
        site.targets[f"{facet.facet_of.role} {facet.facet}"] = facet


def shown() -> set[tuple[str, str, bool]]:
    return set(Target.objects.filter(role="facet").values_list("facet_of__role", "facet", "enabled"))


def test_facets_follow_the_service_and_are_never_deleted() -> None:
    site = Site.build()
    assert shown() == set()
    choose(site, uncacheable_path="/live", probe_ipv6=True)
    both = {(role, facet, True) for role in ("primary", "backup") for facet in ("ipv6", "uncacheable")}
    assert shown() == both, "the origin witness is always asked past every cache"
    ids = set(Target.objects.filter(role="facet").values_list("pk", flat=True))
    choose(site, probe_ipv4=False)
    assert {(role, facet) for role, facet, on in shown() if on} == {
        ("primary", "uncacheable"),
        ("backup", "uncacheable"),
    }
    choose(site, probe_ipv4=True)
    assert shown() == both
    assert set(Target.objects.filter(role="facet").values_list("pk", flat=True)) == ids


def test_facets_follow_their_path() -> None:
    site = Site.build()
    choose(site, uncacheable_path="/live")
    backup = site.targets["backup"]
    backup.enabled = False
    backup.save()
    assert shown() == {("primary", "uncacheable", True), ("backup", "uncacheable", False)}
    later = factories.target("backup", domain=site.domain, rank=2)
    assert Target.objects.filter(facet_of=later, enabled=True).count() == 1


def test_the_sweep_mends_what_no_save_saw() -> None:
    site, other = Site.build(), Site.build()
    Service.objects.filter(pk=site.domain.service_id).update(uncacheable_path="/live")
    facets.keep([other.domain.service_id])
    assert shown() == set()
    facets.keep()
    assert len(shown()) == 2
    facets.keep()
    assert Target.objects.filter(role="facet").count() == 2


def test_a_fault_past_the_cache_is_a_storm_that_starts_with_it() -> None:
    site = Site.build()
    choose(site, uncacheable_path="/live")
    bad = "primary uncacheable"
    site.see(-600, 0, "ok", *(role for role in site.targets if role != bad))
    site.see(-600, -60, "ok", bad)
    site.see(-50, 0, "edge_error", bad)
    watch(NOW)
    storm = site.storm
    assert (storm.attribution, storm.started_at) == ("edge_cannot_reach_origin", at(-50))
    assert site.verdict().verdict == "DOWN" and "past the cache" in site.verdict().reason
    assert site.verdict(bad).verdict == "DOWN" and site.verdict("backup").verdict == "UP"


def test_ipv6_alone_is_a_finding_while_both_are_a_storm() -> None:
    site = Site.build()
    choose(site, probe_ipv6=True)
    site.see(-600, 0, "ok", "primary", "backup", "origin", "backup ipv6")
    site.see(-600, 0, "connect", "primary ipv6")
    watch(NOW)
    assert not StormEvent.objects.exists()
    finding = Finding.objects.get(kind="one_family")
    assert finding.target == site.targets["primary"] and finding.reason.startswith("IPv6 alone fails")
    assert (site.verdict().verdict, site.verdict("primary ipv6").verdict) == ("UP", "DOWN")
    site.see(10, 80, "connect", "primary")
    site.see(10, 80, "ok", "backup", "origin", "backup ipv6")
    site.see(10, 80, "connect", "primary ipv6")
    watch(at(80))
    assert site.storm.started_at == at(10)


def test_what_comes_late_decides_nothing() -> None:
    site = Site.build()
    site.fail(is_late=True)
    watch(NOW)
    assert not StormEvent.objects.exists() and site.verdict().verdict == "UNKNOWN"


def test_late_samples_date_no_storm() -> None:
    site = Site.build()
    site.see(-600, -110, "http_5xx", "primary", is_late=True)
    site.see(-100, -60, "ok", "primary")
    site.see(-50, 0, "http_5xx", "primary")
    site.see(-600, 0, "ok", "backup", "origin")
    watch(NOW)
    assert site.storm.started_at == at(-50)


def test_a_certificate_of_a_backup_that_nobody_uses_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storms.watch.IN_TURN", 0)
    site = Site.build()
    choose(site, minimum_certificate_days=20)
    site.see(-600, 0, certificate_expires_at=at(86_400 * 30))
    watch(NOW)
    assert not Finding.objects.exists()
    site.see(10, 20, "ok", "backup", certificate_expires_at=at(86_400 * 19))
    site.see(10, 20, "ok", "primary", "origin", certificate_expires_at=at(86_400 * 30))
    watch(at(20))  # nothing but good samples: calm
    assert not Finding.objects.exists()
    rollups.roll_up(at(120))  # within a minute or two the certificate is seen there
    watch(at(60))
    watch(at(62))
    finding = Finding.objects.get()
    assert (finding.kind, finding.target) == ("certificate", site.targets["backup"])
    # It fails before its certificate is shown: what was seen last still counts.
    site.see(30, 120, "connect", "backup")
    site.see(30, 120, "ok", "primary", "origin", certificate_expires_at=at(86_400 * 30))
    watch(at(120))
    assert Finding.objects.filter(kind="certificate", resolved_at__isnull=True).exists()


@pytest.mark.parametrize(("outcome", "spares"), [("wrong_status", True), ("blocked", True), ("unknown", False)])
def test_an_uncacheable_path_that_is_named_wrongly_takes_no_protection_away(outcome: str, spares: bool) -> None:
    site = Site.build()
    choose(site, uncacheable_path="/no-such-page")
    site.see(-600, 0, outcome, "primary uncacheable", "backup uncacheable")
    site.see(-600, -60, "ok", "primary")
    site.see(-50, 0, "http_5xx", "primary")
    site.see(-600, 0, "ok", "backup", "origin")
    watch(NOW)
    assert site.verdict("backup").verdict == ("UP" if spares else "UNKNOWN")
    assert StormEvent.objects.exists() is spares
    assert Finding.objects.filter(kind="no_samples", reason__startswith="past the cache").exists() is spares
