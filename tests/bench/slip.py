"""Whether hostile targets delay the good ones: how late the resident prober begins the probes of 200 good targets (nginx,
every 5 seconds) with as many hostile ones among them, and what memory it takes.

The run fails when a good target is not ok or misses a slot, or when a hostile one ends in another class than its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests import hostile
from tests.bench import Result, nginx
from tranche_site.floor.embedded import Postgres

PER_KIND = 4
"""Listeners, and so targets, of each hostile kind: 200 in all."""

GOOD_ADDRESSES = [f"127.0.1.{n}" for n in range(1, 9)]
LIMIT_MS = 500
LIMIT_MIB = 256


def probe_slip_p99_ms() -> Result:
    """From a good target's slot to the start of its probe, with the hostile ones among them from the first moment on."""
    p99 = _measure()["slip_p99_ms"]
    return Result("probe_slip_p99_ms", round(p99, 1), "ms", "limit: a tenth of the interval", LIMIT_MS)


def probe_rss_mib() -> Result:
    """The most that the prober's process held in memory, in the same run."""
    return Result("probe_rss_mib", round(_measure()["peak_mib"], 1), "MiB", "limit", LIMIT_MIB)


@cache
def _measure() -> dict[str, float]:
    directory = Path(tempfile.mkdtemp(prefix="tranche-bench-"))
    directory.chmod(0o755)
    try:
        with hostile.running(directory, PER_KIND) as ports, nginx.serving(directory, GOOD_ADDRESSES) as port:
            told = _client(directory, port, ports)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    calm = "without hostile targets: slip p99 {calm_slip_p99_ms:.1f} ms, peak {calm_peak_mib:.1f} MiB"
    print(calm.format_map(told), file=sys.stderr)
    return told


def _client(directory: Path, port: int, ports: hostile.Ports) -> dict[str, float]:
    home = directory / "home"
    postgres = Postgres(home)
    environment = {
        **os.environ, "TRANCHE_HOME": str(home), "SECRET_KEY": "bench", "DJANGO_SETTINGS_MODULE": "tranche_site.settings",
        "PROBE_ALLOW_PRIVATE": "1", "PROBE_EXTRA_CA_FILE": str(directory / hostile.TRUSTED),
        # Here hundreds of hosts share a few addresses.
        "PROBE_MOST_PER_HOST": "0", "PROBE_MOST_PER_ADDRESS": "0",
    }  # fmt: skip
    postgres.start()
    try:
        run = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(run, env=environment, check=True)
        task = {"good": [[address, port] for address in GOOD_ADDRESSES], "hostile": ports["127.0.0.1"]}
        command = [sys.executable, "-m", "tests.bench.slip_client"]
        done = subprocess.run(
            command, env=environment, check=True, input=json.dumps(task), stdout=subprocess.PIPE, text=True
        )
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told
    finally:
        postgres.stop()
