"""A small internet in network namespaces, and what happens to a prober's part of it.

`python -m tests.scenarios.lan SCENARIO RUNS`, started in a namespace of its own (`test_blindness.py` does), is the world:
two CDNs, an origin, three canaries and a resolver. It starts probers in further namespaces, each behind a cable of its
own, judges storms and steers as the workers do, spoils things run by run, and prints one line of JSON about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django

django.setup()

import dnslib  # noqa: E402
from django.conf import settings  # noqa: E402
from django.utils import timezone  # noqa: E402
from dnslib.server import DNSLogger, DNSServer  # noqa: E402

from dns import outbox, steering  # noqa: E402
from dns.models import WeightChange  # noqa: E402
from services import watched  # noqa: E402
from services.models import Target, VantagePoint  # noqa: E402
from services.prober import Prober  # noqa: E402
from storms.models import Finding, PathVerdict, StormEvent  # noqa: E402
from storms.watch import watch  # noqa: E402
from tests import factories  # noqa: E402
from tranche_site.demo import certificates  # noqa: E402
from tranche_site.demo.servers import Mode, Request, Response, TlsServer  # noqa: E402

ZONE = "lan.test"
HOST = f"www.{ZONE}"
SITES = {"primary": 10, "backup": 11, "origin": 12, "canary-1": 21, "canary-2": 22, "canary-3": 23}
"""Names below the zone, and the last part of their addresses."""
RESOLVER = "10.7.0.1"
INTERVAL_SECONDS = 0.5
HOLD_SECONDS = 4.0
"""How long something stays spoiled: longer than a real outage needs to be declared, as the control at the end shows."""
LOOK_SECONDS = 0.5


def v4(last: int) -> str:
    return f"10.7.0.{last}"


def v6(last: int) -> str:
    return f"fd07::{last}"


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> float:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise SystemExit(f"not within {seconds} s: {what}; {state()}")
        time.sleep(0.05)
    return time.monotonic() - began


def state() -> str:
    """What there is to be known when things are not as they should be."""
    verdicts = PathVerdict.objects.values_list("target__role", "target__address", "verdict", "reason", "votes")
    points = VantagePoint.objects.values_list("name", "blind_reason", "last_probe_at")
    storms = StormEvent.objects.values_list("started_at", "ended_at", "closed_at", "reason")
    return f"at {timezone.now()}: {[*verdicts]}; {[*points]}; {[*storms]}"


def run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")


# --- the world --------------------------------------------------------------------------------------------------------


class World:
    """Servers on addresses of this namespace's loopback, and one resolver that can be told to lie or be silent."""

    def __init__(self, home: Path) -> None:
        self.lies = False
        self.servers: dict[str, TlsServer] = {}
        certificates.make(home, [HOST, *(f"{name}.{ZONE}" for name in SITES)])
        self._home = home

    def start(self) -> None:
        run("ip", "link", "set", "lo", "up")
        for last in (1, *SITES.values()):
            run("ip", "address", "add", f"{v4(last)}/32", "dev", "lo")
            run("ip", "address", "add", f"{v6(last)}/128", "dev", "lo", "nodad")
        DNSServer(self, address=RESOLVER, port=53, logger=DNSLogger(logf=lambda line: None)).start_thread()
        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True).start()
        started.wait(10)

    async def _serve(self, started: threading.Event) -> None:
        contexts = [certificates.server_context(self._home / f"{kind}.pem") for kind in ("good", "expired")]

        async def respond(request: Request) -> Response:
            return Response(200, b"hello")

        for last in SITES.values():
            for address in (v4(last), v6(last)):
                server = TlsServer(address, 443, *contexts, respond)
                server.start()
                self.servers[address] = server
        started.set()
        await asyncio.Event().wait()

    def set_mode(self, site: str, mode: Mode) -> None:
        for address in (v4(SITES[site]), v6(SITES[site])):
            self.servers[address].mode = mode

    def resolve(self, request: Any, handler: Any) -> Any:
        """Of dnslib's resolvers: any name of a site, for a second."""
        reply = request.reply()
        last = SITES.get(str(request.q.qname).split(".", 1)[0])
        if self.lies or last is None:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        elif request.q.qtype == dnslib.QTYPE.A:
            reply.add_answer(dnslib.RR(request.q.qname, dnslib.QTYPE.A, rdata=dnslib.A(v4(last)), ttl=1))
        elif request.q.qtype == dnslib.QTYPE.AAAA:
            reply.add_answer(dnslib.RR(request.q.qname, dnslib.QTYPE.AAAA, rdata=dnslib.AAAA(v6(last)), ttl=1))
        return reply


