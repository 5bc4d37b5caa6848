"""`manage.py up` from outside: a real process in a home of its own. Every start costs seconds, so each test tells a lot."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import docs_commands
from tests.servers import free_port
from tests.stack import Stack, until
from tranche_site.supervisor import RESTARTS, Plan, Stopped, Supervisor


@pytest.fixture
def stack() -> Iterator[Stack]:
    stack = Stack(fresh=True)
    yield stack
    stack.close()


@pytest.fixture
def plain() -> Iterator[Stack]:
    """Without the demo world."""
    stack = Stack(TRANCHE_DEMO="0")
    yield stack
    stack.close()


def _get(stack: Stack, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{stack.port}{path}", headers=headers, trust_env=False, timeout=20)


def _line(stack: Stack, beginning: str) -> str:
    (line,) = (line for line in stack.out.splitlines() if line.startswith(beginning))
    return line


def test_starts_with_the_demo_survives_a_kill_and_stops_in_order(stack: Stack) -> None:
    stack.start()
    stack.await_ready()
    assert _line(stack, "ready in ").endswith(f" s: http://127.0.0.1:{stack.port}/")
    assert _get(stack, "/healthz").text.strip() == "ok"
    key = _line(stack, "API key ").split()[2]
    assert [service["name"] for service in _get(stack, "/v1/services", Authorization=f"Bearer {key}").json()] == [
        "shop"
    ]
    assert _get(stack, "/v1/services").status_code == 401
    # Ready means that the demo world hears what it is told; what the documents say works, back-up and restore included.
    assert len(docs_commands.run_all(stack)) >= 18
    password = stack.home / "admin-password"
    assert password.read_text().strip() in _line(stack, "console ")
    for secret in (password, stack.home / "demo" / "api-key", stack.home / "secret_key"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600

    os.kill(stack.process.pid, signal.SIGKILL)
    stack.wait()
    until(lambda: not stack.family(), 20)

    stack.start()
    stack.await_ready()
    # What was there before is there again, and no second account was made.
    assert _get(stack, "/v1/services", Authorization=f"Bearer {key}").json()[0]["name"] == "shop"
    assert password.read_text().strip() not in stack.out

    postgres_before = len(stack.log("postgres"))
    stack.process.send_signal(signal.SIGTERM)
    assert stack.wait() == 0
    assert stack.family() == []
    assert stack.out.splitlines()[-1] == "stopped cleanly"
    assert stack.err == ""
    # In order: the databases last, when nobody is connected any more; so nobody lost them.
    stopping = stack.log("postgres")[postgres_before:]
    assert "database system is shut down" in stopping
    assert "terminating connection" not in stopping
    assert "ready to exit, bye bye" in stack.log("valkey")


def test_without_the_demo_a_dead_child_is_started_again_until_it_dies_too_often(plain: Stack) -> None:
    plain.start()
    plain.await_ready()
    assert _get(plain, "/healthz").text.strip() == "ok"
    assert "API key" not in plain.out
    assert not [process for process in plain.family() if " demo" in process.command]

    # The web server's own child would hold the port on if only its parent were looked at.
    assert _kill(plain, "gunicorn")
    until(lambda: "ok" in _answer(plain), 30)
    assert plain.process.poll() is None

    # Three deaths are mended, and more of them only if they are so slow that the first is forgotten by then.
    kills = 1
    while _kill(plain, " beat "):
        kills += 1
        assert kills < 20
    assert plain.wait() == 1
    assert plain.family() == []
    assert plain.err.startswith("CommandError: beat died (exit -9); see ")
    assert plain.err.count("\n") == 1
    assert plain.out.count("beat died (exit -9) and is started again") == kills - 1 >= 3


def _kill(stack: Stack, name: str) -> bool:
    """Kill a child, and wait until another one is in its place; False if the stack has stopped instead."""
    supervisor, victim = stack.process.pid, stack.child(name)
    os.kill(victim.pid, signal.SIGKILL)

    def is_replaced() -> bool:
        # The child's own children, such as a web worker, may outlive it for a moment.
        there = [process.pid for process in stack.family() if name in process.command and process.parent == supervisor]
        return bool(there) and victim.pid not in there

    until(lambda: stack.process.poll() is not None or is_replaced(), 60)
    return stack.process.poll() is None


def _answer(stack: Stack) -> str:
    try:
        return _get(stack, "/healthz").text
    except httpx.TransportError:
        return ""


def test_a_child_that_dies_at_once_when_it_is_started_again_is_mended_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts how often it dies, not at which moment of the supervisor's round."""
    said: list[str] = []
    supervisor = Supervisor(Plan(tmp_path, 0, postgres=False, valkey=False), said.append)
    start = supervisor._start_child

    def start_and_see_it_die(name: str) -> subprocess.Popen[bytes]:
        process = start(name)
        process.wait()
        return process

    monkeypatch.setattr(supervisor, "_start_child", start_and_see_it_die)
    supervisor._spawn("brief", ["false"])
    for _ in range(RESTARTS):
        supervisor.mend()
    assert said == [f"brief died (exit 1) and is started again; see {tmp_path / 'brief.log'}"] * RESTARTS
    with pytest.raises(Stopped, match=r"^brief died \(exit 1\); see "):
        supervisor.mend()
    assert len(said) == RESTARTS


def test_a_dead_server_stops_the_rest(plain: Stack) -> None:
    plain.start()
    plain.await_ready()
    os.kill(plain.child("valkey").pid, signal.SIGKILL)
    assert plain.wait() == 1
    assert plain.err.startswith("CommandError: valkey died (exit -9); see ")
    assert plain.family() == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_is_one_line(stack: Stack, kind: socket.SocketKind) -> None:
    port = stack.port if kind is socket.SOCK_STREAM else int(stack.environment["DEMO_DNS_PORT"])
    with socket.socket(type=kind) as taken:
        taken.bind(("127.0.0.1", port))
        stack.start()
        assert stack.wait() == 1
    assert stack.err.startswith(f"CommandError: port {port} on 127.0.0.1, for the ")
    assert stack.err.endswith("can't be used: Address already in use\n")
    assert stack.err.count("\n") == 1
    assert stack.out == ""
    assert stack.family() == []


def test_two_names_of_one_setting_that_differ_are_an_error(stack: Stack) -> None:
    stack.environment |= {"DATABASE_URL": "postgres://one/tranche", "PG_DSN": "postgres://other/tranche"}
    stack.start()
    assert stack.wait() == 1
    assert (
        stack.err == "Error: DATABASE_URL and PG_DSN are both set and differ: set one of them, or both to the same.\n"
    )
    assert stack.out == ""


def test_a_database_that_does_not_answer_is_one_line_and_says_where_to_look(plain: Stack) -> None:
    plain.environment["PG_DSN"] = f"postgres://nobody@127.0.0.1:{free_port()}/tranche"
    plain.start()
    assert plain.wait() == 1
    assert plain.err.startswith("CommandError: could not prepare the database: ")
    assert str(plain.home / "prepare.log") in plain.err
    assert plain.err.count("\n") == 1
    assert "OperationalError" in plain.log("prepare")
    assert plain.family() == []
