"""Runs the whole stack as child processes: `manage.py up`.

Postgres → Valkey → prepare (migrate, static files, seeds) → workers, beat, web, demo world → ready. A child that dies is
started again, as any service manager does, unless it dies again and again; the death of a server stops the rest. Ctrl-C
and SIGTERM stop everything in order; children die with a killed supervisor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tranche_site.floor.embedded import EmbeddedError, Postgres, Server, Valkey, child_of_this_process, make_home

MANAGE = str(Path(__file__).resolve().parent.parent / "manage.py")
WORKERS = (
    ("worker", ("default", "storms", "dns"), ("-c", "2")),
    # In threads: what reads logs for a minute, and what waits for customers' servers, need not wait for each other.
    ("billing", ("billing", "webhooks"), ("-P", "threads", "-c", "3")),
)
"""(name, queues, pool) of every worker but the prober."""
QUEUES = tuple(queue for _, queues, _ in WORKERS for queue in queues)
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
RESTARTS, RESTARTS_SECONDS = 3, 60.0
"""A child that dies more often within this time has a reason that starting it again does not mend."""


class Stopped(Exception):
    """The stack stops: `message` says why, `failed` whether that is a failure."""

    def __init__(self, message: str, *, failed: bool) -> None:
        super().__init__(message)
        self.failed = failed


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `ports` (address, port, purpose, kind) must be free before anything starts, and answer when it is ready."""

    home: Path
    port: int
    postgres: bool
    valkey: bool
    vantage_points: Sequence[str] = ()
    demo: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    ports: Sequence[tuple[str, int, str, socket.SocketKind]] = ()


