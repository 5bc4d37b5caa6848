"""Starts Postgres and Valkey before pytest-django reads the settings; xdist workers share them.

With DATABASE_URL or REDIS_URL set, the tests use those servers instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from tranche_site.floor.embedded import USER, Postgres, Server, Valkey

_MARK = "TRANCHE_TEST_SERVERS"
_started: list[Server] = []
_home: Path | None = None

os.environ.setdefault("STATICFILES_STORAGE", "django.contrib.staticfiles.storage.StaticFilesStorage")
os.environ.update(
    PROBE_ALLOW_PRIVATE="1", LOGS_ALLOW_PRIVATE="1", LOG_DIRECTORIES="/", DNS_API_ALLOW_PRIVATE="1",
    PROBE_MINIMUM_INTERVAL_SECONDS="1", SECRET_KEY="only for tests", TWO_FACTOR="0", REAUTHENTICATE_SECONDS="0",
    API_RATE_PER_KEY="1000000", API_RATE_PER_CUSTOMER="1000000", API_RATE_PER_ADDRESS="1000000",
    AWS_EC2_METADATA_DISABLED="true", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1",
)  # fmt: skip


def _migrated(server: Postgres, home: Path) -> None:
    """Migrate once: the databases of all workers, and those of the stacks that tests start, are copies of this one."""
    manage = Path(__file__).resolve().parents[1] / "manage.py"
    server.start()
    subprocess.run([sys.executable, "-W", "ignore", manage, "migrate", "-v", "0"], check=True)
    server.stop()
    subprocess.run(["cp", "-a", server.data, home / "migrated"], check=True)


def _leave_alone(server: Postgres) -> None:
    """Autovacuum would note that tables are empty while they hold nothing but what tests rolled back; the next test's
    queries would then be planned for no rows, and take a hundred times as long."""
    with psycopg.connect(host=str(server.socket_dir), user=USER, dbname="postgres", autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")


if _MARK not in os.environ:
    _home = Path(tempfile.mkdtemp(prefix="tranche-test-"))
    _home.chmod(0o755)  # so that the unprivileged user of Postgres can enter
    (_home / "static").mkdir()  # WhiteNoise warns of a directory that isn't there, and warnings are errors
    os.environ[_MARK] = os.environ["TRANCHE_HOME"] = str(_home)
    if not (os.environ.get("DATABASE_URL") or os.environ.get("PG_DSN")):
        _started.append(Postgres(_home, durable=False))
    if not os.environ.get("REDIS_URL"):
        _started.append(Valkey(_home))
    for server in _started:
        if isinstance(server, Postgres):
            _migrated(server, _home)
        server.start()
        if isinstance(server, Postgres):
            _leave_alone(server)


def pytest_unconfigure() -> None:
    for server in reversed(_started):
        server.stop()
    _started.clear()
    if _home:
        shutil.rmtree(_home, ignore_errors=True)
