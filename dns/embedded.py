"""The embedded authoritative server: weights served per query, over UDP and TCP, from the records in Postgres.

It loads all its records when told that they changed, and goes on answering with what it last read when Postgres is away.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg
from django.db import connection
from dnslib import AAAA, CNAME, NS, QTYPE, RCODE, RR, SOA, TXT, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

from dns.models import EmbeddedRecord
from dns.providers.contract import is_below

logger = logging.getLogger(__name__)

CHANNEL = "embedded_records"
RELOAD_SECONDS = 5.0
WAKE_SECONDS = 0.5
"""How long a stop may have to wait for the loader."""
_HOPS = 8


@dataclass(frozen=True, slots=True)
class Record:
    zone: str
    name: str
    type: str
    value: str
    ttl_seconds: int
    weight: int | None


class Zones:
    """An immutable picture of all records; answering needs no lock."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._sets: dict[tuple[str, str], list[Record]] = defaultdict(list)
        self._names: set[str] = set()
        self.zones: set[str] = set()
        for record in records:
            self._sets[record.name, record.type].append(record)
            self.zones.add(record.zone)
            # A name with only names below it exists, without data of its own.
            labels = record.name.split(".")
            above = (".".join(labels[start:]) for start in range(len(labels)))
            self._names.update(name for name in above if is_below(name, record.zone))

    def zone_of(self, name: str) -> str | None:
        return max((zone for zone in self.zones if is_below(name, zone)), key=len, default=None)

    def exists(self, name: str) -> bool:
        return name in self._names

    def find(self, name: str, qtype: str) -> list[Record]:
        """The records to answer with: of a weighted set one, drawn by weight; else all."""
        records = self._sets.get((name, qtype), [])
        weighted = [record for record in records if record.weight is not None]
        if not weighted:
            return records
        weights = [record.weight or 0 for record in weighted]
        return random.choices(weighted, weights if any(weights) else None)  # noqa: S311


def answer(zones: Zones, request: DNSRecord) -> DNSRecord:
    """The authoritative answer to one query; REFUSED outside our zones."""
    reply = request.reply(aa=1, ra=0)
    name, qtype = str(request.q.qname).rstrip(".").lower(), QTYPE.get(request.q.qtype)
    zone = zones.zone_of(name)
    if zone is None:
        reply.header.aa, reply.header.rcode = 0, RCODE.REFUSED
        return reply
    for _ in range(_HOPS):
        if found := zones.find(name, qtype):
            reply.add_answer(*map(_rr, found))
            return reply
        alias = zones.find(name, "CNAME")
        if not alias:
            break
        reply.add_answer(*map(_rr, alias))
        name = alias[0].value.rstrip(".").lower()
        if zones.zone_of(name) is None:
            return reply
    if not zones.exists(name):
        reply.header.rcode = RCODE.NXDOMAIN
    reply.add_auth(*map(_rr, zones.find(zone, "SOA")))
    return reply


def _rr(record: Record) -> RR:
    data: Mapping[str, object] = {"A": A, "AAAA": AAAA, "CNAME": CNAME, "NS": NS}
    if record.type == "SOA":
        primary, mailbox, *times = record.value.split()
        rdata = SOA(primary, mailbox, tuple(map(int, times)))
    elif record.type == "TXT":
        encoded = record.value.encode()
        rdata = TXT([encoded[start : start + 255] for start in range(0, len(encoded), 255)] or [b""])
    else:
        rdata = data[record.type](record.value)  # type: ignore[operator]
    return RR(record.name, getattr(QTYPE, record.type), ttl=record.ttl_seconds, rdata=rdata)


class _Resolver(BaseResolver):
    def __init__(self) -> None:
        self.zones = Zones([])

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        return answer(self.zones, request)


class EmbeddedDns:
    """The server. `start` returns when it answers."""

    def __init__(self, address: str, port: int) -> None:
        self._resolver = _Resolver()
        quiet = DNSLogger("-recv,-send,-request,-reply,-truncated,-error", prefix=False)
        self._servers = [
            DNSServer(self._resolver, address=address, port=port, tcp=tcp, logger=quiet) for tcp in (False, True)
        ]
        self._stop = threading.Event()
        self._loader = threading.Thread(target=self._keep_loaded, name="dns-loader", daemon=True)

    def start(self) -> None:
        self._resolver.zones = _load()
        connection.close()
        for server in self._servers:
            server.start_thread()
        self._loader.start()

    def stop(self) -> None:
        self._stop.set()
        for server in self._servers:
            server.stop()
            server.server.server_close()
        self._loader.join(timeout=RELOAD_SECONDS + 1)

    def _keep_loaded(self) -> None:
        """Reload when Postgres says that records changed, and every few seconds in case a word was lost."""
        while not self._stop.is_set():
            try:
                self._listen()
            except psycopg.Error:
                logger.warning("the embedded DNS server lost Postgres; it serves what it has")
                connection.close()
                self._stop.wait(1)
        connection.close()

    def _listen(self) -> None:
        parameters = connection.get_connection_params()
        parameters = {key: value for key, value in parameters.items() if key not in ("cursor_factory", "context")}
        with psycopg.connect(**parameters, autocommit=True) as listener:
            listener.execute(f"LISTEN {CHANNEL}")
            while not self._stop.is_set():
                self._resolver.zones = _load()
                reload_at = time.monotonic() + RELOAD_SECONDS
                while not self._stop.is_set() and time.monotonic() < reload_at:
                    if any(True for _ in listener.notifies(timeout=WAKE_SECONDS, stop_after=1)):
                        break


def _load() -> Zones:
    rows = EmbeddedRecord.objects.values_list("zone", "name", "type", "value", "ttl_seconds", "weight")
    return Zones(Record(*row) for row in rows)