# --- a prober behind a cable ------------------------------------------------------------------------------------------


class Cable:
    """A prober in a namespace of its own. `number` makes its addresses."""

    def __init__(self, number: int, posts: list[str], home: Path) -> None:
        self.number = number
        environment = {**os.environ, "TRANCHE_HOME": str(home)}
        home.mkdir()
        self.process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "tests.scenarios.lan", "prober", *posts],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self._await("here")
        run("ip", "link", "add", f"w{number}", "type", "veth", "peer", "name", "cable", "netns", str(self.process.pid))
        run("ip", "address", "add", f"10.7.{number}.1/24", "dev", f"w{number}")
        run("ip", "address", "add", f"fd07:0:0:{number}::1/64", "dev", f"w{number}", "nodad")
        run("ip", "link", "set", f"w{number}", "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "address", "add", f"10.7.{number}.2/24", "dev", "cable")
        self.connect()
        self.tell("go")

    def inside(self, *command: str, text: str | None = None) -> None:
        run("nsenter", f"--net=/proc/{self.process.pid}/ns/net", *command, text=text)

    def connect(self) -> None:
        self.inside("ip", "link", "set", "cable", "up")
        self.inside("ip", "address", "replace", f"fd07:0:0:{self.number}::2/64", "dev", "cable", "nodad")
        self.inside("ip", "route", "replace", "default", "via", f"10.7.{self.number}.1")
        self.inside("ip", "-6", "route", "replace", "default", "via", f"fd07:0:0:{self.number}::1", "dev", "cable")

    def drop(self, rule: str) -> None:
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; {rule} drop; }}\n" for hook in ("output", "input")
        )
        self.inside("nft", "-f", "-", text=f"table inet spoiled {{\n{chains}}}")

    def let_pass(self) -> None:
        self.inside("nft", "delete", "table", "inet", "spoiled")

    def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self._await(f"done {command}")

    def _await(self, word: str) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise SystemExit(f"the prober is gone, and never said “{word}”")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def be_a_prober(posts: list[str]) -> None:
    """What runs behind a cable: a real prober that also obeys a few commands on its standard input."""
    settings.PROBE_OWN_INTERVAL_SECONDS = INTERVAL_SECONDS
    settings.PROBE_BURST_SPACING_SECONDS = INTERVAL_SECONDS
    made = watched._watched
    # The loop itself knows no shortest interval; only customers may not choose less than a second.
    watched._watched = lambda *row: replace(made(*row), interval_seconds=INTERVAL_SECONDS)
    good = settings.PROBE_EXTRA_CA_FILE
    prober: Prober | None = None
    print("here", flush=True)
    for line in sys.stdin:
        command = line.strip()
        match command.split():
            case ["go"]:
                prober = Prober(posts)
                prober.ensure_running()
            case ["ca", which]:
                assert prober
                prober.stop()
                settings.PROBE_EXTRA_CA_FILE = good if which == "good" else ""
                prober = Prober(posts)
                prober.ensure_running()
            case ["descriptors", how]:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (3 if how == "gone" else hard, hard))
        print(f"done {command}", flush=True)


# --- storms and steering, as the workers do them ------------------------------------------------------------------------


