"""What DNS really answers: the revision beacon and a sample of answers, at every authoritative server of each name."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dns.providers.contract import BEACON_LABEL, revision
from dns.sampling import consistent
from services import lookup

SAMPLES = 59
"""Answers of each server. With 0 leaks among 59, a leak of 5 % or more is ruled out at 95 % confidence."""
FEWEST_SAMPLES = 3
MOST_SAMPLES = 299
"""Asked once more where a share between 0 and 100 % seems wrong: chance must not look like drift."""
QUESTIONS_AT_ONCE = 1_500
"""In a look at many names each gets fewer samples: the beacon says that the write is there, the answers cross-check it."""
TIMEOUT_SECONDS = 1.0
SERVERS_KEPT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a name should answer. `targets` maps CNAME targets, or addresses at an apex (lower case, no trailing dot), to
    keys of `percents`; `other` is the key of a path whose addresses nobody can list, if there is one."""

    hostname: str
    zone: str
    targets: Mapping[str, str]
    percents: Mapping[str, int]
    generation: int
    ttl_seconds: int = 0
    """0: not looked at."""
    other: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """`problem` is empty when every server shows the generation and its answers fit the percents."""

    hostname: str
    summary: str
    problem: str = ""
    generation: int | None = None
    """What the beacon shows where it isn't what was written; the lowest over the servers."""
    is_silent: bool = False
    """Nobody could be asked, or a server gave no answer: nothing was learnt."""


def look(wanted: Wanted) -> Observation:
    return look_at_all([wanted])[0]


