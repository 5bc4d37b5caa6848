"""An authoritative DNS server over UDP and TCP, which answers by hand: a few microseconds for each question."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from random import Random
from typing import Any

from tests.route53_fake.serving import CNAME, NS, SOA, IsHealthy, Member, Served
from tests.route53_fake.sockets import StoppableServer

_HEADER = 12
_QUERY_OPCODE = 0
_OPT = b"\x00\x00\x29"
_OUR_OPT = _OPT + struct.pack("!HIH", 4096, 0, 0)
_SHORTEST_LIMIT, _LONGEST_UDP, _LONGEST_TCP = 512, 4096, 65_535
_RESPONSE, _AUTHORITATIVE, _TRUNCATED = 0x80, 0x04, 0x02
_NOERROR, _FORMERR, _NXDOMAIN, _NOTIMP, _REFUSED = 0, 1, 3, 4, 5
_ANY = 255
_NEGATIVE_TTL = struct.Struct("!I")


class Nameserver:
    """Serves the zones in `origins`, by their names in wire form. What isn't below any of them is refused."""

    def __init__(self, is_healthy: IsHealthy, refresh: Callable[[], None]) -> None:
        self.origins: dict[bytes, Served] = {}
        self.random = Random()
        """Who wants the same picks again seeds it."""
        self.questions = 0
        self._is_healthy = is_healthy
        self._refresh = refresh
        """Called before each answer: brings in the changes that are due."""
        self._udp, self._tcp = _pair(self)
        self._stopping = False
        self._thread = threading.Thread(target=self._serve_udp, name="Nameserver")

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self._tcp.port)

    def start(self) -> None:
        self._tcp.start()
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        if self._thread.is_alive():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
                waker.sendto(b"", self.address)
            self._thread.join()
        self._udp.close()
        self._tcp.stop()

    def find(self, name: bytes) -> Served | None:
        """The zone that a name is in: the one with the longest name."""
        origins, start, end = self.origins, 0, len(name)
        while start < end:
            found = origins.get(name[start:] if start else name)
            if found is not None:
                return found
            start += name[start] + 1
        return None

    def answer(self, data: bytes, *, over_tcp: bool = False) -> bytes:
        """The reply to a message, b"" if it deserves none."""
        if len(data) < _HEADER or data[2] & _RESPONSE:
            return b""
        self._refresh()
        self.questions += 1
        end = data.find(b"\0", _HEADER) + 1
        if data[4:6] != b"\0\1" or end == 0 or len(data) < end + 4 or not _is_name(data, end):
            return _empty(data, _FORMERR)
        if data[2] >> 3 & 15 != _QUERY_OPCODE:
            return _empty(data, _NOTIMP)
        question = data[_HEADER : end + 4]
        key = data[_HEADER:end].lower()
        qtype = data[end] << 8 | data[end + 1]
        served = self.find(key)
        if served is None or data[end + 2 : end + 4] != b"\0\1":
            return _empty(data, _REFUSED, question)
        if qtype == _ANY:
            return _empty(data, _NOTIMP, question)
        if not served.cuts and data[10:12] == b"\0\0":
            groups = served.groups(key)
            group = groups and (groups.get(qtype) or groups.get(CNAME))
            if group and not group.leads_on:
                member = group.pick(self.random, self._is_healthy)
                length = _HEADER + len(question) + len(member.payload)
                if member.tails and length <= _SHORTEST_LIMIT:
                    flags = _RESPONSE | _AUTHORITATIVE | (data[2] & 1)
                    head = data[:2] + bytes((flags, 0, 0, 1, 0, len(member.tails), 0, 0, 0, 0))
                    return head + question + member.payload
        return self._in_full(data, question, key, qtype, served, _LONGEST_TCP if over_tcp else 0)

    def _in_full(self, data: bytes, question: bytes, key: bytes, qtype: int, served: Served, limit: int) -> bytes:
        """For everything that isn't a plain answer: chains, referrals, no such name, EDNS, and what doesn't fit."""
        opt = data.find(_OPT, _HEADER + len(question)) if data[10:12] != b"\0\0" else -1
        if not limit:
            wanted = int.from_bytes(data[opt + 3 : opt + 5], "big") if opt >= 0 else _SHORTEST_LIMIT
            limit = min(max(wanted, _SHORTEST_LIMIT), _LONGEST_UDP)
        extra = _OUR_OPT if opt >= 0 else b""
        if cut := served.cut_above(key):
            group = (served.groups(cut) or {})[NS]
            authority = _owned(cut, group.members[0].tails)
            return _message(data, 0, _NOERROR, question, [], authority, extra, limit)
        found = served.records_at(key, qtype, self.random, self._is_healthy)
        answers = [record for owner, member in found for record in _owned(owner, member.tails)]
        if answers:
            return _message(data, _AUTHORITATIVE, _NOERROR, question, answers, [], extra, limit)
        known = served.exists(key) or served.wildcard(key)
        authority = _soa(served)
        rcode = _NOERROR if known else _NXDOMAIN
        return _message(data, _AUTHORITATIVE, rcode, question, [], authority, extra, limit)

    def pick(self, key: bytes, qtype: int) -> tuple[bool, list[Member]]:
        """Whether a name exists, and what an answer would say, for TestDNSAnswer."""
        served = self.find(key)
        if served is None:
            return False, []
        found = served.records_at(key, qtype, self.random, self._is_healthy)
        return bool(served.exists(key) or served.wildcard(key)), [member for _, member in found]

    def _serve_udp(self) -> None:
        receive, send, answer = self._udp.recvfrom, self._udp.sendto, self.answer
        while True:
            data, peer = receive(_LONGEST_UDP)
            if self._stopping:
                return
            reply = answer(data)
            if reply:
                with contextlib.suppress(OSError):  # who asked may be gone
                    send(reply, peer)


