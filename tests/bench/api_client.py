"""Starts the web server as in production and asks it; the last line is JSON."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import django

django.setup()

from customers.models import ApiKey  # noqa: E402
from services.models import Service  # noqa: E402
from tests import factories  # noqa: E402
from tests.servers import free_port  # noqa: E402

SERVICES, CUSTOMERS = 10_000, 200
CONNECTIONS, PER_SECOND, STEADY_SECONDS = 50, 50, 12
CLOSED_CONNECTIONS, CLOSED_SECONDS, ROUNDS = 8, 4, 3


class Connection:
    """HTTP/1.1 with keep-alive, and no more."""

    def __init__(self, port: int, path: str, key: str) -> None:
        self._port = port
        self._asked = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._asked)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        await reader.readexactly(int(fields[b"Content-Length"]))
        if fields.get(b"Connection") == b"close":
            writer.close()
            self._streams = None


async def steady(port: int, path: str, key: str) -> list[float]:
    """Seconds that each answer took, counted from when it should have been asked."""
    connections = [Connection(port, path, key) for _ in range(CONNECTIONS)]
    took: list[float] = []
    began = time.perf_counter()

    async def one(number: int) -> None:
        due = began + number / PER_SECOND
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        await connections[number % CONNECTIONS].ask()
        took.append(time.perf_counter() - due)

    await asyncio.gather(*(one(number) for number in range(PER_SECOND * STEADY_SECONDS)))
    return sorted(took[2 * CONNECTIONS :])


async def closed(port: int, path: str, key: str) -> float:
    """Answers a second, each asked when the one before it is there."""
    until, count = time.perf_counter() + CLOSED_SECONDS, 0

    async def loop() -> None:
        nonlocal count
        connection = Connection(port, path, key)
        while time.perf_counter() < until:
            await connection.ask()
            count += 1

    await asyncio.gather(*(loop() for _ in range(CLOSED_CONNECTIONS)))
    return count / CLOSED_SECONDS


def main() -> None:
    customers = [factories.customer() for _ in range(CUSTOMERS)]
    Service.objects.bulk_create(
        Service(customer=customers[number % CUSTOMERS], name=f"service {number}") for number in range(SERVICES)
    )
    owner = customers[CUSTOMERS // 2]
    key = ApiKey.issue(owner, "bench", ["read"])[1]
    port = free_port()
    command = [
        sys.executable, "-m", "gunicorn", "tranche_site.wsgi", "-b", f"127.0.0.1:{port}", "--threads", "8", "-w", "1",
        "--keep-alive", "5", "--log-level", "error",
    ]  # fmt: skip
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.bench.api_settings"}
    server = subprocess.Popen(command, env=environment)
    try:
        paths = {"rate": "/v1/services", "bare_rate": f"/bare/{owner.pk}"}
        for _ in range(100):
            try:
                asyncio.run(Connection(port, paths["rate"], key).ask())
                break
            except OSError:
                time.sleep(0.1)
        # In turns, so that what else the machine does falls on both alike; the best round of each is the least disturbed.
        rates: dict[str, list[float]] = {name: [] for name in paths}
        for _ in range(ROUNDS):
            for name, path in paths.items():
                rates[name].append(asyncio.run(closed(port, path, key)))
        took = asyncio.run(steady(port, paths["rate"], key))
    finally:
        server.terminate()
        server.wait(10)
    told = {name: max(found) for name, found in rates.items()}
    told |= {"p50_ms": 1000 * took[len(took) // 2], "p99_ms": 1000 * took[int(len(took) * 0.99)]}
    print(json.dumps({name: round(value, 2) for name, value in told.items()}))


if __name__ == "__main__":
    main()
