"""Known outages, replayed from the form that their reviews describe: what was a storm is one, and nothing else is.

`manage.py backtest --history` prints the same as a table.
"""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from storms import history
from storms.history import Phase
from storms.verdicts import Policy

PHASES = history.read()
INCIDENTS = {phases[0].incident: phases for phases in history.incidents(PHASES)}
STORMS = {
    "cf-2019-07-02", "cf-2020-07-17", "fastly-2021-06-08", "akamai-2021-06-17", "akamai-2021-07-22", "cf-2022-06-21",
    "cf-2022-10-25", "afd-2025-10-09", "afd-2025-10-29", "cf-2025-11-18", "cf-2025-12-05", "cloudfront-2026-02-10",
    "cf-2026-02-20",
}  # fmt: skip
NONE = {
    "cf-2020-11-02", "aws-2021-12-07", "cf-2023-01-24", "cf-2023-10-04", "cf-2023-10-30", "cf-2023-11-02", "cf-2025-06-12",
    "cf-2025-07-14", "cf-2025-09-12", "aws-2025-10-20",
}  # fmt: skip
FINDINGS = {"cf-2025-08-21"}


def test_the_file_has_every_incident_and_phase() -> None:
    assert len(PHASES) == 39
    assert set(INCIDENTS) == STORMS | NONE | FINDINGS
    for phase in PHASES:
        assert phase.started_at < phase.ended_at
        assert phase.hits in ("primary", "all", "resolver", "nothing")
        assert set(phase.regions) <= set(history.REGIONS)
        assert 0 <= phase.fail_share <= 1
        assert (phase.hits == "nothing") <= (phase.fail_share == 0 and phase.outcome == "ok")


@pytest.mark.parametrize("incident", INCIDENTS)
def test_an_incident_is_what_it_was(incident: str) -> None:
    """For an affected customer and for one that is not; the expected is this file's, and the CSV's must agree with it."""
    verdict = history.replay(INCIDENTS[incident], Policy())
    expected = "storm" if incident in STORMS else "finding" if incident in FINDINGS else "none"
    assert (verdict.expected, verdict.found, verdict.problem) == (expected, expected, "")
    assert len(verdict.affected.storms) == (incident in STORMS)
    if incident in STORMS:
        (storm,) = verdict.affected.storms
        first = next(phase for phase in verdict.phases if phase.expected == "storm")
        assert 0 <= (storm.started_at - first.started_at).total_seconds() <= 10
        assert storm.detection_seconds <= 25
        assert storm.closed_at is not None
    if incident == "aws-2025-10-20":
        assert {finding.kind for finding in verdict.affected.findings} == {"origin_fault"}
    if incident == "cf-2025-08-21":
        assert {finding.kind for finding in verdict.affected.findings} == {"latency"}


def test_a_regional_outage_is_seen_in_its_regions_alone() -> None:
    (storm,) = history.replay(INCIDENTS["afd-2025-10-09"], Policy()).affected.storms
    assert storm.regions == ("af", "eu")


def test_the_oscillating_one_is_one_storm_and_its_quiet_spells_are_not_covered() -> None:
    (storm,) = history.replay(INCIDENTS["cf-2025-11-18"], Policy()).affected.storms
    assert storm.relapses >= 9
    assert len(storm.spells) == storm.relapses + 1


def _rewritten(path: Path, incident: str, **changed: str) -> Path:
    lines = history.FILE.read_text().splitlines()
    header = lines[0].split(",")
    kept = [lines[0]]
    for line in lines[1:]:
        if line.startswith(incident + ","):
            cells = dict(zip(header, next(csv.reader([line])), strict=True)) | changed
            kept.append(",".join('"' + cells[name].replace('"', '""') + '"' for name in header))
    path.write_text("\n".join(kept) + "\n")
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"expected": "none"}, "expected none, found storm"),
        ({"hits": "nothing", "fail_share": "0", "outcome": "ok"}, "expected storm, found none"),
        ({"hits": "all"}, "expected storm, found none"),
        ({"fail_share": "0.01"}, "expected storm, found none"),
        ({"on_seconds": "1", "off_seconds": "3600"}, "expected storm, found none"),
    ],
)
def test_the_form_of_a_phase_decides_not_its_name(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    path = _rewritten(tmp_path / "history.csv", "cf-2025-12-05", **changed)
    phases: list[Phase] = history.read(path)
    assert history.replay(tuple(phases), Policy()).problem == said


def test_the_command_prints_the_table_and_fails_on_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = _rewritten(tmp_path / "good.csv", "cf-2025-12-05")
    monkeypatch.setattr(history.read, "__defaults__", (good,))
    out = StringIO()
    call_command("backtest", "--history", stdout=out)
    assert "cf-2025-12-05" in out.getvalue() and "1 as expected, 0 not" in out.getvalue()
    bad = _rewritten(tmp_path / "bad.csv", "cf-2025-12-05", expected="none")
    monkeypatch.setattr(history.read, "__defaults__", (bad,))
    with pytest.raises(CommandError) as failed:
        call_command("backtest", "--history", stdout=StringIO())
    assert failed.value.returncode == 1