class _TcpServer(StoppableServer):
    nameserver: Nameserver


class _TcpHandler(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        server: Any = self.server
        while length := self.rfile.read(2):
            data = self.rfile.read(int.from_bytes(length, "big"))
            reply = server.nameserver.answer(data, over_tcp=True)
            if not reply:
                return
            self.wfile.write(len(reply).to_bytes(2, "big") + reply)


def _pair(nameserver: Nameserver) -> tuple[socket.socket, _TcpServer]:
    """Sockets for UDP and TCP on one port that was free for both."""
    while True:
        tcp = _TcpServer(0, _TcpHandler)
        tcp.nameserver = nameserver
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        try:
            udp.bind(("127.0.0.1", tcp.port))
        except OSError:
            udp.close()
            tcp.server_close()
            continue
        return udp, tcp


def _is_name(data: bytes, end: int) -> bool:
    """Whether the labels end where the zero byte is, and none of them is a pointer."""
    at = _HEADER
    while at < end - 1:
        if data[at] > 63:
            return False
        at += data[at] + 1
    return at == end - 1


def _empty(data: bytes, rcode: int, question: bytes = b"") -> bytes:
    flags = bytes((_RESPONSE | (data[2] & 0x79), rcode, 0, 1 if question else 0))
    return data[:2] + flags + b"\0\0\0\0\0\0" + question


def _owned(owner: bytes, tails: tuple[bytes, ...]) -> list[bytes]:
    return [owner + tail for tail in tails]


def _soa(served: Served) -> list[bytes]:
    """For the authority section. Caches keep a negative answer for the SOA's TTL or its minimum, whichever is less."""
    (tail,) = (served.groups(served.origin) or {})[SOA].members[0].tails
    ttl, minimum = _NEGATIVE_TTL.unpack(tail[4:8])[0], _NEGATIVE_TTL.unpack(tail[-4:])[0]
    return [served.origin + tail[:4] + _NEGATIVE_TTL.pack(min(ttl, minimum)) + tail[8:]]


def _message(
    data: bytes, authoritative: int, rcode: int, question: bytes, answers: list[bytes], authority: list[bytes],
    extra: bytes, limit: int,
) -> bytes:  # fmt: skip
    flags = _RESPONSE | authoritative | (data[2] & 1)
    counts = struct.pack("!HHHH", 1, len(answers), len(authority), 1 if extra else 0)
    whole = b"".join([data[:2], bytes((flags, rcode)), counts, question, *answers, *authority, extra])
    if len(whole) <= limit:
        return whole
    counts = struct.pack("!HHHH", 1, 0, 0, 1 if extra else 0)
    return data[:2] + bytes((flags | _TRUNCATED, rcode)) + counts + question + extra
