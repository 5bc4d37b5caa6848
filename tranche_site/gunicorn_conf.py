"""Gunicorn's settings that follow from ours: one format of log lines, and counters that its workers share.

`gunicorn tranche_site.wsgi -c python:tranche_site.gunicorn_conf`; addresses, workers and threads are given beside it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from tranche_site.floor import logs

# Workers count requests in files of this directory, which is new with each start: no counter of an earlier run is in it.
# It is set before the workers import prometheus_client, and only here: probers keep their figures in memory.
_counters = os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="tranche-http-"))

accesslog = None  # each request is a line of tranche_site.floor.logs, with its ids
loglevel = os.environ.get("LOG_LEVEL", "INFO").lower()
logconfig_dict = logs.configuration(os.environ.get("LOG_LEVEL", "INFO"), logs.chosen_form())
graceful_timeout = 20
keepalive = 75  # longer than the proxy in front holds a connection, so that it is never the one to find it closed
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112  # a heartbeat must not wait for a disk


def child_exit(server: Any, worker: Any) -> None:
    """A worker that is gone no longer adds to gauges; what it counted stays counted."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def on_exit(server: Any) -> None:
    shutil.rmtree(_counters, ignore_errors=True)