class Watcher:
    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            now = datetime.now(UTC)
            watch(now)
            steering.steer(now)
            outbox.submit(datetime.now(UTC))

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def build(points: int, *, ipv6: bool = False) -> list[VantagePoint]:
    """One service behind two CDNs, steered by the provider that only logs; canaries on three networks."""
    made = [factories.vantage_point(name=f"point-{n}", region="eu", network=f"AS{n}") for n in range(1, points + 1)]
    service = factories.service(interval_seconds=1, timeout_seconds=1, probe_ipv6=ipv6)
    domain = factories.domain(service=service, hostname=HOST)
    factories.policy(service=service, window_seconds=3, min_samples=3, min_failures=3, closing_samples=3)
    for role in Target.DOMAIN_ROLES:
        factories.target(role, domain=domain, address=f"{role}.{ZONE}")
    factories.record_set(domain=domain, zone=ZONE)
    for n in (1, 2, 3):
        name = f"canary-{n}.{ZONE}"
        factories.target("canary", address=name, hostname=name, network=f"AS{100 + n}")
    return made


def all_is_well() -> bool:
    """Every vantage point sees, and says of every path, just now, that it is UP."""
    paths = PathVerdict.objects.filter(target__role__in=Target.WATCHED_ROLES, target__enabled=True)
    votes = {vote for verdict in paths for vote in verdict.votes.values()}
    return (
        votes == {"UP"}
        and not paths.exclude(verdict="UP").exists()
        and not paths.filter(evaluated_at__lt=timezone.now() - timedelta(seconds=15)).exists()
        and not VantagePoint.objects.filter(blind_since__isnull=False).exists()
        and not StormEvent.objects.filter(closed_at__isnull=True).exists()
    )


def became_blind(seconds: float) -> bool:
    """Whether, within this time, all vantage points were blind at once."""
    was_blind, deadline = False, time.monotonic() + seconds
    while time.monotonic() < deadline:
        was_blind |= not VantagePoint.objects.filter(blind_since__isnull=True).exists()
        time.sleep(0.1)
    return was_blind


# --- what is spoiled --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoiler:
    spoil: Callable[[World, Cable], None]
    mend: Callable[[World, Cable], None]
    blinds: bool = True
    """Whether all vantage points are blind in every run. Half of a world that still answers blinds nobody, and what was
    on its way when a prober stood still may arrive when it goes on; there attribution alone keeps the peace."""
    ipv6: bool = False
    finding: str = ""
    """What is to be found meanwhile, however long a busy machine takes for it."""


def _dropping(rule: str, **kw: Any) -> Spoiler:
    return Spoiler(lambda world, cable: cable.drop(rule), lambda world, cable: cable.let_pass(), **kw)


def _lie(value: bool) -> Callable[[World, Cable], None]:
    def lie(world: World, cable: Cable) -> None:
        world.lies = value

    return lie


def _ports(low: int, high: int) -> Callable[[World, Cable], None]:
    def limit(world: World, cable: Cable) -> None:
        cable.inside("sysctl", "-qw", f"net.ipv4.ip_local_port_range={low} {high}")

    return limit


SPOILERS = {
    "link_down": Spoiler(
        lambda world, cable: cable.inside("ip", "link", "set", "cable", "down"), lambda world, cable: cable.connect()
    ),
    "resolver_dead": _dropping("udp dport 53"),
    "resolver_lies": Spoiler(_lie(True), _lie(False)),
    "outbound_443_dropped": _dropping("tcp dport 443"),
    "thirty_percent_loss": _dropping("numgen random mod 100 < 30", blinds=False),
    "only_ipv6_broken": _dropping("meta nfproto ipv6", blinds=False, ipv6=True, finding="one_family"),
    "certificate_store_wrong": Spoiler(
        lambda world, cable: cable.tell("ca wrong"), lambda world, cable: cable.tell("ca good")
    ),
    "descriptors_gone": Spoiler(
        lambda world, cable: cable.tell("descriptors gone"), lambda world, cable: cable.tell("descriptors back")
    ),
    "ports_exhausted": Spoiler(_ports(60000, 60000), _ports(32768, 60999)),
    "stopped": Spoiler(
        lambda world, cable: cable.process.send_signal(signal.SIGSTOP),
        lambda world, cable: cable.process.send_signal(signal.SIGCONT),
        blinds=False,
    ),
}


