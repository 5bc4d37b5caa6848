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
    for moment in range(-600, 601, INTERVAL):
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
    assert pack["policies"]["1"]["threshold_avail"] == "0.9"
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
    "a laxer policy": (lambda p: p["policies"]["1"].update(threshold_avail="0.99"), "version 1"),
    "a laxer policy in the case": (lambda p: _first(p, "open")["case"]["policy"].update(min_failures=1), "version 1"),
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
    "the last closing dropped": (lambda p: p["entries"].pop(), "closing"),
    "another reason": (lambda p: _first(p, "close").update(reason="because"), "close"),
}  # fmt: skip


def _windows(pack: dict[str, Any], role: str = "primary") -> list[dict[str, Any]]:
    (paths,) = _first(pack, "open")["case"]["domains"]
    return list(next(path for path in paths if path["role"] == role)["windows"].values())


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_forged_is_noticed_even_with_a_hash_of_its_own(pack: dict[str, Any], name: str) -> None:
    forge, said = FORGERIES[name]
    forged = copy.deepcopy(pack)
    forge(forged)
    assert evidence.replay(forged)[0].startswith("sha256")
    differs = evidence.replay(evidence.sealed({k: v for k, v in forged.items() if k != "sha256"}))
    assert any(said in line for line in differs), differs


def test_the_command_exits_with_1_if_anything_differs(pack: dict[str, Any], tmp_path: Path) -> None:
    path, out = tmp_path / "storm.json", StringIO()
    path.write_text(evidence.canonical(pack))
    call_command("replay", str(path), stdout=out)
    assert pack["sha256"] in out.getvalue()
    _bad(pack)["outcome"] = "ok"
    path.write_text(evidence.canonical(pack))
    with pytest.raises(CommandError) as refused:
        call_command("replay", str(path), stdout=out)
    assert refused.value.returncode == 1 and "minutes" in out.getvalue()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "storm"}', '{"type": "storm", "format": 1}', "[" * 100_000])
def test_what_is_no_pack_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pack.json"
    path.write_text(text)
    with pytest.raises(CommandError) as refused:
        call_command("replay", str(path), stdout=StringIO())
    assert refused.value.returncode == 2


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
