"""A stored storm can be decided again from its evidence; whatever is changed in the document is noticed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction

from services import samples
from services.models import ProbeSample
from storms import evidence, keeping, operators, packs
from storms.models import StormEntry, StormEvent, StormPolicy
from storms.watch import watch
from tests import factories
from tests.storms.test_watch import INTERVAL, NOW, Site, at

pytestmark = pytest.mark.django_db


@pytest.fixture
def site() -> Site:
    """A storm of four minutes, with a relapse, closed."""
    made = Site.build(cooldown_seconds=60, minimum_seconds=60, holdoff_seconds=60)
    canary = factories.target("canary", network="AS1")
    made.targets["canary"] = canary
    made.see(-600, 600, "ok", "backup", "origin", "canary")
    made.see(-600, -60, "ok", "primary")
    made.see(-50, 60, "http_5xx", "primary")
    made.see(70, 180, "ok", "primary")
    made.see(190, 250, "timeout", "primary", total_ms=5000.0)
    made.see(260, 600, "ok", "primary")
    for moment in range(-120, 601, INTERVAL):
        watch(at(moment + 6))
    return made


@pytest.fixture
def pack(site: Site) -> dict[str, Any]:
    return json.loads(json.dumps(packs.pack(site.storm)))


def test_it_says_what_happened_and_replays(site: Site, pack: dict[str, Any]) -> None:
    storm = site.storm
    assert (storm.state, storm.relapses, storm.started_at, storm.ended_at) == ("closed", 1, at(-50), at(260))
    assert [entry["action"] for entry in pack["entries"]] == ["open", "end", "close", "reopen", "end", "close"]
    assert pack["storm"]["spells"] == [
        ["2026-11-23T11:59:10.000000Z", "2026-11-23T12:01:10.000000Z"],
        ["2026-11-23T12:03:10.000000Z", "2026-11-23T12:04:20.000000Z"],
    ]
    assert {target["role"] for target in pack["targets"]} == {"primary", "backup", "origin", "canary"}
    assert {(f["at"], f["reason"]) for f in pack["first_failures"]} == {("2026-11-23T11:59:10.000000Z", "saw http_5xx")}
    assert next(iter(pack["policies"].values()))["threshold_avail"] == "0.9"
    counted = [m for m in pack["minutes"] if m["target"] == site.targets["primary"].pk and m["bad"]]
    assert sum(m["bad"] for m in counted) == 3 * (12 + 7)
    assert evidence.replay(pack) == []


def test_it_is_the_same_document_every_time(site: Site, pack: dict[str, Any]) -> None:
    assert packs.pack(site.storm)["sha256"] == pack["sha256"] == evidence.digest(pack)
    operators.annotate(site.storm, "looked at it", "kim", NOW)
    assert packs.pack(site.storm)["sha256"] == pack["sha256"]


def test_no_float_is_in_it(pack: dict[str, Any]) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(text)

    json.loads(evidence.canonical(pack), parse_float=refuse)


def _first(pack: dict[str, Any], action: str) -> dict[str, Any]:
    return next(entry for entry in pack["entries"] if entry["action"] == action)


def _bad(pack: dict[str, Any]) -> dict[str, Any]:
    return next(sample for sample in pack["samples"] if sample["outcome"] == "http_5xx")


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an earlier start": (lambda p: p["storm"].update(started_at="2026-11-23T11:50:00.000000Z"), "start"),
    "a later end": (lambda p: p["storm"].update(ended_at="2026-11-23T12:30:00.000000Z"), "end"),
    "a longer spell": (lambda p: p["storm"]["spells"][0].__setitem__(1, "2026-11-23T12:02:00.000000Z"), "spells"),
    "a laxer policy": (lambda p: next(iter(p["policies"].values())).update(threshold_avail="0.99"), "not decided by"),
    "a laxer policy in the case": (lambda p: _first(p, "open")["case"]["policy"].update(min_failures=1), "not decided by"),
    "windows nobody saw": (lambda p: _windows(p, role="backup")[0].update(good=30), "bear out"),
    "good windows": (lambda p: [w.update(bad=0, good=9) for w in _windows(p)], "is now nothing"),
    "a sample made good": (lambda p: _bad(p).update(outcome="ok"), "minutes"),
    "samples dropped": (lambda p: p.update(samples=p["samples"][:-1]), "minutes"),
    "all bad samples dropped": (lambda p: p.update(samples=[s for s in p["samples"] if s["outcome"] == "ok"]), "bear out"),
    "a bad sample added": (
        lambda p: p["samples"].append({**_bad(p), "at": "2026-11-23T11:58:15.000000Z", "attempt": 7}), "spells",
    ),
    "a closing dropped": (lambda p: p["entries"].pop(2), "entries before"),
    "a relapse dropped": (lambda p: p["entries"].pop(3), "spells"),
    "the last closing dropped": (lambda p: p["entries"].pop(), "closed_at"),
    "a later end of the good run": (
        lambda p: [w.update(good_run_started_at="2026-11-23T12:01:20.000000Z") for w in _windows(p, action="end")], "bear out",
    ),
    "no entry at all": (lambda p: p["entries"].clear(), "nothing in them begins"),
    "a person's word added": (
        lambda p: p["entries"].insert(
            1, {"at": "2026-11-23T12:00:00.000000Z", "action": "finish", "reason": "", "by": "x", "policy": None, "case": None}
        ), "entries before",
    ),
    "armed": (lambda p: p["storm"].update(is_armed=False), "is_armed"),
    "another attribution": (lambda p: p["storm"].update(attribution="unproven"), "attribution"),
    "another CDN": (lambda p: p["storm"].update(cdn=0), "cdn"),
    "an earlier detection": (lambda p: p["storm"].update(detected_at="2026-11-23T11:59:20.000000Z"), "detected_at"),
    "fewer relapses": (lambda p: p["storm"].update(relapses=0), "relapses"),
    "another reason": (lambda p: _first(p, "close").update(reason="because"), "close"),
}  # fmt: skip


def _windows(pack: dict[str, Any], role: str = "primary", action: str = "open") -> list[dict[str, Any]]:
    (paths,) = _first(pack, action)["case"]["domains"]
    return list(next(path for path in paths if path["role"] == role)["windows"].values())


def test_what_is_forged_is_noticed_even_with_a_hash_of_its_own(pack: dict[str, Any]) -> None:
    for name, (forge, said) in FORGERIES.items():
        forged = copy.deepcopy(pack)
        forge(forged)
        assert evidence.replay(forged)[0].startswith("sha256"), name
        differs = evidence.replay(evidence.sealed({k: v for k, v in forged.items() if k != "sha256"}))
        assert any(said in line for line in differs), (name, differs)


def test_the_command_exits_with_1_if_anything_differs(pack: dict[str, Any], tmp_path: Path) -> None:
    path, out = tmp_path / "storm.json", StringIO()
    path.write_text(evidence.canonical(pack))
    call_command("replay", str(path), stdout=out)
    assert pack["sha256"] in out.getvalue() and "checked  6 entries, each decided again" in out.getvalue()
    _bad(pack)["outcome"] = "ok"
    path.write_text(evidence.canonical(pack))
    with pytest.raises(CommandError) as refused:
        call_command("replay", str(path), stdout=out)
    assert refused.value.returncode == 1 and "minutes" in out.getvalue()


NO_PACKS = [
    "", "[]", "{}", '{"type": "storm"}', '{"type": "storm", "format": 1}', '{"type": "gale", "format": 1}', "[" * 100_000,
    '{"type": "storm", "format": 0.5}', '{"type": "storm", "format": NaN}', '{"type": "line", "type": "storm"}', '{"type": "st',
]  # fmt: skip


@pytest.mark.parametrize("text", NO_PACKS)
def test_what_is_no_pack_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pack.json"
    path.write_text(text)
    with pytest.raises(CommandError) as refused:
        call_command("replay", str(path), stdout=StringIO())
    assert refused.value.returncode == 2 and "\n" not in str(refused.value)


def test_it_is_sealed_once_its_samples_are_kept_and_outlives_them(site: Site, pack: dict[str, Any]) -> None:
    assert packs.seal(at(700)) == 0
    later = at(260) + keeping.AROUND + keeping.LATE + timedelta(seconds=1)
    while keeping.keep_samples(later):
        pass
    assert packs.seal(later) == 1
    assert packs.seal(later) == 0
    sealed = site.storm.evidence_sha256
    ProbeSample.objects.all().delete()
    kept = packs.pack(site.storm)
    assert kept["sha256"] == sealed
    assert evidence.replay(kept) == []


def test_a_policy_edited_in_mid_storm_leaves_the_storm_its_version() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    StormPolicy.objects.update(threshold_avail="0.5", closing_samples=20)
    site.see(10, 300)
    for moment in range(10, 301, INTERVAL):
        watch(at(moment))
    storm = StormEvent.objects.get()
    assert (storm.policy_version, storm.ended_at) == (1, at(10))
    assert [entry.policy_version for entry in storm.entries.all()] == [1, 1]
    assert evidence.replay(json.loads(json.dumps(packs.pack(storm)))) == []


def test_an_entry_is_never_changed() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    for change in (lambda: StormEntry.objects.update(reason="other"), lambda: StormEntry.objects.all().delete()):
        with pytest.raises(DatabaseError, match="never changed"), transaction.atomic():
            change()


def test_a_person_who_ends_it_and_a_relapse_replay() -> None:
    site = Site.build(minimum_seconds=60)
    site.fail()
    watch(NOW)
    site.see(10, 120)
    watch(at(120))
    operators.finish(site.storm, "enough", "kim", at(125))
    site.see(130, 180)
    site.see(190, 250, "http_5xx", "primary")
    site.see(190, 250, "ok", "backup", "origin")
    watch(at(250))
    storm = site.storm
    assert [entry.action for entry in storm.entries.all()] == ["open", "end", "finish", "reopen"]
    assert evidence.replay(json.loads(json.dumps(packs.pack(storm)))) == []


def test_a_storm_by_hand_and_one_without_a_policy_replay() -> None:
    site = Site.build()
    by_hand = operators.declare(site.policy.service, "visitors complain", "kim", NOW)
    operators.finish(by_hand, "all quiet", "lee", at(60))
    site.fail(since=100, until=160)
    watch(at(160))
    StormPolicy.objects.update(deleted_at=at(170))
    watch(at(180))
    assert StormEvent.objects.filter(closed_at__isnull=True).count() == 0
    for storm in StormEvent.objects.all():
        assert evidence.replay(json.loads(json.dumps(packs.pack(storm)))) == []


def test_a_policy_made_anew_in_mid_storm_leaves_it_its_terms() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    StormPolicy.objects.update(deleted_at=at(5))
    factories.policy(service=site.policy.service, closing_samples=3)
    site.see(10, 60)
    watch(at(60))
    assert site.storm.state == "raging"  # three good samples are not what it began under
    site.see(70, 120)
    watch(at(120))
    assert (site.storm.state, site.storm.policy) == ("ended", site.policy)
    assert evidence.replay(json.loads(json.dumps(packs.pack(site.storm)))) == []


def test_what_was_on_its_way_may_be_missing() -> None:
    """A probe hangs for five seconds while later ones fail at once: the decision fell before it was over."""
    site = Site.build()
    site.see(-600, 60)
    hanging = [site.row("primary", point, 61, "timeout", total_ms=5000.0, attempt=1) for point in site.points]
    quick = [
        site.row("primary", point, 62 + n / 2, "http_5xx", total_ms=50.0, attempt=2 + n)
        for point in site.points
        for n in range(4)
    ]
    others = [site.row(role, point, 63, "ok", attempt=1) for role in ("backup", "origin") for point in site.points]
    samples.write(quick + others)
    watch(at(64))
    samples.write(hanging)
    assert site.storm.started_at == at(62)
    assert evidence.replay(json.loads(json.dumps(packs.pack(site.storm)))) == []


@pytest.mark.parametrize("window_seconds", [60, 300])
def test_a_point_that_was_silent_for_a_while_and_a_wide_window_replay(window_seconds: int) -> None:
    site = Site.build(window_seconds=window_seconds)
    *others, silent = site.points
    site.see(-600, -110, points=[silent])
    site.see(-600, 0, points=others)
    site.see(10, 60, "http_5xx", "primary", points=others)
    site.see(10, 60, "ok", "backup", "origin", points=others)
    site.see(10, 60, "ok", points=[silent]) if window_seconds == 60 else site.see(10, 60, "http_5xx", points=[silent])
    watch(at(75))
    for storm in StormEvent.objects.all():
        assert evidence.replay(json.loads(json.dumps(packs.pack(storm)))) == []
    assert StormEvent.objects.exists()
