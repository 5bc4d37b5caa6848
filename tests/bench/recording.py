"""How fast samples are recorded, beside a bare COPY of the same rows, and how long planning a slot takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.bench import Result
from tranche_site.floor.embedded import Postgres


def record_rows() -> Result:
    told = _measure()
    return Result("record_rows", round(told["rows_per_second"]), "rows/s", "bare COPY", round(told["bare"]))


@cache
def _measure() -> dict[str, float]:
    home = Path(tempfile.mkdtemp(prefix="tranche-bench-"))
    home.chmod(0o755)
    postgres = Postgres(home)
    environment = {
        **os.environ, "TRANCHE_HOME": str(home), "SECRET_KEY": "bench", "DJANGO_SETTINGS_MODULE": "tranche_site.settings",
    }  # fmt: skip
    try:
        postgres.start()
        run = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(run, env=environment, check=True)
        command = [sys.executable, "-m", "tests.bench.record_client"]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told
    finally:
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)