class Supervisor:
    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._servers: list[Server] = []
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._commands: dict[str, Sequence[str]] = {}
        self._deaths: dict[str, list[float]] = {}
        # What `up` writes into its home is read by people.
        self._environment = {"LOG_FORMAT": "console", **os.environ, **plan.environment}

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Start, stay until a signal or a dead child or `until()`, stop. Raises Stopped if that is a failure."""
        started = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        try:
            self.start()
            self._say(f"ready in {time.monotonic() - started:.1f} s: http://127.0.0.1:{self._plan.port}/")
            while not until():
                self.mend()
                time.sleep(0.1)
        except Stopped as stopped:
            if stopped.failed:
                raise
        except (EmbeddedError, OSError) as error:
            raise Stopped(str(error), failed=True) from error
        finally:
            _ignore_signals()
            if self._children or self._servers:
                self.stop()
                self._say("stopped cleanly")

    def start(self) -> None:
        plan = self._plan
        _refuse_taken("127.0.0.1", plan.port, "the web server")
        for port in plan.ports:
            _refuse_taken(*port)
        make_home(plan.home)
        if plan.postgres:
            self._start_server(Postgres(plan.home))
        if plan.valkey:
            self._start_server(Valkey(plan.home))
        self._prepare()
        celery = [sys.executable, "-m", "celery", "-A", "tranche_site"]
        flags = ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
        if plan.demo:
            self._spawn("demo", [sys.executable, MANAGE, "demo"])
        # Reading logs takes as long as it takes; detection and steering must never wait behind it.
        for name, queues, pool in WORKERS:
            self._spawn(name, [*celery, "worker", "-n", f"{name}@%h", "-Q", ",".join(queues), *pool, *flags])
        if plan.vantage_points:
            probes = ",".join(f"probe.{name}" for name in plan.vantage_points)
            self._spawn(
                "prober", [*celery, "worker", "-n", "probe@%h", "-Q", probes, "-P", "threads", "-c", "2", *flags]
            )
        self._spawn("beat", [*celery, "beat", "--pidfile=", "--loglevel", "WARNING"])
        self._spawn(
            "web",
            [sys.executable, "-m", "gunicorn", "tranche_site.wsgi", "-b", f"127.0.0.1:{plan.port}", "--threads", "8",
             "-w", "1", "-c", "python:tranche_site.gunicorn_conf"],
        )  # fmt: skip
        self._await_web()
        self._await_ports()

    def mend(self) -> None:
        """Start again each child that died. Raises Stopped if one dies too often, or if a server has died."""
        for place, (name, process) in enumerate(self._children):
            if process.poll() is None:
                continue
            now = time.monotonic()
            lately = [at for at in self._deaths.get(name, []) if now - at < RESTARTS_SECONDS]
            if len(lately) >= RESTARTS:
                raise self._died(name, process)
            self._deaths[name] = [*lately, now]
            self._say(f"{name} died (exit {process.returncode}) and is started again; see {self.log_of(name)}")
            _end_group(process)
            self._children[place] = (name, self._start_child(name))
        # Not the children again: one that has died since is mended next time.
        self._check([(server.name, server.process) for server in self._servers if server.process])

    def check(self) -> None:
        """Raise Stopped if a child or server has died: while the stack starts nobody is mended."""
        self._check([*self._children, *((s.name, s.process) for s in self._servers if s.process)])

    def stop(self) -> None:
        """Web first, the databases last."""
        for _, process in reversed(self._children):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for _, process in reversed(self._children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))
            if process.poll() is None:
                process.kill()
                process.wait()
            _end_group(process)
        for server in reversed(self._servers):
            server.stop()

    def log_of(self, name: str) -> Path:
        return self._plan.home / f"{name}.log"

    def _check(self, watched: Sequence[tuple[str, subprocess.Popen[bytes]]]) -> None:
        for name, process in watched:
            if process.poll() is not None:
                raise self._died(name, process)

    def _died(self, name: str, process: subprocess.Popen[bytes]) -> Stopped:
        return Stopped(f"{name} died (exit {process.returncode}); see {self.log_of(name)}", failed=True)

    def _start_server(self, server: Server) -> None:
        self._servers.append(server)
        server.start()

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        self._commands[name] = command
        self._children.append((name, self._start_child(name)))

    def _start_child(self, name: str) -> subprocess.Popen[bytes]:
        with self.log_of(name).open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                self._commands[name],
                env=self._environment,
                cwd=Path(MANAGE).parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=child_of_this_process(signal.SIGTERM),
            )

    def _prepare(self) -> None:
        command = [sys.executable, MANAGE, "prepare", *(["--demo"] if self._plan.demo else [])]
        done = subprocess.run(  # noqa: S603
            command, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            preexec_fn=child_of_this_process(signal.SIGTERM),
        )  # fmt: skip
        self.log_of("prepare").write_text(done.stdout + done.stderr)
        for line in done.stdout.splitlines():
            self._say(line)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise Stopped(f"could not prepare the database: {last} (all of it: {self.log_of('prepare')})", failed=True)

    def _await_web(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        url = f"http://127.0.0.1:{self._plan.port}/healthz"
        while True:
            self.check()
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
            if time.monotonic() > deadline:
                raise Stopped(
                    f"the web server did not answer within {READY_SECONDS:.0f} s; see {self.log_of('web')}", failed=True
                )
            time.sleep(0.05)

    def _await_ports(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        waiting = [port for port in self._plan.ports if port[3] is socket.SOCK_STREAM]
        while waiting:
            self.check()
            address, port, purpose, _ = waiting[0]
            try:
                socket.create_connection((address, port), timeout=2).close()
                del waiting[0]
            except OSError:
                if time.monotonic() > deadline:
                    raise Stopped(f"{purpose} did not answer within {READY_SECONDS:.0f} s", failed=True) from None
                time.sleep(0.05)


def _stop(number: int, frame: FrameType | None) -> None:
    _ignore_signals()  # a second one must not interrupt the stopping
    raise Stopped(signal.Signals(number).name, failed=False)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _refuse_taken(address: str, port: int, purpose: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    with socket.socket(type=kind) as probe:
        if kind is socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise Stopped(f"port {port} on {address}, for {purpose}, can't be used: {why}", failed=True) from None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """A child that was killed leaves its own children behind, one of them with the web server's port."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
