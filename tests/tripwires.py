"""A network of its own, full of addresses that nobody may be led to, with somebody listening on all of them.

`python -m tests.tripwires PART SEED`, within fresh network and mount namespaces (`test_tripwires.py` starts it there), does
one part and prints what came of it as one line of JSON. What counts is who was reached, not what was raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import random
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import django

django.setup()

import botocore.session  # noqa: E402
import dnslib  # noqa: E402
from django.conf import settings  # noqa: E402
from django.test import override_settings  # noqa: E402

from billing.sources import Bucket, SourceUnavailable  # noqa: E402
from services import lookup  # noqa: E402
from services.probe import Family, Fault, Probe, Reply  # noqa: E402
from services.transport import Transport  # noqa: E402
from tests.services import tls  # noqa: E402
from tranche_site.demo import certificates  # noqa: E402

FORBIDDEN = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.254", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.0.0.53",
    "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.254", "192.0.0.170", "192.0.2.1", "192.31.196.1",
    "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.168.255.254", "192.175.48.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "240.0.0.1",
    "::", "::1", "::2", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "100::1", "2001::1",
    "2001:2::1", "2001:db8::1", "2002:a9fe:a9fe::1", "2620:4f:8000::1", "3fff::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::a9fe:a9fe", "fec0::1", "4000::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "2001:4860:4860::8888"]
"""Allowed, and here as well, so that what is allowed can be seen to arrive."""
OWN = ["9.9.9.9", "::ffff:9.9.9.9", "64:ff9b::909:909", "2002:909:909::1", "2620:fe::fe"]
"""Public addresses in which this machine may be reached."""

NAME_SERVER = "127.0.0.9"
"""May be asked by all: it is the system's resolver, Tranche's, and the authority for rebind.test."""
SITE_PORT = 8443
SEQUENCES, PROBES_EACH, REDIRECTS = 200, 4, 100


class Case(NamedTuple):
    text: str
    """What somebody typed."""
    literal: str
    """The address that it stands for."""


def spellings(address: str) -> list[Case]:
    parsed = ipaddress.ip_address(address)
    return _spellings_v4(parsed) if isinstance(parsed, ipaddress.IPv4Address) else _spellings_v6(parsed)


def _spellings_v4(address: ipaddress.IPv4Address) -> list[Case]:
    dotted, number = str(address), int(address)
    digits = f"{number:08x}"
    pair = f"{digits[:4]}:{digits[4:]}"
    plain = [
        dotted,
        ".".join(f"0x{byte:x}" for byte in address.packed),
        str(number),
        ".".join(f"0{byte:o}" for byte in address.packed),
        f"{number >> 24}.{number & 0xFFFFFF}",
        dotted.translate({ord("0") + n: ord("０") + n for n in range(10)}),
        f"{dotted}.",
    ]
    within_v6 = [f"::ffff:{dotted}", f"[::FFFF:{pair.upper()}]", f"::{dotted}", f"64:ff9b::{dotted}", f"2002:{pair}::1"]
    return [Case(text, dotted) for text in plain] + [Case(text, text.strip("[]")) for text in within_v6]


def _spellings_v6(address: ipaddress.IPv6Address) -> list[Case]:
    short, long = str(address), address.exploded
    dotted = f"{long[:30]}{ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)}"
    texts = [
        short, long, long.upper(), f"[{short}]", f"[{long.upper()}]", dotted, f"[{dotted.upper()}]",
        f"{short}%lo", f"{short}%1", f"[{short}%lo]", f"{long}%1",
    ]  # fmt: skip
    return [Case(text, short) for text in texts]


# --- the network --------------------------------------------------------------------------------------------------


def lay_out(addresses: list[str], *, any_can_be_bound: bool) -> None:
    """Give this machine the addresses, and its C library our name server.

    Where any address can be bound, the guard can't tell what is ours, so that its table has to hold alone.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    lines = [f"addr add {a}/{'128 dev lo nodad' if ':' in a else '32 dev lo'}" for a in addresses]
    # Some are there already, and some can't be had, such as 0.0.0.0, which leads to 127.0.0.1 nonetheless.
    subprocess.run(["ip", "-force", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True)
    for version in (4, 6):
        Path(f"/proc/sys/net/ipv{version}/ip_nonlocal_bind").write_text(str(int(any_can_be_bound)))
    for path, text in (
        ("/etc/resolv.conf", f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n"),
        ("/etc/nsswitch.conf", "hosts: files dns\n"),
    ):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            Path(file.name).chmod(0o644)
            subprocess.run(["mount", "--bind", file.name, path], check=True)


class Tripwires(threading.Thread):
    """Listens on every address of this machine, at 80, 443 and 53, and counts by address who was reached."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._reached: Counter[str] = Counter()
        self._ready = selectors.DefaultSelector()
        for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for port in (80, 443, 53):
                listener = socket.create_server((everywhere, port), family=family, backlog=4096)
                self._ready.register(listener, selectors.EVENT_READ, self._accept)
            datagrams = _datagram_socket(family, everywhere)
            self._ready.register(datagrams, selectors.EVENT_READ, self._receive)
        self.start()

    def take(self) -> Counter[str]:
        """Who was reached since the last time, "udp" for datagrams."""
        threading.Event().wait(0.3)
        reached, self._reached = self._reached, Counter()
        return reached

    def run(self) -> None:
        while True:
            for key, _ in self._ready.select():
                key.data(key.fileobj)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._reached[connection.getsockname()[0]] += 1
        self._ready.register(connection, selectors.EVENT_READ, self._refuse)

    def _refuse(self, connection: socket.socket) -> None:
        """With an answer that ends the matter: one that is merely cut off would be tried again."""
        self._ready.unregister(connection)
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def _receive(self, datagrams: socket.socket) -> None:
        data, client = datagrams.recvfrom(65536)
        self._reached["udp"] += 1
        with contextlib.suppress(OSError):  # “cut: ask again over TCP”
            datagrams.sendto(data[:2] + bytes([data[2] | 0x82]) + data[3:], client)


class Names(threading.Thread):
    """A name server whose answers can't be kept. `script` may answer for what is below rebind.test."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.records: dict[tuple[str, str], list[str]] = {}
        self.script: Callable[[str, str], list[str]] = lambda name, qtype: []
        self._socket = _datagram_socket(socket.AF_INET, NAME_SERVER)
        self.start()

    def host(self, name: str, *addresses: str) -> str:
        for address in addresses:
            self.records[name.lower(), "AAAA" if ":" in address else "A"] = [address]
        return name

    def alias(self, name: str, target: str) -> str:
        self.records[name, "CNAME"] = [target]
        return name

    def zone(self, name: str, name_server: str) -> str:
        self.records[name, "NS"] = [name_server]
        return name

    def run(self) -> None:
        while True:
            data, client = self._socket.recvfrom(4096)
            self._socket.sendto(self._reply(dnslib.DNSRecord.parse(data)).pack(), client)

    def _reply(self, query: Any) -> Any:
        reply = query.reply()
        name, qtype = str(query.q.qname).rstrip(".").lower(), str(dnslib.QTYPE.get(query.q.qtype))
        if name.endswith(".rebind.test"):
            found = [(name, qtype, value) for value in self.script(name, qtype)]
        else:
            found = [(name, qtype, value) for value in self.records.get((name, qtype), ())]
            for target in self.records.get((name, "CNAME"), ()):
                found = [(name, "CNAME", target)]
                found += [(target, qtype, value) for value in self.records.get((target, qtype), ())]
        for owner, kind, value in found:
            # dnslib can't read IPv6 with a dotted tail.
            data = (
                dnslib.AAAA(tuple(ipaddress.ip_address(value).packed))
                if kind == "AAAA"
                else getattr(dnslib, kind)(value)
            )
            reply.add_answer(dnslib.RR(owner, getattr(dnslib.QTYPE, kind), rdata=data, ttl=0))
        return reply


def _datagram_socket(family: socket.AddressFamily, address: str) -> socket.socket:
    """At port 53, beside others: the one with the exact address gets what is meant for it."""
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    opened.bind((address, 53))
    return opened


# --- the sinks: each tries every case, and says for each why nothing was opened, or "" ------------------------------


def probe(cases: list[Case], names: Names, lifted: bool) -> list[str]:
    probes = [Probe(tls.HOST, case.text, timeout_seconds=3, allow_private=lifted) for case in cases]
    return [_guarded(reply) for reply in asyncio.run(_send(probes))]


def look_up(cases: list[Case], names: Names, lifted: bool) -> list[str]:
    """The zone belongs to whoever wants to lead us astray; where a spelling can be a name, its server bears it."""

    def one(number: int, case: Case) -> str:
        can_be_a_name = case.text.isascii() and ":" not in case.text and (case.text, "CNAME") not in names.records
        server = names.host(case.text.rstrip(".") if can_be_a_name else f"ns{number}.wire.test", case.literal)
        zone = names.zone(f"z{number}.wire.test", server)
        try:
            _, servers = lookup.authoritative_servers(zone)
        except lookup.LookupFailed as error:
            return str(error)
        lookup.ask_all([(server, zone, "TXT") for server in servers], timeout_seconds=0.1)
        return ""

    with override_settings(PROBE_ALLOW_PRIVATE=lifted):
        return [one(number, case) for number, case in enumerate(cases)]


def fetch(cases: list[Case], names: Names, lifted: bool) -> list[str]:
    opening = threading.Lock()

    def one(number: int, case: Case) -> str:
        host = f"[{case.text}]" if ":" in case.text and not case.text.startswith("[") else case.text
        try:
            with opening:
                # Capitals in the bucket's name keep it out of the hostname.
                bucket = Bucket("Logs", "", f"{'https' if number % 2 and not lifted else 'http'}://{host}")
            list(bucket.objects())
        except SourceUnavailable as error:
            return str(error)
        return ""

    with override_settings(LOGS_ALLOW_PRIVATE=lifted), ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, range(len(cases)), cases))


