"""A beat scheduler of which any number may run: only the holder of an advisory lock sends."""

from __future__ import annotations

import logging
from typing import Any

from django.db import InterfaceError, OperationalError, connections
from django_celery_beat.schedulers import DatabaseScheduler

logger = logging.getLogger(__name__)

LOCK = 7_726_243  # one fixed number among the advisory locks of the database
STANDBY_SECONDS = 1.0


class LeaderScheduler(DatabaseScheduler):
    """Ticks while it holds a session-level lock, on a connection of its own that Django never recycles.

    The connection must reach Postgres directly: a transaction pooler would hand the session to somebody else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._connection = connections.create_connection("default")
        self._leads = False
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        if not self._lead():
            return STANDBY_SECONDS
        delay: float = super().tick(*args, **kwargs)
        return delay

    def _lead(self) -> bool:
        try:
            with self._connection.cursor() as cursor:
                if self._leads:
                    cursor.execute("SELECT 1")
                    return True
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
                self._leads = bool(cursor.fetchone()[0])
        except (OperationalError, InterfaceError):
            logger.warning("beat lost its database connection, and the lead with it")
            self._connection.close()
            self._leads = False
        if self._leads:
            logger.info("this beat leads")
            # What a standby has read is old: read the schedule again.
            self._heap = None
            self._schedule = None
            self._initial_read = True
            self.setup_schedule()
        return self._leads

    def close(self) -> None:
        if self._leads:
            super().close()
        self._connection.close()
