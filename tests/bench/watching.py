"""How long a look at every service takes: calm, with one in a hundred of them in a storm, beside a bare GROUP BY."""

from __future__ import annotations

import sys

from tests.bench import Result, database


def watch_10k_ms() -> Result:
    return _watch("watch_10k_ms", 10_000)


def watch_100k_ms() -> Result:
    return _watch("watch_100k_ms", 100_000)


def _watch(name: str, services: int) -> Result:
    told: dict[str, float] = database.measure("tests.bench.watching_client", str(services))
    print(f"{name}: {told}", file=sys.stderr)
    return Result(name, round(told["calm_ms"], 1), "ms", "bare GROUP BY", round(told["group_by_ms"], 1))
