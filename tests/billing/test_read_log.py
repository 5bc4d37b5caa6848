"""The commands `read_log` and `collect_usage`, from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from billing.models import UsageBucket, UsageSource
from tests import factories
from tests.billing.log_lines import AT, cloudfront, cloudfront_file, logpush, write


def run(*args: Any, fails: bool = False) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    if fails:
        with pytest.raises(SystemExit) as exit:
            call_command(*map(str, args), stdout=out, stderr=err)
        assert exit.value.code == 1
    else:
        call_command(*map(str, args), stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def test_json_has_bytes_and_requests_per_host_and_hour(tmp_path: Path) -> None:
    rows = [logpush(EdgeStartTimestamp=AT + seconds) for seconds in (0, 3599, 3600)]
    rows += [logpush(ClientRequestHost="api.example.com"), logpush(WorkerSubrequest=True), "bad"]
    out, err = run("read_log", "cloudflare_logpush", write(tmp_path / "log", "\n".join(rows)), "--json")
    assert json.loads(out) == {
        "rows": 6,
        "bad_rows": 1,
        "excluded": 1,
        "duplicates": 0,
        "bad": [{"line": 6, "reason": "not a JSON object with Logpush fields"}],
        "hosts": {
            "api.example.com": {"2026-03-01T10:00:00Z": {"bytes": 1000, "requests": 1}},
            "www.example.com": {
                "2026-03-01T10:00:00Z": {"bytes": 2000, "requests": 2},
                "2026-03-01T11:00:00Z": {"bytes": 1000, "requests": 1},
            },
        },
        "unreadable": [],
    }
    assert err == ""


def test_a_table_for_people(tmp_path: Path) -> None:
    log = write(tmp_path / "log", cloudfront_file(cloudfront(), cloudfront(size="-")))
    out, _ = run("read_log", "cloudfront", log)
    assert "www.example.com  2026-03-01T10:00:00Z             1,000           1" in out
    assert "2 rows: 1 counted, 0 excluded by rule, 0 duplicates, 1 bad" in out
    assert "line 4: sc-bytes is missing" in out


def test_an_unreadable_file_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    good = write(tmp_path / "good", logpush(), packed=True)
    broken = write(tmp_path / "broken.gz", good.read_bytes()[:-9])
    out, err = run("read_log", "cloudflare_logpush", broken, good, tmp_path / "missing", "--json", fails=True)
    assert json.loads(out)["rows"] == 1
    assert err.splitlines() == [
        f"{broken}: truncated: the gzip stream ends too early",
        f"{tmp_path / 'missing'}: No such file or directory",
    ]


def test_an_unknown_format_is_answered_with_the_list() -> None:
    with pytest.raises(CommandError, match="Formats: cloudflare_logpush, cloudfront"):
        run("read_log", "apache", "log")


def test_a_sampled_log_says_so(tmp_path: Path) -> None:
    log = write(tmp_path / "log", logpush())
    out, _ = run("read_log", "cloudflare_logpush", log, "--sample-rate", "0.1")
    assert "www.example.com  2026-03-01T10:00:00Z            10,000          10" in out
    assert "1 rows: 1 counted, 0 excluded by rule, 0 duplicates, 0 bad; sampled, so the sums are estimates" in out
    for rate in ("0", "2", "much"):
        with pytest.raises(CommandError, match="above 0, and 1 at most"):
            run("read_log", "cloudflare_logpush", log, "--sample-rate", rate)


def test_a_field_map_may_be_given(tmp_path: Path) -> None:
    log = write(tmp_path / "log", json.dumps({"t": AT, "h": "a.example.com", "b": 5}))
    names = {"at": "t", "host": "h", "bytes": "b", "is_edge": None, "id": None}
    out, _ = run("read_log", "fastly", log, "--fields", json.dumps(names))
    assert "a.example.com  2026-03-01T10:00:00Z                 5           1" in out
    for fields, message in (("{", "not JSON"), ("[]", "not a JSON object"), ("{}", "lacks “at”")):
        with pytest.raises(CommandError, match=message):
            run("read_log", "fastly", log, "--fields", fields)


def test_read_log_needs_no_database_and_no_broker(tmp_path: Path) -> None:
    nowhere = {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none", "PG_DSN": "", "REDIS_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "manage.py", "read_log", "cloudflare_logpush", str(write(tmp_path / "log", logpush())), "--json"],
        cwd=Path(__file__).parents[2], env=os.environ | nowhere, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["rows"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.fixture
def source(db: None, tmp_path: Path) -> UsageSource:
    path = factories.target(domain=factories.domain(hostname="www.example.com"))
    write(tmp_path / "a.log", logpush())
    return UsageSource.objects.create(
        name="logs", cdn=path.cdn, kind="directory", format="cloudflare_logpush", location=str(tmp_path)
    )


def test_collect_usage_prints_what_is_new_and_stores_it_only_with_apply(source: UsageSource) -> None:
    out, _ = run("collect_usage")
    assert "logs: 1 objects, 1 to count\n  count a.log" in out
    assert "Nothing was stored" in out
    assert not UsageBucket.objects.exists()
    out, _ = run("collect_usage", "--apply")
    assert "1 rows, 0 bad; 1 requests, 1,000 bytes delivered, 0 of them of unknown hosts" in out
    assert UsageBucket.objects.count() == 1
    assert "logs: 1 objects, 0 to count" in run("collect_usage")[0]


def test_collect_usage_as_json(source: UsageSource) -> None:
    document = json.loads(run("collect_usage", "--apply", "--json")[0])
    (entry,) = document["sources"][0]["objects"]
    assert document["applied"] is True
    assert (entry["key"], entry["action"], entry["outcome"], entry["requests"]) == ("a.log", "count", "counted", 1)


def test_collect_usage_fails_if_a_source_cant_be_read(source: UsageSource) -> None:
    UsageSource.objects.update(location="/nowhere")
    _, err = run("collect_usage", "--apply", fails=True)
    assert err == "logs: /nowhere: No such file or directory\n"
