"""Real servers for tests: PowerDNS (authoritative, not ours), and a DNS server that misbehaves by script.

Import `powerdns_fixture` and `scripted_fixture`; tests ask for `powerdns` and `scripted`. Each stops what it started.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dnslib
import httpx
import pytest
from dnslib.server import DNSHandler, DNSLogger, DNSServer

from tranche_site.floor.embedded import Server

API_KEY = "test-api-key"


# Below those that the system hands out by itself, or a connection of anybody's could take one before its server binds it; and
# every worker has some of its own.
_FIRST, _EACH, _WORKERS = 11_000, 2_500, 8
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0) % _WORKERS
_ports = itertools.cycle(range(_FIRST + _worker * _EACH, _FIRST + (_worker + 1) * _EACH))
for _ in range(os.getpid() % _EACH):  # another run beside this one begins elsewhere
    next(_ports)


def free_port() -> int:
    """A port that is free for UDP and for TCP on loopback, and that nobody is handed again soon."""
    for port in _ports:
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            try:
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("an endless cycle ended")


class PowerDns(Server):
    """PowerDNS as Debian ships it, unprivileged, in a directory of its own. Records are written through its API."""

    name = "PowerDNS"

    def __init__(self, home: Path, extra: str = "", database: Path | None = None) -> None:
        """`extra` are more lines of its configuration, which win. With another node's `database` it serves what that does."""
        super().__init__(home / "pdns.log")
        self.home = home
        self.extra = extra
        self.database = database or home / "pdns.sqlite3"
        self.is_first = database is None
        self.address = ("127.0.0.1", free_port())
        self.text = f"127.0.0.1:{self.address[1]}"
        """As AUTHORITY_OVERRIDES and DNS_RESOLVERS want it."""
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self._api = httpx.Client(
            base_url=f"{self.api_url}/api/v1/servers/localhost",
            headers={"X-API-Key": API_KEY},
            trust_env=False,
        )

    def start(self) -> None:
        if self.is_first:
            subprocess.run(["sqlite3", self.database], input=_schema().read_bytes(), check=True)
        (self.home / "pdns.conf").write_text(self._configuration())
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            for path in (self.home, *self.home.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._spawn([_binary(), f"--config-dir={self.home}"], signal.SIGTERM, cwd="/", **user)
        self._await(self._answers)

    def stop(self) -> None:
        self._api.close()
        super().stop()

    def zone(self, name: str, nameservers: tuple[str, ...] = ("ns1.test",)) -> None:
        """Make the zone anew, with nothing in it but SOA and NS."""
        self._api.delete(f"/zones/{name}.")
        body = {"name": f"{name}.", "kind": "Native", "nameservers": [f"{server}." for server in nameservers]}
        self._api.post("/zones", json=body | {"soa_edit_api": "DEFAULT"}).raise_for_status()

    def put(self, zone: str, name: str, qtype: str, *values: str, ttl_seconds: int = 30) -> None:
        """Replace the record set, in the syntax of zone files; without values, remove it."""
        records = [{"content": value, "disabled": False} for value in values]
        change = {"name": f"{name}.", "type": qtype, "ttl": ttl_seconds, "records": records}
        change["changetype"] = "REPLACE" if values else "DELETE"
        self._api.patch(f"/zones/{zone}.", json={"rrsets": [change]}).raise_for_status()

    def _configuration(self) -> str:
        return f"""launch=gsqlite3
gsqlite3-database={self.database}
gsqlite3-pragma-synchronous=0
local-address=127.0.0.1
local-port={self.address[1]}
socket-dir={self.home}
daemon=no
guardian=no
disable-syslog=yes
write-pid=no
loglevel=4
security-poll-suffix=
api=yes
api-key={API_KEY}
webserver=yes
webserver-address=127.0.0.1
webserver-port={self._api.base_url.port}
webserver-allow-from=127.0.0.1,::1
enable-lua-records=yes
{self.extra}
"""

    def _answers(self) -> bool:
        try:
            self._api.get("/config").raise_for_status()
            dnslib.DNSRecord.question("ready.test").send(*self.address, timeout=1)
        except (httpx.TransportError, OSError):
            return False
        return True


def _schema() -> Path:
    listed = subprocess.run(["dpkg", "-L", "pdns-backend-sqlite3"], capture_output=True, text=True, check=True).stdout
    return next(Path(line) for line in listed.splitlines() if line.endswith("schema/schema.sqlite3.sql"))


def _binary() -> str:
    return shutil.which("pdns_server", path=f"{os.environ['PATH']}:/usr/sbin") or "pdns_server"


@pytest.fixture(scope="session", name="powerdns")
def powerdns_fixture() -> Iterator[PowerDns]:
    home = Path(tempfile.mkdtemp(prefix="tranche-pdns-"))
    # A question that is asked while a write empties the caches can put the old answer back into them, for 20 s.
    server = PowerDns(home, "cache-ttl=0\nquery-cache-ttl=0")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home)


Script = Callable[[Any, str], Any]
"""From a parsed query and "udp" or "tcp" to the reply: a dnslib message, raw bytes, or None for silence."""


class ScriptedDns:
    """A DNS server, UDP and TCP on one port, that answers whatever the test's `script` says."""

    def __init__(self) -> None:
        self.address = ("127.0.0.1", free_port())
        self.text = f"127.0.0.1:{self.address[1]}"
        self.script: Script = lambda query, protocol: query.reply()
        self.seen: list[tuple[str, int, int]] = []
        """Protocol, client's port and message id of each query."""
        logger = DNSLogger(logf=lambda text: None)
        self._servers = [
            DNSServer(self, *self.address, tcp=tcp, logger=logger, handler=_ScriptedHandler).server
            for tcp in (False, True)
        ]
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in self._servers]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


class _ScriptedHandler(DNSHandler):
    def get_reply(self, data: bytes) -> bytes:
        dns: ScriptedDns = self.server.resolver
        query = dnslib.DNSRecord.parse(data)
        dns.seen.append((self.protocol, self.client_address[1], query.header.id))
        reply = dns.script(query, self.protocol)
        if reply is None:
            raise dnslib.DNSError("silence, as scripted")  # the handler logs it and sends nothing
        return bytes(reply if isinstance(reply, bytes | bytearray) else reply.pack())


@pytest.fixture(name="scripted")
def scripted_fixture() -> Iterator[ScriptedDns]:
    server = ScriptedDns()
    server.start()
    yield server
    server.stop()