SINKS = {"probe": probe, "look_up": look_up, "fetch": fetch}


async def _send(probes: list[Probe]) -> list[Reply]:
    transport = Transport(50)
    try:
        return await asyncio.gather(*map(transport.send, probes))
    finally:
        transport.close()


def _guarded(reply: Reply) -> str:
    return "" if reply.fault in (None, Fault.CONNECT, Fault.TLS, Fault.TIMEOUT) else reply.fault_text


# --- the parts ------------------------------------------------------------------------------------------------------


def literals(tripwires: Tripwires, names: Names, seed: int) -> dict[str, Any]:
    """Every address in every spelling, typed in everywhere."""
    cases = []
    for number, address in enumerate(FORBIDDEN):
        name = names.host(f"host{number}.wire.test", address)
        alias = names.alias(f"alias{number}.wire.test", name)
        cases += [*spellings(address), *(Case(text, address) for text in (name, alias, f"{name.upper()}."))]
    return _tried(cases, tripwires, names)


def own(tripwires: Tripwires, names: Names, seed: int) -> dict[str, Any]:
    """Public addresses, but ours. Here the guard can tell."""
    cases = [Case(text, a) for n, a in enumerate(OWN) for text in (a, names.host(f"own{n}.wire.test", a))]
    return _tried(cases, tripwires, names)


