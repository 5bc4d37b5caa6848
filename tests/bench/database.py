"""A database of its own for a bench, on an embedded Postgres, and a process that measures in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tranche_site.floor.embedded import Postgres, Server, Valkey


def measure(module: str, *arguments: str, static_files: bool = False, valkey: bool = False) -> Any:
    """Run `python -m module arguments…` on a migrated, empty database; its last line is JSON."""
    home = Path(tempfile.mkdtemp(prefix="tranche-bench-"))
    home.chmod(0o755)
    servers: list[Server] = [Valkey(home)] if valkey else []
    postgres = Postgres(home, durable=False)  # filling it is three times as fast, and what is measured mostly reads
    environment = {
        **os.environ, "TRANCHE_HOME": str(home), "SECRET_KEY": "bench", "DJANGO_SETTINGS_MODULE": "tranche_site.settings",
        "LOG_LEVEL": "ERROR",
    }  # fmt: skip
    try:
        for server in servers:
            server.start()
        postgres.start()
        for task in (
            "migrate",
            *(("collectstatic",) if static_files else ()),
        ):  # pages name static files by their hashes
            run = [sys.executable, "manage.py", task, "--no-input", "--verbosity", "0"]
            subprocess.run(run, env=environment, check=True)
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        for server in (postgres, *servers):
            server.stop()
        shutil.rmtree(home, ignore_errors=True)