@contextlib.contextmanager
def lan(points: int, cables: int, **kw: Any) -> Iterator[tuple[World, list[Cable]]]:
    home = Path(os.environ["TRANCHE_HOME"])
    world = World(home / "pki")
    world.start()
    names = [point.name for point in build(points, **kw)]
    opened: list[Cable] = []
    try:
        for number in range(1, cables + 1):
            opened.append(Cable(number, names[number - 1 :: cables], home / f"prober-{number}"))
        with Watcher():
            yield world, opened
    finally:
        for cable in opened:
            cable.close()


def spoil(name: str, runs: int) -> dict[str, Any]:
    """`runs` times: all is well, something is spoiled and mended. At the end a real outage, as the control."""
    spoiler = SPOILERS[name]
    report: dict[str, Any] = {"scenario": name, "runs": 0, "runs_blind": 0, "blinds": spoiler.blinds}
    with lan(points=2, cables=1, ipv6=spoiler.ipv6) as (world, (cable,)):
        until(all_is_well, "all is well at first")
        before = WeightChange.objects.count()
        for _ in range(runs):
            until(all_is_well, "all is well again")
            spoiler.spoil(world, cable)
            was_blind = became_blind(HOLD_SECONDS)
            if spoiler.finding:
                until(Finding.objects.open().filter(kind=spoiler.finding).exists, f"{spoiler.finding} is found")
            spoiler.mend(world, cable)
            # Who stood still says so when it goes on.
            was_blind |= became_blind(2 * INTERVAL_SECONDS)
            report["runs"] += 1
            report["runs_blind"] += was_blind
        until(all_is_well, "all is well in the end")
        report["storms"] = StormEvent.objects.count()
        report["dns_writes"] = WeightChange.objects.count() - before
        report["findings"] = sorted(set(Finding.objects.values_list("kind", flat=True)))
        world.set_mode("primary", Mode.ERROR_500)
        report["control_s"] = round(until(StormEvent.objects.exists, "a real outage is a storm"), 2)
        until(lambda: WeightChange.objects.count() > before, "a real storm moves traffic")
    return report


def cut_one_off(runs: int) -> dict[str, Any]:
    """Three vantage points behind three cables: without one of them the other two say what all three said."""
    report: dict[str, Any] = {"scenario": "cut_one_off", "runs": 0}
    with lan(points=3, cables=3) as (world, cables):
        until(all_is_well, "all is well at first")
        before = WeightChange.objects.count()
        odd: set[str] = set()
        for number in range(runs):
            cable = cables[number % 3]
            until(all_is_well, "all is well again")
            cable.inside("ip", "link", "set", "cable", "down")
            name = f"point-{cable.number}"
            until(lambda: VantagePoint.objects.get(name=name).blind_since, f"{name} is known to be blind")  # noqa: B023
            deadline = time.monotonic() + HOLD_SECONDS
            while time.monotonic() < deadline:
                odd |= set(PathVerdict.objects.filter(target__role="primary").values_list("verdict", flat=True))
                time.sleep(0.1)
            if number == runs - 1:
                break
            cable.connect()
            report["runs"] += 1
        report["verdicts"] = sorted(odd)
        report["storms"], report["dns_writes"] = StormEvent.objects.count(), WeightChange.objects.count() - before
        # With one of three still cut off, a real outage is a storm as ever.
        world.set_mode("primary", Mode.ERROR_500)
        report["control_s"] = round(until(StormEvent.objects.exists, "a real outage is a storm"), 2)
        report["blind"] = VantagePoint.objects.filter(blind_since__isnull=False).count()
    return report


def main(scenario: str, runs: int) -> None:
    report = cut_one_off(runs) if scenario == "cut_one_off" else spoil(scenario, runs)
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "prober":
        be_a_prober(sys.argv[2:])
    else:
        main(sys.argv[1], int(sys.argv[2]))
