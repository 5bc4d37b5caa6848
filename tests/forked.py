"""Work in a child process that can be killed, stopped and let go on: a worker, as far as the database can tell."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import psycopg
from django.db import connection, connections

_left: list[Any] = []
_children: set[int] = set()


class Child:
    def __init__(self, work: Callable[[], object]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # threads of servers in this process are not the child's
            self.pid = os.fork()
        if not self.pid:
            _run(work)
        _children.add(self.pid)

    def wait(self) -> str:
        """Until it has ended or stopped: "done", "failed", "killed" or "stopped"."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return "stopped"
        _children.discard(self.pid)
        if os.WIFSIGNALED(status):
            return "killed"
        return "failed" if os.WEXITSTATUS(status) else "done"

    def go_on(self) -> str:
        os.kill(self.pid, signal.SIGCONT)
        return self.wait()


def end_all() -> None:
    """Those that a failed test left behind."""
    for pid in list(_children):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _children.discard(pid)


def _run(work: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        leave_parents_connections()
        work()
        code = 0
    except BaseException:
        if os.environ.get("SHOW_CHILDREN"):
            traceback.print_exc(file=sys.__stderr__)
    os._exit(code)


def leave_parents_connections() -> None:
    """They are the parent's; closing them here would end its sessions."""
    for each in connections.all(initialized_only=True):
        _left.append(each.connection)
        each.connection = None
        each.in_atomic_block = False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_on() -> None:
    """Until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def lose_the_database() -> None:
    """The server ends this session; the next query finds out."""
    pid = connection.connection.info.backend_pid if connection.connection else None
    if pid is None:
        return
    given = {k: v for k, v in connection.get_connection_params().items() if k not in ("cursor_factory", "context")}
    with psycopg.connect(**given, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
