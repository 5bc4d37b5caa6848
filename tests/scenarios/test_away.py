"""Postgres away, and the broker away: probing goes on, samples arrive, and nothing is decided meanwhile.

On a whole stack whose servers are the test's own; until all is well there takes longer than either story, so they share one.
AWAY_SECONDS says for how long; two minutes make the same test slower.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.servers import free_port
from tests.stack import Stack, until
from tranche_site.floor.embedded import Postgres, Valkey, embedded_urls

AWAY_SECONDS = float(os.environ.get("AWAY_SECONDS", "20"))
INTERVAL_SECONDS = 5.0  # of the demo's service, and of its canaries


@dataclass
class Site:
    stack: Stack
    postgres: Postgres
    valkey: Valkey
    dsn: str
    metrics: int

    def ask(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, connect_timeout=5) as connection:
            return connection.execute(sql, parameters).fetchall()

    def storms(self) -> int:
        return self.ask("SELECT count(*) FROM storm_events")[0][0]

    def is_well(self) -> bool:
        verdicts = self.ask(
            "SELECT count(*) FROM path_verdicts v JOIN targets t ON t.id = v.target_id "
            "WHERE verdict = 'UP' AND t.role IN ('primary', 'backup', 'origin')"
        )
        blind = self.ask("SELECT count(*) FROM vantage_points WHERE blind_since IS NOT NULL OR last_probe_at IS NULL")
        return verdicts == [(3,)] and blind == [(0,)]

    def edge(self, mode: str) -> None:
        assert self.stack.process.poll() is None, self.stack.out + self.stack.err + self._last_words()
        port = self.stack.environment["DEMO_CONTROL_PORT"]
        assert httpx.post(f"http://127.0.0.1:{port}/primary/{mode}", trust_env=False).status_code == 200

    def _last_words(self) -> str:
        names = ("worker", "billing", "prober", "beat", "web", "demo")
        return "\n".join(f"{name}: {self.stack.log(name)[-1500:]}" for name in names)

    def figure(self, name: str) -> float:
        """The sum over all labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def widest_gap(self, since: datetime, until_: datetime) -> float:
        """The longest time within the span in which some vantage point had no slot of some target, in intervals."""
        rows = self.ask(
            """
            WITH slots AS (
                SELECT target_id, vantage_point_id, slot_at FROM probe_samples
                WHERE attempt = 0 AND slot_at BETWEEN %s AND %s
                UNION ALL
                SELECT t.target_id, t.vantage_point_id, edge FROM
                    (SELECT DISTINCT target_id, vantage_point_id FROM probe_samples) t,
                    unnest(ARRAY[%s, %s]::timestamptz[]) edge
            ) SELECT max(extract(epoch FROM step)::float8) FROM (
                SELECT slot_at - lag(slot_at) OVER (PARTITION BY target_id, vantage_point_id ORDER BY slot_at) AS step
                FROM slots
            ) steps
            """,
            since, until_, since, until_,
        )  # fmt: skip
        return rows[0][0] / INTERVAL_SECONDS


@pytest.fixture
def site() -> Iterator[Site]:
    # Not below pytest's own directory, which another run of the tests closes to others when it starts.
    home = Path(tempfile.mkdtemp(prefix="tranche-away-"))
    home.chmod(0o755)  # so that the unprivileged user of Postgres can enter
    postgres, valkey = Postgres(home, durable=False), Valkey(home)
    urls, metrics = embedded_urls(home), free_port()
    stack = Stack(
        DATABASE_URL=f"postgres://tranche@/tranche?host={urls.postgres_socket_dir}",
        REDIS_URL=urls.celery_url,
        PROBE_METRICS=str(metrics),
    )
    dsn = f"host={urls.postgres_socket_dir} user=tranche dbname=tranche"
    try:
        postgres.start()
        valkey.start()
        stack.start()
        stack.await_ready()
        made = Site(stack, postgres, valkey, dsn, metrics)
        until(made.is_well, 120)
        yield made
    finally:
        stack.close()
        valkey.stop()
        postgres.stop()
        shutil.rmtree(home)


def test_without_postgres_or_a_broker_samples_arrive_and_decide_nothing(site: Site) -> None:
    """The storm in the end, out of samples of a time without a broker, is the control of both."""
    _without_postgres(site)
    _without_a_broker(site)


def _without_postgres(site: Site) -> None:
    """Samples wait on disk, and the outage in them decides nothing afterwards."""
    probes = site.figure("tranche_probes_total")
    site.postgres.stop()
    gone = datetime.now(UTC)
    time.sleep(AWAY_SECONDS / 4)
    site.edge("500")
    time.sleep(AWAY_SECONDS / 2)
    site.edge("ok")
    # What failed meanwhile must have left every window, so that only back-filled samples tell of it.
    time.sleep(max(AWAY_SECONDS / 4, 5))
    back = datetime.now(UTC)
    targets = 3 * 3 + 3 * 3 + 2 * 3  # paths and witness, canaries, reference sites; from three vantage points each
    expected = (back - gone).total_seconds() / INTERVAL_SECONDS * targets
    assert site.figure("tranche_probes_total") - probes > 0.8 * expected
    assert site.figure("tranche_spool_bytes") > 0
    site.postgres.start()
    until(lambda: site.figure("tranche_spool_bytes") == 0, 60)
    bad = site.ask(
        "SELECT count(*), bool_and(is_late) FROM probe_samples WHERE outcome = 'http_5xx' AND slot_at BETWEEN %s AND %s",
        gone, back,
    )  # fmt: skip
    assert bad[0][0] > 3 and bad[0][1] is True
    assert site.widest_gap(gone, back) < 1.5
    # The minutes that were away are counted as well.
    minute = (gone + timedelta(minutes=1)).replace(second=0, microsecond=0)
    if minute + timedelta(minutes=1) < back:
        until(lambda: site.ask("SELECT count(*) FROM sample_minutes WHERE minute_at = %s", minute)[0][0] > 0, 60)
    until(site.is_well, 60)
    assert site.storms() == 0


def _without_a_broker(site: Site) -> None:
    """Samples arrive and wait to be judged: the outage in them is a storm when the broker is there again."""
    site.valkey.stop()
    gone = datetime.now(UTC)
    time.sleep(AWAY_SECONDS / 3)
    site.edge("500")
    time.sleep(AWAY_SECONDS * 2 / 3)
    back = datetime.now(UTC)
    assert site.storms() == 0
    assert site.widest_gap(gone, back) < 1.5
    late = site.ask("SELECT count(*) FROM probe_samples WHERE is_late AND slot_at BETWEEN %s AND %s", gone, back)
    assert late == [(0,)]
    site.valkey.start()
    until(site.storms, 40)