def look_at_all(names: Sequence[Wanted]) -> list[Observation]:
    """Ask every authoritative server of every name: first all beacons, then samples where they are right."""
    servers: dict[str, list[lookup.Server]] = {}
    found: dict[str, Observation] = {}
    for name in names:
        try:
            servers[name.hostname] = _servers(name)
        except lookup.LookupFailed as error:
            found[name.hostname] = Observation(
                name.hostname, "", f"its servers can't be found: {error}", is_silent=True
            )
    there = [name for name in names if name.hostname in servers]
    answers = _ask([(s, f"{BEACON_LABEL}.{n.hostname}", "TXT") for n in there for s in servers[n.hostname]])
    good = []
    for name in there:
        mine = [next(answers) for _ in servers[name.hostname]]
        problem = _beacon_problem(name, mine)
        if problem:
            found[name.hostname] = problem
        else:
            good.append(name)
    total = sum(len(servers[name.hostname]) for name in good) or 1
    samples = max(FEWEST_SAMPLES, min(SAMPLES, QUESTIONS_AT_ONCE // total))
    for name, observation in zip(good, _sample(good, servers, samples), strict=True):
        if observation.problem and not observation.is_silent and any(0 < p < 100 for p in name.percents.values()):
            (observation,) = _sample([name], servers, MOST_SAMPLES)
        found[name.hostname] = observation
    return [found[name.hostname] for name in names]


def _servers(name: Wanted) -> list[lookup.Server]:
    """Of the zone, asked for once a minute: a storm in one zone is not a hundred lookups of its delegation."""
    key = name.zone or name.hostname
    kept = _kept.get(key)
    if kept and time.monotonic() < kept[0]:
        return kept[1]
    _, servers = lookup.authoritative_servers(name.hostname)
    _kept[key] = time.monotonic() + SERVERS_KEPT_SECONDS, servers
    return servers


_kept: dict[str, tuple[float, list[lookup.Server]]] = {}


def forget_servers() -> None:
    _kept.clear()


def _ask(questions: list[lookup.Question]) -> Iterator[lookup.Answer]:
    """The answers in order; a lost datagram says nothing, so what failed is asked again before it counts."""
    answers = lookup.ask_all(questions, timeout_seconds=TIMEOUT_SECONDS) if questions else []
    failed = [index for index, answer in enumerate(answers) if answer.error]
    if 0 < len(failed) <= max(10, len(answers) // 10):
        again = lookup.ask_all([questions[index] for index in failed], timeout_seconds=TIMEOUT_SECONDS)
        for index, answer in zip(failed, again, strict=True):
            answers[index] = answer
    return iter(answers)


def _beacon_problem(name: Wanted, answers: Sequence[lookup.Answer]) -> Observation | None:
    for answer in answers:
        if answer.error:
            return Observation(name.hostname, "", f"{answer.server}: {answer.error}", is_silent=True)
    shown = [(answer.server, revision(lookup.txt_values(answer))) for answer in answers]
    wrong = [(server, number) for server, number in shown if number != name.generation]
    if not wrong:
        return None
    server, number = min(wrong, key=lambda pair: -1 if pair[1] is None else pair[1])
    there = "no revision" if number is None else f"rev={number}"
    problem = f"{server} shows {there}, and rev={name.generation} was written"
    return Observation(name.hostname, "", problem, min((n for _, n in wrong if n is not None), default=None))


def _sample(names: Sequence[Wanted], servers: Mapping[str, Sequence[lookup.Server]], samples: int) -> list[Observation]:
    questions = [
        (server, name.hostname, "A" if name.zone == name.hostname else "CNAME")
        for name in names
        for server in servers[name.hostname]
        for _ in range(samples)
    ]
    answers = _ask(questions)
    return [_judge(name, servers[name.hostname], [next(answers) for _ in range(samples * len(servers[name.hostname]))])
            for name in names]  # fmt: skip


def _judge(name: Wanted, servers: Sequence[lookup.Server], answers: Sequence[lookup.Answer]) -> Observation:
    by_server: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        if answer.error:
            is_silent = not answer.rcode  # a SERVFAIL is an answer, and a bad one
            return Observation(name.hostname, "", f"{answer.server}: {answer.error}", is_silent=is_silent)
        values = [
            r.value.rstrip(".").lower() for r in answer.records if r.type == answer.type and r.name == name.hostname
        ]
        if not values or (answer.type == "CNAME" and len(values) > 1):
            problem = f"{answer.server} answers {len(values)} {answer.type}s instead of one"
            return Observation(name.hostname, "", problem)
        ttl = max(r.ttl_seconds for r in answer.records if r.type == answer.type and r.name == name.hostname)
        if not answer.authoritative or (name.ttl_seconds and ttl != name.ttl_seconds):
            problem = f"with a TTL of {ttl} s, and {name.ttl_seconds} s was written"
            problem = problem if answer.authoritative else "without authority"
            return Observation(name.hostname, "", f"{answer.server} answers {problem}")
        by_server[answer.server][name.targets.get(values[0], name.other or values[0])] += 1
    counts: Counter[str] = Counter()
    names = {key: target for target, key in name.targets.items()}
    for server, here in by_server.items():
        if contradiction := consistent(name.percents, here, names):
            return Observation(name.hostname, "", f"{server}: {contradiction}")
        counts += here
    shares = ", ".join(f"{count} × {names.get(key, key)}" for key, count in counts.most_common())
    shown = f"rev={name.generation} at {len(servers)} of {len(servers)} servers"
    return Observation(name.hostname, f"{shown}; {shares}")


def drain(hostnames: Sequence[str], resolvers: Sequence[lookup.Server]) -> list[list[str]]:
    """What each of these resolvers answers for each name: the CNAME's target, or why there is none."""
    questions = [(resolver, name, "CNAME") for name in hostnames for resolver in resolvers]
    answers = iter(lookup.ask_all(questions, timeout_seconds=TIMEOUT_SECONDS, recursive=True) if questions else [])
    found = []
    for name in hostnames:
        mine = [next(answers) for _ in resolvers]
        found.append([
            next((r.value.rstrip(".").lower() for r in a.records if r.type == "CNAME" and r.name == name), a.error or "nothing")
            for a in mine
        ])  # fmt: skip
    return found
