"""The process that the slip bench measures: the targets on standard input, one JSON line out."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django

django.setup()

from services import partitions  # noqa: E402
from services.models import ProbeSample, Service, Target  # noqa: E402
from services.outcomes import Outcome  # noqa: E402
from services.prober import Prober  # noqa: E402
from tests import factories  # noqa: E402
from tests.hostile import HOSTILE  # noqa: E402

GOOD = 200
INTERVAL_SECONDS = 5
WARM_SECONDS = 12
"""Until the prober knows its targets and each had a slot."""

SPAN_SECONDS = 40
REST_SECONDS = 7
"""Until the last probes of a span ended at their deadline and are recorded."""

Expected = dict[int, tuple[str, Outcome]]
"""By target: what it is, and what its probes must end in."""


def main(task: dict[str, Any]) -> None:
    partitions.maintain(datetime.now(UTC))
    point = factories.vantage_point()
    good = _good(task["good"])
    prober = Prober([point.name])
    prober.ensure_running()
    time.sleep(WARM_SECONDS)
    told = {"calm_slip_p99_ms": _watch(good, {}), "calm_peak_mib": _peak_mib()}
    bad = _hostile(task["hostile"])
    prober.look_for_changes()
    told |= {"slip_p99_ms": _watch(good, bad), "peak_mib": _peak_mib()}
    prober.stop()
    print(json.dumps(told))


def _good(places: list[tuple[str, int]]) -> Expected:
    service, cdn = _service(), factories.cdn()
    factories.target(Target.Role.CANARY, hostname="canary.battery.test", address=places[0][0], port=places[0][1])
    targets = {}
    for n in range(GOOD):
        address, port = places[n % len(places)]
        domain = factories.domain(service=service, hostname=f"good{n}.battery.test")
        target = factories.target(domain=domain, cdn=cdn, address=address, port=port)
        targets[target.pk] = ("good", Outcome.OK)
    return targets


def _hostile(ports: dict[str, list[int]]) -> Expected:
    cdn = factories.cdn()
    services = {marker: _service(body_marker=marker.decode()) for marker in {kind.marker for kind in HOSTILE.values()}}
    targets: Expected = {}
    for name, kind in HOSTILE.items():
        for port in ports[name]:
            domain = factories.domain(service=services[kind.marker], hostname=f"hostile{port}.battery.test")
            target = factories.target(domain=domain, cdn=cdn, address="127.0.0.1", port=port)
            targets[target.pk] = (name, kind.expected)
    return targets


def _service(**kw: Any) -> Service:
    return factories.service(interval_seconds=INTERVAL_SECONDS, timeout_seconds=INTERVAL_SECONDS, **kw)


def _watch(good: Expected, bad: Expected) -> float:
    """Milliseconds that 99 of 100 good probes began after their slot at most, in the span that begins now."""
    began = datetime.now(UTC)
    ended = began + timedelta(seconds=SPAN_SECONDS)
    time.sleep(SPAN_SECONDS + REST_SECONDS)
    samples = ProbeSample.objects.filter(slot_at__gte=began, slot_at__lt=ended)
    _check(samples, good | bad)
    slips = sorted(
        (at - slot_at).total_seconds() * 1000
        for at, slot_at in samples.filter(target_id__in=good, attempt=0).values_list("at", "slot_at")
    )
    # A slot that was dropped was the latest of all, and would be missing here.
    if len(slips) != len(good) * SPAN_SECONDS // INTERVAL_SECONDS:
        raise SystemExit(
            f"{len(slips)} probes of {len(good)} good targets in {SPAN_SECONDS} s: some slots were dropped"
        )
    return slips[len(slips) * 99 // 100]


def _check(samples: Any, expected: Expected) -> None:
    """Every target was seen, and all its probes, those of bursts too, ended as they must."""
    ends: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for target_id, outcome, reason in samples.values_list("target_id", "outcome", "reason"):
        ends[target_id].add((outcome, reason))
    wrong = {
        f"{name}: {outcome} instead of {right} ({reason})"
        for target_id, (name, right) in expected.items()
        for outcome, reason in ends.get(target_id, {("no probe", "")})
        if outcome != right
    }
    if wrong:
        raise SystemExit("\n".join(sorted(wrong)))


def _peak_mib() -> float:
    """Of this process, since it began (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main(json.load(sys.stdin))
