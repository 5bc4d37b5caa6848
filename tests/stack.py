"""`manage.py up` as a process of its own in a home of its own, and the family of processes that belongs to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers import free_port

MANAGE = Path(__file__).resolve().parents[1] / "manage.py"
PORTS = ("DEMO_DNS_PORT", "DEMO_HTTPS_PORT", "DEMO_CONTROL_PORT")
# What tests/plugin.py says for the tests themselves must not reach the stack.
_OWN = ("TRANCHE_HOME", "TRANCHE_TEST_SERVERS", "DATABASE_URL", "PG_DSN", "REDIS_URL", "SECRET_KEY", "PROBE_ALLOW_PRIVATE",
        "PROBE_MINIMUM_INTERVAL_SECONDS", "API_RATE_PER_KEY", "API_RATE_PER_CUSTOMER",
        "API_RATE_PER_ADDRESS", "LOG_DIRECTORIES", "STATICFILES_STORAGE", "PYTEST_XDIST_WORKER", "ADMIN_PASSWORD")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    group: int
    command: str


class Stack:
    """Start it, ask it, stop it. `close` leaves nothing of it behind, whatever the test did.

    Its database is a copy of what `tests.plugin` migrated, which is most of the time that a start takes; `fresh` has none.
    """

    def __init__(self, *, fresh: bool = False, **environment: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="tranche-up-"))
        self.home.chmod(0o755)  # so that the unprivileged user of Postgres can enter
        migrated = Path(os.environ.get("TRANCHE_TEST_SERVERS", "/nowhere")) / "migrated"
        if migrated.exists() and not fresh:
            subprocess.run(["cp", "-a", migrated, self.home / "pgdata"], check=True)
        self.port = free_port()
        inherited = {key: value for key, value in os.environ.items() if key not in _OWN}
        self.environment = inherited | {name: str(free_port()) for name in PORTS} | environment
        self.environment["TRANCHE_HOME"] = str(self.home)
        self._out, self._err = self.home / "up.out", self.home / "up.err"
        self._groups: set[int] = set()
        self.process: subprocess.Popen[bytes]

    def start(self, *arguments: str) -> None:
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, MANAGE, "up", "--port", str(self.port), *arguments],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip

    def await_ready(self, seconds: float = 120) -> None:
        until(lambda: "\nready in " in f"\n{self.out}" or self.process.poll() is not None, seconds)
        assert self.process.poll() is None, self.out + self.err
        self._groups |= {process.group for process in self.family()}

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself, with this stack's environment."""
        return subprocess.run(
            [sys.executable, MANAGE, *arguments], env=self.environment, capture_output=True, text=True, timeout=60
        )

    def family(self) -> list[Process]:
        """All processes of this home but zombies: told by their environment, directory, or process group."""
        found = []
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and (process := self._of(directory)):
                found.append(process)
        return found

    def child(self, words: str) -> Process:
        """The direct child of the supervisor whose command has these words."""
        return next(p for p in self.family() if p.parent == self.process.pid and words in p.command)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.family():
            with contextlib.suppress(ProcessLookupError):  # its parent may have ended it just now
                os.kill(process.pid, signal.SIGKILL)
        until(lambda: not self.family(), 10)
        shutil.rmtree(self.home)

    def _of(self, directory: Path) -> Process | None:
        try:
            state, parent, group = _stat(directory)
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            environment = (directory / "environ").read_bytes().split(b"\0")
            place = (directory / "cwd").readlink()
        except OSError:
            return None  # it has just ended, or is somebody else's
        is_ours = (
            f"TRANCHE_HOME={self.home}".encode() in environment
            or place.is_relative_to(self.home)
            or group in self._groups
        )
        if state == "Z" or not is_ours:
            return None
        return Process(int(directory.name), parent, group, command)


def _stat(directory: Path) -> tuple[str, int, int]:
    state, parent, group, *_ = (directory / "stat").read_text().rpartition(")")[2].split()
    return state, int(parent), int(group)


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Poll until something is true; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
