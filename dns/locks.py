"""Transactions that hold locks which others wait for, so none may sleep in them.

A worker that is stopped in the middle (a paused machine, a swapped-out process) would keep its locks as long as it sleeps,
and with them steering as a whole. Postgres ends such a session instead; whoever waits goes on, and the sleeper finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

IDLE_MS = 5_000
"""How long a worker may do nothing while it holds locks; between two queries it only computes."""
WAIT_MS = 15_000
"""How long one waits for another before it gives up; the next tick tries again."""


@contextmanager
def briefly() -> Iterator[None]:
    """A transaction that can be waited for."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %s, true), set_config('lock_timeout', %s, true)",
                [str(IDLE_MS), str(WAIT_MS)],
            )
        yield