def _tried(cases: list[Case], tripwires: Tripwires, names: Names) -> dict[str, Any]:
    report: dict[str, Any] = {}
    some = cases[::3]
    for sink, attempt in SINKS.items():
        reasons = attempt(cases, names, False)
        reached = tripwires.take()
        attempt(some, names, True)
        report[sink] = {
            "cases": len(cases),
            "refused": sum(map(bool, reasons)),
            "let through": [case for case, reason in zip(cases, reasons, strict=True) if not reason],
            "reasons": dict(Counter(map(_kind, reasons))),
            "accepts": dict(reached),
            "cases without the guard": len(some),
            "accepts without the guard": tripwires.take().total(),
        }
    return report


def _kind(reason: str) -> str:
    kinds = ("not the public internet", "2000::/3", "this machine")
    return next((kind for kind in kinds if kind in reason), "other")


def rebinding(tripwires: Tripwires, names: Names, seed: int) -> dict[str, Any]:
    """Names whose answers change between one question and the next, and which mix what is public with what isn't."""
    chances = {f"s{n}.rebind.test": random.Random(f"{seed}-{n}") for n in range(SEQUENCES)}
    turns: Counter[tuple[str, str]] = Counter()
    told: defaultdict[str, list[str]] = defaultdict(list)

    def script(name: str, qtype: str) -> list[str]:
        chance = chances[name]
        public, forbidden = ([a for a in some if (":" in a) == (qtype == "AAAA")] for some in (PUBLIC, FORBIDDEN))
        turns[name, qtype] += 1
        if int(name[1 : name.index(".")]) % 2:  # half of them alternate, half do as they like
            kind = ("public", "forbidden")[turns[name, qtype] % 2]
        else:
            kind = chance.choice(["public", "forbidden", "both"])
        answers = chance.sample(public, chance.randint(1, 2)) if kind != "forbidden" else []
        answers += chance.sample(forbidden, chance.randint(1, 3)) if kind != "public" else []
        chance.shuffle(answers)
        told[name] += answers
        return answers

    async def sequence(name: str, transport: Transport) -> list[tuple[bool, bool, str]]:
        """For each probe: whether a forbidden address was told, whether a public one, and why nothing was opened."""
        outcomes = []
        for _ in range(PROBES_EACH):
            told[name].clear()
            family = chances[name].choice(list(Family))
            reason = _guarded(await transport.send(Probe(tls.HOST, name, family=family, timeout_seconds=5)))
            answers = set(told[name])
            outcomes.append((bool(answers - set(PUBLIC)), bool(answers & set(PUBLIC)), reason))
        return outcomes

    async def run() -> list[list[tuple[bool, bool, str]]]:
        transport = Transport(20)
        try:
            return await asyncio.gather(*(sequence(name, transport) for name in chances))
        finally:
            transport.close()

    names.script = script
    with override_settings(AUTHORITY_OVERRIDES={"rebind.test": f"{NAME_SERVER}:53"}):
        outcomes = list(chain.from_iterable(asyncio.run(run())))
    reached = tripwires.take()
    return {
        "sequences": len(chances),
        "probes": len(outcomes),
        "mixed": sum(forbidden and public for forbidden, public, _ in outcomes),
        "forbidden": sum(forbidden for forbidden, _, _ in outcomes),
        "forbidden and refused": sum(forbidden and bool(reason) for forbidden, _, reason in outcomes),
        "public": sum(not forbidden for forbidden, _, _ in outcomes),
        "public and refused": [reason for forbidden, _, reason in outcomes if not forbidden and reason],
        "accepts": {address: count for address, count in reached.items() if address not in PUBLIC},
        "public accepts": sum(reached[address] for address in PUBLIC),
    }


