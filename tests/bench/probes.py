"""What probing costs: our prober beside blackbox_exporter and beside a bare libcurl loop, at the same nginx.

Every probe is a fresh TLS 1.3 handshake with the certificate verified. Ours also reads the certificate's expiry, keeps
the phases, asks the egress guard and records the sample in Postgres.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.bench import Result, nginx
from tests.servers import free_port
from tranche_site.demo import certificates
from tranche_site.floor.embedded import Postgres

HOST = "www.shop.test"
PROBES = 3000
PEER_PROBES = 1500
BLACKBOX = "prometheus-blackbox-exporter"

_MODULE = """
modules:
  https:
    prober: http
    timeout: 5s
    http:
      preferred_ip_protocol: ip4
      headers: {{Host: {host}}}
      tls_config: {{ca_file: {ca}, server_name: {host}}}
"""


def probe_cpu_ms() -> Result:
    """CPU of the client process per recorded probe."""
    ours, peer = _measure()
    name = BLACKBOX if peer is not None else f"{BLACKBOX} is not installed"
    return Result("probe_cpu_ms", round(ours["cpu_ms"], 3), "ms", name, peer)


def probe_rate() -> Result:
    """Recorded probes a second, with nginx and Postgres on the same cores."""
    ours, _ = _measure()
    return Result("probe_rate", round(ours["rate"]), "1/s", "bare libcurl loop", round(ours["bare_rate"]))


@cache
def _measure() -> tuple[dict[str, float], float | None]:
    directory = Path(tempfile.mkdtemp(prefix="tranche-bench-"))
    directory.chmod(0o755)
    try:
        certificates.make(directory, [HOST])
        with nginx.serving(directory) as port:
            ours = _client(directory, port)
            return ours, _blackbox(directory, port)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _client(directory: Path, port: int) -> dict[str, float]:
    home = directory / "home"
    postgres = Postgres(home)
    environment = {
        **os.environ, "TRANCHE_HOME": str(home), "PROBE_ALLOW_PRIVATE": "1", "SECRET_KEY": "bench",
        "DJANGO_SETTINGS_MODULE": "tranche_site.settings",
    }  # fmt: skip
    postgres.start()
    try:
        run = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(run, env=environment, check=True)
        command = [sys.executable, "-m", "tests.bench.probe_client", str(port), str(directory / "ca.pem"), str(PROBES)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return told
    finally:
        postgres.stop()


def _blackbox(directory: Path, port: int) -> float | None:
    """CPU milliseconds per probe, or None where it isn't installed."""
    if not shutil.which(BLACKBOX):
        return None
    config, listen = directory / "blackbox.yml", free_port()
    config.write_text(_MODULE.format(host=HOST, ca=directory / "ca.pem"))
    url = f"http://127.0.0.1:{listen}/probe?module=https&target=https://127.0.0.1:{port}/"
    command = [BLACKBOX, f"--config.file={config}", f"--web.listen-address=127.0.0.1:{listen}", "--log.level=error"]
    with _running(command, directory / "blackbox.log") as process, ThreadPoolExecutor(10) as pool:
        _await(f"http://127.0.0.1:{listen}/-/healthy")
        if "probe_success 1" not in _get(url):
            raise SystemExit("blackbox_exporter's probe does not succeed, so there is nothing to compare")
        list(pool.map(lambda _: _get(url), range(100)))
        before = _cpu_seconds(process.pid)
        list(pool.map(lambda _: _get(url), range(PEER_PROBES)))
        return round((_cpu_seconds(process.pid) - before) / PEER_PROBES * 1000, 3)


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def _await(url: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            _get(url)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
