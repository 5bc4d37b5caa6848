"""Starts Postgres and Valkey before pytest-django reads the settings; xdist workers share them.

With DATABASE_URL or REDIS_URL set, the tests use those servers instead.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tranche_site.floor.embedded import Postgres, Server, Valkey

_MARK = "TRANCHE_TEST_SERVERS"
_started: list[Server] = []
_home: Path | None = None

os.environ.setdefault("STATICFILES_STORAGE", "django.contrib.staticfiles.storage.StaticFilesStorage")
os.environ.update(
    PROBE_ALLOW_PRIVATE="1", LOGS_ALLOW_PRIVATE="1", PROBE_MINIMUM_INTERVAL_SECONDS="1", SECRET_KEY="only for tests",
    AWS_EC2_METADATA_DISABLED="true", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1",
)  # fmt: skip

if _MARK not in os.environ:
    _home = Path(tempfile.mkdtemp(prefix="tranche-test-"))
    _home.chmod(0o755)  # so that the unprivileged user of Postgres can enter
    os.environ[_MARK] = os.environ["TRANCHE_HOME"] = str(_home)
    if not (os.environ.get("DATABASE_URL") or os.environ.get("PG_DSN")):
        _started.append(Postgres(_home, durable=False))
    if not os.environ.get("REDIS_URL"):
        _started.append(Valkey(_home))
    for server in _started:
        server.start()


def pytest_unconfigure() -> None:
    for server in reversed(_started):
        server.stop()
    _started.clear()
    if _home:
        shutil.rmtree(_home, ignore_errors=True)
