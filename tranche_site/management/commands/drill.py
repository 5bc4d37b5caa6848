"""`manage.py drill`: the demo's whole story on a fresh stack, in under two minutes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from tranche_site.management.commands.up import make_plan
from tranche_site.supervisor import MANAGE, Stopped, Supervisor

DRILL = {
    "PROBE_OWN_INTERVAL_SECONDS": "1",
    "FAILBACK_GATE_SECONDS": "3",
    "FAILBACK_STEPS_PERCENT": "50,100",
    "DEMO_VISITS_PER_SECOND": "10",
    "DEMO_LOG_SECONDS": "1",
    "TRANCHE_DEMO": "1",
}


class Command(BaseCommand):
    help = "Outage, storm, shift, observed answers, moved traffic, recovery, failback, invoice; the last line is JSON."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--inside", type=Path, metavar="HOME", help="used by the command itself")
        parser.add_argument("--keep", action="store_true", help="leave the drill's home, with its logs, for a look")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["inside"]:
            self._tell_story(options["inside"], keep=options["keep"])
        else:
            self._start_afresh(keep=options["keep"])

    def _start_afresh(self, *, keep: bool) -> None:
        """Become the same command with a home and ports of its own: settings are read once, at the start."""
        home = Path(tempfile.mkdtemp(prefix="tranche-drill-"))
        home.chmod(0o755)  # so that the unprivileged user of Postgres can enter
        names = ("DEMO_DNS_PORT", "DEMO_HTTPS_PORT", "DEMO_CONTROL_PORT", "DRILL_WEB_PORT")
        environment = {
            key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "PG_DSN", "REDIS_URL")
        }
        environment |= DRILL | dict(zip(names, map(str, _free_ports(len(names))), strict=True))
        environment["TRANCHE_HOME"] = str(home)
        flags = ["--keep"] if keep else []
        self.stdout.flush()
        os.execve(sys.executable, [sys.executable, MANAGE, "drill", "--inside", str(home), *flags], environment)  # noqa: S606

    def _tell_story(self, home: Path, *, keep: bool) -> None:
        plan = make_plan(int(os.environ["DRILL_WEB_PORT"]))
        # This process looks at the same world as the children do.
        os.environ.update(plan.environment)
        outcome: dict[str, Any] = {"ok": False}
        failures: list[str] = []
        thread = threading.Thread(target=self._run, args=(outcome, failures), daemon=True)
        began = time.monotonic()

        def is_over() -> bool:
            if thread.ident is None:
                thread.start()
            return not thread.is_alive()

        try:
            Supervisor(plan, self._say).run(until=is_over)
        except Stopped as stopped:
            failures.append(str(stopped))
        outcome["drill_s"] = round(time.monotonic() - began, 1)
        if failures:
            outcome |= {"ok": False, "failure": failures[0]}
        if keep or failures:
            self._say(f"logs are in {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
        self._say(json.dumps(outcome))
        if not outcome["ok"]:
            raise CommandError(failures[0] if failures else "the drill was stopped")

    def _run(self, outcome: dict[str, Any], failures: list[str]) -> None:
        from django.db import connection

        from tranche_site.demo.drill import Drill, DrillFailed

        drill = Drill(self._say)
        try:
            drill.run()
        except DrillFailed as failed:
            failures.append(str(failed))
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
            raise
        finally:
            outcome.update(drill.result)
            connection.close()

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
