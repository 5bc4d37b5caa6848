"""What DNS really answers for a hostname: the revision beacon and a sample of answers, at every authoritative server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from dns import weights
from dns.providers.contract import BEACON_LABEL
from services import lookup

SAMPLES_PER_SERVER = 59
"""With 0 leaks among 59 answers, a leak of 5 % or more is ruled out at 95 % confidence."""
TIMEOUT_SECONDS = 1.0
MOST_REPEATED = 10


@dataclass(frozen=True, slots=True)
class Observation:
    """`problem` is empty when every server shows the generation and its answers fit the percents."""

    hostname: str
    summary: str
    problem: str = ""
    generation: int | None = None
    """What the beacon shows where it isn't what was written; the lowest over the servers."""


def look(hostname: str, targets: Mapping[str, str], percents: Mapping[str, int], generation: int) -> Observation:
    """Ask every authoritative server. `targets` maps CNAME targets (lower case, no trailing dot) to keys of `percents`."""
    try:
        _, servers = lookup.authoritative_servers(hostname)
    except lookup.LookupFailed as error:
        return Observation(hostname, "", f"its servers can't be found: {error}")
    beacon = f"{BEACON_LABEL}.{hostname}"
    questions = [(server, beacon, "TXT") for server in servers]
    questions += [(server, hostname, "CNAME") for server in servers for _ in range(SAMPLES_PER_SERVER)]
    answers = lookup.ask_all(questions, timeout_seconds=TIMEOUT_SECONDS)
    # One lost datagram among dozens says nothing: ask again before it counts.
    failed = [index for index, answer in enumerate(answers) if answer.error]
    if 0 < len(failed) <= MOST_REPEATED:
        again = lookup.ask_all([questions[index] for index in failed], timeout_seconds=TIMEOUT_SECONDS)
        for index, answer in zip(failed, again, strict=True):
            answers[index] = answer
    beacons, samples = answers[: len(servers)], answers[len(servers) :]
    for answer in beacons:
        if answer.error:
            return Observation(hostname, "", f"{answer.server}: {answer.error}")
        revisions = [value for value in lookup.txt_values(answer) if value.startswith("rev=")]
        if revisions != [f"rev={generation}"]:
            shown = ", ".join(revisions) or "no revision"
            problem = f"{answer.server} shows {shown}, and rev={generation} was written"
            return Observation(hostname, "", problem, _number(revisions))
    counts: Counter[str] = Counter()
    for index, _server in enumerate(servers):
        here: Counter[str] = Counter()
        for answer in samples[index * SAMPLES_PER_SERVER : (index + 1) * SAMPLES_PER_SERVER]:
            if answer.error:
                return Observation(hostname, "", f"{answer.server}: {answer.error}")
            values = [r.value.rstrip(".").lower() for r in answer.records if r.type == "CNAME" and r.name == hostname]
            if len(values) != 1:
                return Observation(hostname, "", f"{answer.server} answers {len(values)} CNAMEs instead of one")
            here[targets.get(values[0], values[0])] += 1
        if contradiction := weights.consistent(percents, here):
            return Observation(hostname, "", f"{beacons[index].server}: {contradiction}")
        counts += here
    names = {key: target for target, key in targets.items()}
    shares = ", ".join(f"{count} × {names.get(key, key)}" for key, count in counts.most_common())
    return Observation(hostname, f"rev={generation} at {len(servers)} of {len(servers)} servers; {shares}")


def _number(revisions: list[str]) -> int | None:
    numbers = [int(text) for revision in revisions if (text := revision.removeprefix("rev=")).isdecimal()]
    return min(numbers, default=None)
