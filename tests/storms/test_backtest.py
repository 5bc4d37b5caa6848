"""The backtest: from a CSV to storms and findings, and the same whether or not calm is skipped."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given, settings
from hypothesis import strategies as st

from storms import backtest, recordings, terms
from storms.recordings import RecordingError, to_micros
from storms.simulation import PATHS, Fault, Prober
from storms.verdicts import Kind, Policy, VantagePoint

HEADER = ",".join(recordings.COLUMNS)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = recordings.SECOND


def z(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def line(seconds: float, path: str = "primary", vantage: str = "a", outcome: str = "ok", **kw: Any) -> str:
    cells = {
        "at": z(seconds), "domain": "www.example.com", "path": path, "vantage": vantage, "outcome": outcome,
        "status": "503" if outcome == "http_5xx" else "200" if outcome == "ok" else "", "latency_ms": "80",
    }  # fmt: skip
    return ",".join(str((cells | kw)[column]) for column in recordings.COLUMNS)


def lines(
    bad: tuple[float, float] = (0, 0), until: float = 1800, paths: tuple[str, ...] = ("primary", "backup"),
    outcome: str = "http_5xx", hits: tuple[str, ...] = ("primary",), vantages: str = "abc", **kw: Any,
) -> list[str]:  # fmt: skip
    """Three vantage points, ten seconds apart; `hits` fail from and until these seconds."""
    return [
        line(
            n * 10 + 3 * k, path, vantage, outcome if path in hits and bad[0] <= n * 10 + 3 * k < bad[1] else "ok", **kw
        )
        for n in range(int(until) // 10)
        for k, vantage in enumerate(vantages)
        for path in paths
    ]


def run(rows: list[str], policy: dict[str, Any] | None = None) -> dict[str, Any]:
    """Through the command, as a person does."""
    out = StringIO()
    folder = Path(run.folder)  # type: ignore[attr-defined]
    (folder / "samples.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    arguments = ["--samples", str(folder / "samples.csv"), "--json"]
    if policy is not None:
        (folder / "policy.json").write_text(json.dumps(policy))
        arguments += ["--policy", str(folder / "policy.json")]
    call_command("backtest", *arguments, stdout=out)
    document: dict[str, Any] = json.loads(out.getvalue())
    return document


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    run.folder = tmp_path  # type: ignore[attr-defined]


# --- what it finds ----------------------------------------------------------------------------------------------------


def test_an_outage_is_one_storm_with_its_times() -> None:
    document = run(lines(bad=(600, 900)))
    (storm,) = document["storms"]
    assert storm["domain"] == "www.example.com" and storm["kind"] == "http_availability"
    assert (storm["started_at"], storm["ended_at"]) == (z(600), z(903))  # the second of three good runs makes a quorum
    assert z(620) <= storm["detected_at"] <= z(627)
    assert "http_5xx" in storm["reason"]
    assert document["findings"] == []


def test_a_storm_that_goes_on_has_no_end() -> None:
    (storm,) = run(lines(bad=(600, 9999)))["storms"]
    assert (storm["started_at"], storm["ended_at"], storm["closed_at"]) == (z(600), None, None)


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (lines(), set()),
        (lines(bad=(600, 900), hits=("primary", "backup")), {"origin_fault"}),
        (lines(bad=(600, 900), paths=PATHS, hits=("primary", "origin")), {"origin_fault"}),
        (lines(bad=(600, 900), hits=("backup",)), {"backup_unfit"}),
        (lines(bad=(600, 900), outcome="blocked"), {"blocked"}),
        (lines(bad=(0, 1800)), {"always_failing"}),
        (lines(bad=(0, 1800), hits=("backup",)), {"backup_unfit", "always_failing"}),
        ([row for row in lines() if not (",backup," in row and z(600) <= row < z(900))], {"no_samples"}),
        ([row for row in lines() if not z(600) <= row < z(900)], {"no_samples"}),
        (lines(latency_ms=2500), {"latency"}),
        (lines(bad=(600, 900), outcome="unknown"), set()),
        (lines(bad=(600, 900), outcome="wrong_status"), set()),
        (lines(bad=(600, 620)), set()),  # two failures each
        (lines(bad=(600, 900), paths=("primary",)), set()),  # no backup: nothing to move to
        ([row for row in lines() if ",primary," in row] + lines(bad=(600, 900), paths=("backup",)), set()),
    ],
)
def test_what_is_no_storm(rows: list[str], kinds: set[str]) -> None:
    document = run(rows)
    assert document["storms"] == []
    assert {finding["kind"] for finding in document["findings"]} == kinds


def test_a_finding_says_what_and_when() -> None:
    (finding,) = run(lines(bad=(600, 900), hits=("backup",)))["findings"]
    assert (finding["domain"], finding["path"], finding["kind"]) == ("www.example.com", "backup", "backup_unfit")
    assert z(620) <= finding["at"] <= z(630)


def test_a_lapsed_certificate_of_the_backup_makes_no_origin_fault() -> None:
    rows = lines(paths=("origin",)) + lines(bad=(300, 1800), paths=("backup",), outcome="tls", hits=("backup",))
    document = run(rows + lines(bad=(600, 900), paths=("primary",)))
    (storm,) = document["storms"]
    assert storm["started_at"] == z(600)
    assert {finding["kind"] for finding in document["findings"]} == {"backup_unfit"}


def test_each_domain_is_judged_by_itself() -> None:
    other = [row.replace("www.example.com", "api.example.com") for row in lines(bad=(1200, 1500))]
    document = run(lines(bad=(600, 900)) + other)
    assert [(storm["domain"], storm["started_at"]) for storm in document["storms"]] == [
        ("api.example.com", z(1200)), ("www.example.com", z(600)),
    ]  # fmt: skip


def test_one_vantage_point_alone_is_enough_where_the_file_has_one() -> None:
    assert len(run(lines(bad=(600, 900), vantages="a"))["storms"]) == 1
    assert run(lines(bad=(600, 900), vantages="a"), {"min_vantages": 2})["storms"] == []


def test_one_of_three_vantage_points_is_not() -> None:
    rows = lines(vantages="ab") + lines(bad=(600, 900), vantages="c")
    assert run(rows)["storms"] == []


@pytest.mark.parametrize(("kind", "outcome", "storms"), [("tls", "tls", 1), ("tls", "dns", 0), ("dns", "dns", 1)])
def test_kinds_count_only_their_class(kind: str, outcome: str, storms: int) -> None:
    assert len(run(lines(bad=(600, 900), outcome=outcome), {"kind": kind})["storms"]) == storms


def test_another_policy_stands_beside_it(tmp_path: Path) -> None:
    out = StringIO()
    (tmp_path / "samples.csv").write_text("\n".join([HEADER, *lines(bad=(600, 900))]) + "\n")
    (tmp_path / "lax.json").write_text('{"threshold_avail": "0.1", "min_failures": 100}')
    call_command(
        "backtest",
        "--samples",
        str(tmp_path / "samples.csv"),
        "--against",
        str(tmp_path / "lax.json"),
        "--json",
        stdout=out,
    )
    document = json.loads(out.getvalue())
    assert (len(document["storms"]), document["against"]["storms"]) == (1, [])


# --- what a file may look like ----------------------------------------------------------------------------------------


def test_order_duplicates_time_zones_and_empty_lines_change_nothing() -> None:
    rows = lines(bad=(600, 900))
    plain = run(rows)
    shuffled = [*rows, *rows[100:200], "", ""]
    random.Random(1).shuffle(shuffled)
    assert run(shuffled) == plain
    in_tokyo = [
        (datetime.fromisoformat(row.split(",", 1)[0]) + timedelta(hours=9)).replace(tzinfo=None).isoformat()
        + "+09:00," + row.split(",", 1)[1] for row in rows
    ]  # fmt: skip
    assert run(in_tokyo) == plain


def test_columns_may_come_in_any_order_and_two_may_be_missing() -> None:
    text = "domain,vantage,path,outcome,at\nwww.example.com,a,primary,ok,2026-03-01T12:00:00Z\n"
    (recording,) = recordings.read_csv(text.splitlines())
    assert len(recording) == 1


def test_no_sample_at_all_is_no_storm() -> None:
    assert run([]) == {"storms": [], "findings": []}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: column “at” is missing"),
        ("at,domain,path,vantage,outcome,speed\n", "line 1: unknown column “speed”"),
        ("at,domain,path,vantage\n", "line 1: column “outcome” is missing"),
        ("at,at,domain,path,vantage,outcome\n", "line 1: a column comes twice"),
        (f"{HEADER}\n{line(0)}\n{line(1)},9\n", "line 3: 8 values, and the header names 7"),
        (f"{HEADER}\n{line(0, at='noon')}\n", "line 2: at “noon” is no time; write it like"),
        (f"{HEADER}\n{line(0, at='2026-03-01T12:00:00')}\n", "line 2: at “2026-03-01T12:00:00” says no time zone"),
        (f"{HEADER}\n{line(0, path='sideways')}\n", "line 2: path “sideways” is none of primary, backup, origin"),
        (f"{HEADER}\n{line(0, outcome='fine')}\n", "line 2: outcome “fine” is none of ok,"),
        (f"{HEADER}\n{line(0, vantage='')}\n", "line 2: domain and vantage must not be empty"),
        (f"{HEADER}\n{line(0, latency_ms='-5')}\n", "line 2: latency_ms “-5” is no number of milliseconds"),
        (f"{HEADER}\n{line(0, latency_ms='nan')}\n", "line 2: latency_ms “nan”"),
        (f"{HEADER}\n{line(0, status='okay')}\n", "line 2: status “okay” is no HTTP status"),
        (f'{HEADER}\n{line(0)}\n"unclosed', "line 3: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecordingError) as refused:
        recordings.read_csv(text.splitlines(keepends=True))
    assert str(refused.value).startswith(said)
    path = tmp_path / "samples.csv"
    path.write_text(text)
    with pytest.raises(CommandError, match=r"samples\.csv, line"):
        call_command("backtest", "--samples", str(path))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"treshold": 1}, "treshold: no such field"),
        ({"threshold_avail": 0}, "threshold_avail: must be a number from 0.0001 to 1"),
        ({"threshold_avail": "x"}, "threshold_avail: must be"),
        ({"window_seconds": 1.5}, "window_seconds: must be a whole number from 1 to 3600"),
        ({"window_seconds": True}, "window_seconds: must be"),
        ({"min_samples": 7}, "window_seconds: 6 samples fit into it at 10 s each"),
        ({"holdoff_seconds": 7200}, "holdoff_max_seconds: must not be below"),
        ({"kind": "manual"}, "kind: must be one of http_availability, tls, dns"),
        ([], "the policy must be an object"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said_with_its_field(document: Any, said: str) -> None:
    with pytest.raises(CommandError) as refused:
        run(lines(until=60), document)
    assert said in str(refused.value)


def test_a_policy_survives_the_way_through_json() -> None:
    policy = Policy(kind=Kind.TLS, window_seconds=120, min_samples=9, interval_seconds=5, slow_ms=900)
    assert terms.read(json.loads(json.dumps(terms.dump(policy)))) == policy


# --- the fast way and the slow way ------------------------------------------------------------------------------------

FAULTS = st.builds(
    lambda start, lasts, outcome, share, paths, points, latency, on, off: Fault(
        to_micros(START) + start * SECOND, to_micros(START) + (start + lasts) * SECOND, outcome, share, frozenset(paths),
        frozenset(points), latency, on * SECOND if on and off else 0, off * SECOND if on and off else 0,
    ),
    st.integers(0, 2500), st.integers(1, 900),
    st.sampled_from(["http_5xx", "timeout", "tls", "blocked", "unknown", "edge_error", "wrong_status"]),
    st.sampled_from([0.02, 0.2, 0.6, 1.0]), st.sets(st.sampled_from(PATHS), min_size=1),
    st.sets(st.sampled_from("abc"), min_size=1), st.sampled_from([None, None, 2500.0]), st.integers(0, 60), st.integers(0, 60),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.lists(FAULTS, max_size=4), st.integers(0, 9), st.sampled_from([Policy(), Policy(min_failures=1, min_samples=3)])
)
def test_skipping_calm_changes_nothing(faults: list[Fault], seed: int, policy: Policy) -> None:
    points = [VantagePoint(name, "eu", name) for name in "abc"]
    recording = Prober(points).run(to_micros(START), to_micros(START) + 4500 * SECOND, faults, seed)
    fast, slow = backtest.replay(recording, policy), backtest.replay(recording, policy, skip_calm=False)
    assert (fast.storms, fast.findings, fast.until) == (slow.storms, slow.findings, slow.until)
    assert fast.looks <= slow.looks


def test_calm_is_skipped() -> None:
    points = [VantagePoint(name, "eu", name) for name in "abc"]
    recording = Prober(points).run(to_micros(START), to_micros(START) + 86_400 * SECOND, [], 1)
    assert backtest.replay(recording, Policy()).looks == 0


def test_work_without_end_is_refused() -> None:
    points = [VantagePoint(name, "eu", name) for name in "abc"]
    hours = Fault(to_micros(START), to_micros(START) + 7200 * SECOND, "http_5xx")
    recording = Prober(points).run(to_micros(START) - 600 * SECOND, to_micros(START) + 7200 * SECOND, [hours], 1)
    with pytest.raises(recordings.TooMuch, match="take a shorter time"):
        backtest.replay(recording, Policy(), most_looks=100)
