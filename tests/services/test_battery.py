"""Every kind of hostile target over both families: its class, its reason, and what blackbox_exporter says of the same."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from services.outcomes import Outcome
from services.probe import BODY_LIMIT_BYTES, Probe, Reply, Verdict, classify
from services.transport import Transport
from tests import hostile
from tests.hostile import ADDRESSES, KINDS
from tests.servers import free_port

BLACKBOX = "prometheus-blackbox-exporter"
TIMEOUT_SECONDS = 3.0
IN_FLIGHT = 40

Case = tuple[str, str]
"""A kind, and the loopback address that it was probed at."""

EXPECTED = {name: kind.expected for name, kind in KINDS.items()} | {
    "no_such_name": Outcome.DNS,
    "no_certificate_store": Outcome.UNKNOWN,
}
CASES = [(name, address) for name in EXPECTED for address in ADDRESSES]

DIFFERENCES = {
    "endless_body": "we stop at 64 KiB and judge what we have; it reads until its deadline and fails",
    "endless_chunks": "we stop at 64 KiB and judge what we have; it reads until its deadline and fails",
    "huge_header": "libcurl takes no header line over 100 KB and no browser one of 400 KB; Go takes 10 MB of headers",
    "nul_in_header": "RFC 9110, 5.5 calls a NUL in a field invalid and dangerous; Go before 1.20 passes it on",
    "cut_in_body": "RFC 9112, 9.8: without a length, only TLS's notice makes a body whole; Go takes the cut for the end",
    "late_marker": "the marker must stand in the first 64 KiB; it reads the whole body",
}
"""Kinds that are ok for one of the two, and why. What is not here is ok for both or for neither."""


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, Probe]]:
    directory = tmp_path_factory.mktemp("hostile")
    trusted = str(directory / hostile.TRUSTED)
    with hostile.running(directory) as ports:
        yield {case: _probe(*case, ports, trusted) for case in CASES}


def _probe(name: str, address: str, ports: hostile.Ports, trusted: str) -> Probe:
    kind = name if name in KINDS else "good"
    probe = Probe(
        hostile.HOST, address, ports[address][kind][0], body_marker=KINDS[kind].marker, timeout_seconds=TIMEOUT_SECONDS,
        allow_private=True, ca_file=trusted,
    )  # fmt: skip
    if name == "no_such_name":
        return replace(probe, address="no..name.test")  # no name at all, so that nobody is asked for it
    return replace(probe, ca_file=f"{trusted}.missing") if name == "no_certificate_store" else probe


@pytest.fixture(scope="module")
def seen(probes: dict[Case, Probe]) -> dict[Case, tuple[Reply, Verdict]]:
    async def run() -> list[Reply]:
        transport = Transport(IN_FLIGHT)
        try:
            return await asyncio.gather(*map(transport.send, probes.values()))
        finally:
            transport.close()

    replies = zip(probes.items(), asyncio.run(run()), strict=True)
    return {case: (reply, classify(probe, reply)) for (case, probe), reply in replies}


@pytest.fixture(scope="module")
def succeeded(probes: dict[Case, Probe], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Case, bool]]:
    """Whether blackbox_exporter's probe succeeded, each under a module of its own."""
    if not shutil.which(BLACKBOX):
        pytest.fail(f"this test compares with blackbox_exporter: apt-get install {BLACKBOX}")
    config = tmp_path_factory.mktemp("blackbox") / "blackbox.yml"
    modules = {"-".join(case): _module(probe) for case, probe in probes.items()}
    config.write_text(json.dumps({"modules": modules}))  # which is YAML too
    listen = f"127.0.0.1:{free_port()}"
    command = [BLACKBOX, f"--config.file={config}", f"--web.listen-address={listen}", "--log.level=error"]
    with subprocess.Popen(command) as process, httpx.Client(base_url=f"http://{listen}", timeout=30) as client:
        try:
            _await_ready(client)

            def succeeds(case: Case) -> bool:
                parameters = {"module": "-".join(case), "target": _url(probes[case])}
                told = client.get("/probe", params=parameters).raise_for_status().text
                return "\nprobe_success 1\n" in told

            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                yield dict(zip(probes, pool.map(succeeds, probes), strict=True))
        finally:
            process.terminate()


def _module(probe: Probe) -> dict[str, Any]:
    http: dict[str, Any] = {
        "preferred_ip_protocol": "ip6" if ":" in probe.address else "ip4",
        "ip_protocol_fallback": False,
        "follow_redirects": False,
        "valid_status_codes": sorted(probe.expected),
        "headers": {"Host": probe.host},
        "tls_config": {"ca_file": probe.ca_file, "server_name": probe.host},
    }
    if probe.body_marker:
        http["fail_if_body_not_matches_regexp"] = [re.escape(probe.body_marker.decode())]
    return {"prober": "http", "timeout": f"{probe.timeout_seconds:g}s", "http": http}


def _url(probe: Probe) -> str:
    literal = f"[{probe.address}]" if ":" in probe.address else probe.address
    return f"https://{literal}:{probe.port}{probe.path}"


def _await_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            client.get("/-/healthy").raise_for_status()
            return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize(("name", "address"), CASES)
def test_a_kind_has_its_class_and_a_reason(name: str, address: str, seen: dict[Case, tuple[Reply, Verdict]]) -> None:
    _, verdict = seen[name, address]
    assert verdict.outcome is EXPECTED[name], verdict.reason
    if verdict.outcome is Outcome.OK:
        assert verdict.reason == ""
    else:
        assert verdict.reason and verdict.reason.isprintable()
        assert "libcurl error" not in verdict.reason, "a number is no reason"


@pytest.mark.parametrize(("name", "address"), CASES)
def test_no_kind_takes_more_than_its_share(name: str, address: str, seen: dict[Case, tuple[Reply, Verdict]]) -> None:
    reply, _ = seen[name, address]
    assert len(reply.body) <= BODY_LIMIT_BYTES
    assert (reply.total_ms or 0) < (TIMEOUT_SECONDS + 0.5) * 1000


@pytest.mark.parametrize(("name", "address"), CASES)
def test_blackbox_exporter_agrees_or_we_say_why(
    name: str, address: str, seen: dict[Case, tuple[Reply, Verdict]], succeeded: dict[Case, bool]
) -> None:
    _, verdict = seen[name, address]
    differs = (verdict.outcome is Outcome.OK) != succeeded[name, address]
    if name in DIFFERENCES:
        assert differs, "they agree by now: take the difference out of the table"
    else:
        assert not differs, f"ours is {verdict.outcome} ({verdict.reason}), blackbox_exporter says the opposite"


def test_the_battery_is_whole() -> None:
    assert len(hostile.HOSTILE) >= 25
    assert set(EXPECTED.values()) == set(Outcome)
    assert set(DIFFERENCES) <= set(EXPECTED)
