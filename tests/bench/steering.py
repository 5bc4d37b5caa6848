"""How soon a storm is in DNS: a hundred services of one zone on a real PowerDNS, and 5,000 domains at a strict Route 53."""

from __future__ import annotations

import sys
from functools import cache

from tests.bench import Result, database


def storm_to_submitted_ms() -> Result:
    told = _one_zone()
    return Result("storm_to_submitted_ms", told["submitted_p99_ms"], "ms", "asked at most", 1000.0)


def submitted_to_observed_ms() -> Result:
    told = _one_zone()
    return Result("submitted_to_observed_ms", told["observed_p99_ms"], "ms", "asked at most", 2000.0)


def dns_5000_s() -> Result:
    """Until all are observed; the peer is what the accounts' buckets and the vendor's own delay alone would take."""
    told: dict[str, float] = database.measure("tests.bench.steering_client", "mass")
    print(f"dns_5000_s: {told}", file=sys.stderr)
    return Result("dns_5000_s", told["observed_s"], "s", "bucket arithmetic", told["arithmetic_s"])


@cache
def _one_zone() -> dict[str, float]:
    told: dict[str, float] = database.measure("tests.bench.steering_client", "one-zone")
    print(f"one zone: {told}", file=sys.stderr)
    return told