def redirects(tripwires: Tripwires, names: Names, seed: int) -> dict[str, Any]:
    """A server that may be probed and sends us on to where we may not go, at once or after some hops of its own."""
    chance = random.Random(seed)

    def location() -> str:
        address = chance.choice(FORBIDDEN)
        host = f"[{address}]" if ":" in address else address
        return chance.choice([f"http://{host}/", f"https://{host}/latest/meta-data/", f"//{host}/", "/next"])

    def answer(secured: Any, request: tls.Request) -> None:
        tls.respond(chance.choice([301, 302, 303, 307, 308]), b"", f"Location: {location()}")(secured, request)

    with tempfile.TemporaryDirectory() as directory, override_settings(PROBE_PORTS=[80, 443, SITE_PORT]):
        certificates.make(Path(directory), [tls.HOST])
        ca_file = str(Path(directory, "ca.pem"))
        site = tls.TlsSite(Path(directory, "good.pem"), PUBLIC[0], SITE_PORT)
        site.answer = answer
        probes = [
            Probe(tls.HOST, PUBLIC[0], SITE_PORT, path=f"/{n}", ca_file=ca_file, timeout_seconds=10)
            for n in range(REDIRECTS)
        ]
        replies = asyncio.run(_send(probes))
        site.close()
    return {
        "redirected": sum(300 < (reply.status or 0) < 400 for reply in replies),
        "requests": len(site.requests),
        "accepts": dict(tripwires.take()),
    }


PARTS = {part.__name__: part for part in (literals, own, rebinding, redirects)}


def main(part: str, seed: int) -> None:
    spelled = [case.literal for address in FORBIDDEN for case in spellings(address)]
    lay_out([*dict.fromkeys(spelled), *PUBLIC, *OWN], any_can_be_bound=part != "own")
    settings.DNS_RESOLVERS = [f"{NAME_SERVER}:53"]
    # A session of botocore's takes longer to make than all else here, so there is one.
    session = botocore.session.Session()
    botocore.session.Session = lambda: session
    print(json.dumps(PARTS[part](Tripwires(), Names(), seed)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
