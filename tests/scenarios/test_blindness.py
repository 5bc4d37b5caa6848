"""If everything fails, it is us: whatever happens to a prober's own part of the network, no storm and no DNS write.

Each scenario is a small internet in namespaces of its own (`tests/scenarios/lan.py`), with a database of its own; several of
them run at once, since they mostly wait. Every one ends with a real outage, which must be a storm. BLINDNESS_RUNS says
how often each is spoiled; twenty times make the same test slower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connection
from psycopg import sql

from tests.netns import alone

RUNS = int(os.environ.get("BLINDNESS_RUNS", "2"))
SPOILED = (
    "link_down", "resolver_dead", "resolver_lies", "outbound_443_dropped", "thirty_percent_loss", "only_ipv6_broken",
    "certificate_store_wrong", "descriptors_gone", "ports_exhausted", "stopped",
)  # fmt: skip
AT_ONCE = 5
"""More of them starve each other of the processor, and then each is blind by itself."""
SECONDS = 500.0


@contextmanager
def database(name: str) -> Iterator[str]:
    """A migrated and empty database of its own, as a URL."""
    there = connection.settings_dict
    template = there["NAME"]
    connection.close()
    address = {"host": there["HOST"], "port": there["PORT"], "user": there["USER"], "password": there["PASSWORD"]}
    own = f"{template}_{name}"
    with psycopg.connect(dbname="postgres", autocommit=True, **{k: v for k, v in address.items() if v}) as server:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(own))
        server.execute(drop)
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(own), sql.Identifier(template)))
        try:
            yield _url(own, address)
        finally:
            server.execute(drop)


def _url(name: str, address: dict[str, Any]) -> str:
    login = f"{address['user']}:{address['password']}" if address["password"] else address["user"]
    if address["host"].startswith("/"):
        return f"postgres://{login}@/{name}?host={address['host']}"
    return f"postgres://{login}@{address['host']}:{address['port'] or 5432}/{name}"


def story(scenario: str, runs: int, url: str, home: Path) -> dict[str, Any]:
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("PG_DSN", "PYTEST_CURRENT_TEST")}
    environment |= {
        "DATABASE_URL": url, "TRANCHE_HOME": str(home), "PROBE_EXTRA_CA_FILE": str(home / "pki" / "ca.pem"),
        "DNS_RESOLVERS": "10.7.0.1", "PROBE_MINIMUM_INTERVAL_SECONDS": "1", "PROBE_OWN_INTERVAL_SECONDS": "1",
        "PROBE_ALLOW_PRIVATE": "1", "DJANGO_SETTINGS_MODULE": "tranche_site.settings", "LOG_LEVEL": "ERROR",
    }  # fmt: skip
    done = subprocess.run(
        [*alone(), sys.executable, "-m", "tests.scenarios.lan", scenario, str(runs)],
        env=environment, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"{scenario}: {done.stderr[-3000:]}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(report)
    return report


@pytest.mark.django_db(transaction=True)
def test_a_spoiled_prober_declares_no_storm_and_writes_no_dns(tmp_path: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        urls = [stack.enter_context(database(name)) for name in SPOILED]
        jobs = [pool.submit(story, name, RUNS, url, tmp_path / name) for name, url in zip(SPOILED, urls, strict=True)]
        reports = {job.result()["scenario"]: job.result() for job in jobs}
    for report in reports.values():
        assert (report["runs"], report["storms"], report["dns_writes"]) == (RUNS, 0, 0), report
        assert report["runs_blind"] == RUNS or not report["blinds"], report
    assert "one_family" in reports["only_ipv6_broken"]["findings"]


@pytest.mark.django_db(transaction=True)
def test_of_three_vantage_points_one_may_be_cut_off(tmp_path: Path) -> None:
    with database("cut") as url:
        report = story("cut_one_off", 3, url, tmp_path / "cut")
    assert report["verdicts"] == ["UP"]
    assert (report["storms"], report["dns_writes"], report["blind"]) == (0, 0, 1)
