"""How long the console's page of a service takes on a database that has counted 50 million samples."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import Result
from tranche_site.floor.embedded import Postgres

LIMIT_MS = 150


def service_page_ms() -> Result:
    """The slower one of 24 hours and 7 days."""
    home = Path(tempfile.mkdtemp(prefix="tranche-bench-"))
    home.chmod(0o755)
    postgres = Postgres(home, durable=False)  # what is measured only reads; filling it is three times as fast
    environment = {
        **os.environ, "TRANCHE_HOME": str(home), "SECRET_KEY": "bench", "DJANGO_SETTINGS_MODULE": "tranche_site.settings",
    }  # fmt: skip
    try:
        postgres.start()
        for task in ("migrate", "collectstatic"):  # pages name static files by their hashes
            run = [sys.executable, "manage.py", task, "--no-input", "--verbosity", "0"]
            subprocess.run(run, env=environment, check=True)
        command = [sys.executable, "-m", "tests.bench.service_page_client"]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return Result("service_page_ms", round(max(told.values()), 1), "ms", "limit", LIMIT_MS)
    finally:
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)
