"""The process that the probe benches measure: `python -m tests.bench.probe_client PORT CA COUNT`, one JSON line."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from datetime import UTC, datetime, timedelta

import django
import pycurl

django.setup()

from services import samples  # noqa: E402
from services.probe import Probe, Reply, classify  # noqa: E402
from services.prober import spare_collector  # noqa: E402
from services.transport import Transport  # noqa: E402

IN_FLIGHT = 100
BATCH = 250


def main(port: int, ca_file: str, count: int) -> None:
    # A public address would be asked as well: the guard is on for every socket, and lets loopback pass by its setting.
    probe = Probe("www.shop.test", "127.0.0.1", port, ca_file=ca_file, allow_private=True)
    cpu_ms, rate = asyncio.run(_recorded(probe, count))
    print(json.dumps({"cpu_ms": cpu_ms, "rate": rate, "bare_rate": _bare(port, ca_file, count)}))


async def _recorded(probe: Probe, count: int) -> tuple[float, float]:
    transport = Transport(IN_FLIGHT, probe.ca_file)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(transport.send(probe) for _ in range(200)))
    spare_collector()  # as the prober does when it has loaded its targets
    before, began = _cpu(), time.monotonic()
    for first in range(0, count, BATCH):
        replies = await asyncio.gather(*(transport.send(probe) for _ in range(min(BATCH, count - first))))
        rows = [_row(probe, reply, first + n) for n, reply in enumerate(replies)]
        if any(row.outcome != "ok" for row in rows):
            raise SystemExit(f"a probe failed: {next(row.reason for row in rows if row.outcome != 'ok')}")
        await loop.run_in_executor(None, samples.write, rows)
    cpu, took = _cpu() - before, time.monotonic() - began
    transport.close()
    return cpu / count * 1000, count / took


def _row(probe: Probe, reply: Reply, number: int) -> samples.Row:
    verdict = classify(probe, reply)
    slot = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return samples.Row(
        slot, 1, 1, 0, reply.at, 1, 1, verdict.outcome.value, reply.status, reply.dns_ms, reply.connect_ms,
        reply.tls_ms, reply.first_byte_ms, reply.total_ms, reply.certificate_expires_at, reply.certificate_issuer,
        reply.protocol, reply.remote_address,
        verdict.reason, False,
    )  # fmt: skip


def _bare(port: int, ca_file: str, count: int) -> float:
    """libcurl alone, as plainly as it goes: no phases, no guard, no record."""
    multi, idle, left, running = pycurl.CurlMulti(), [_easy(port, ca_file) for _ in range(IN_FLIGHT)], count, 0
    began = time.monotonic()
    while left or running:
        while left and idle:
            multi.add_handle(idle.pop())
            left, running = left - 1, running + 1
        multi.perform()
        _, done, failed = multi.info_read()
        if failed:
            raise SystemExit(f"the bare loop failed: {failed[0][2]}")
        for handle in done:
            multi.remove_handle(handle)
            idle.append(handle)
            running -= 1
        multi.select(0.1)
    return count / (time.monotonic() - began)


def _easy(port: int, ca_file: str) -> pycurl.Curl:
    easy = pycurl.Curl()
    easy.setopt(pycurl.URL, "https://www.shop.test/")
    easy.setopt(pycurl.CONNECT_TO, [f"www.shop.test:443:127.0.0.1:{port}"])
    easy.setopt(pycurl.CAINFO, ca_file)
    easy.setopt(pycurl.FRESH_CONNECT, 1)
    easy.setopt(pycurl.FORBID_REUSE, 1)
    easy.setopt(pycurl.SSL_SESSIONID_CACHE, 0)
    easy.setopt(pycurl.WRITEFUNCTION, lambda chunk: len(chunk))
    return easy


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
