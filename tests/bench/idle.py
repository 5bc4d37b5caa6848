"""What one `manage.py up` with the demo world costs while nothing happens: memory and processor time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.bench import Result
from tests.stack import Stack

LIMIT_MIB = 900
LIMIT_CPU_PERCENT = 25
SETTLE_SECONDS = 20
"""After ready: workers import their tasks, the first probes, the first weights."""
IDLE_SECONDS = 60


def idle_mib() -> Result:
    mib, _ = _measure()
    return Result("idle_mib", mib, "MiB", "limit", LIMIT_MIB)


def idle_cpu_percent() -> Result:
    """Share of one core, over all processes."""
    _, percent = _measure()
    return Result("idle_cpu_percent", percent, "%", "limit", LIMIT_CPU_PERCENT)


@cache
def _measure() -> tuple[float, float]:
    stack = Stack()
    try:
        stack.start()
        stack.await_ready()
        time.sleep(SETTLE_SECONDS)
        before, began = _cpu_seconds(_pids(stack)), time.monotonic()
        time.sleep(IDLE_SECONDS)
        pids = _pids(stack)
        used, elapsed = _cpu_seconds(pids) - before, time.monotonic() - began
        return round(sum(map(_pss_kib, pids)) / 1024, 1), round(100 * used / elapsed, 1)
    finally:
        stack.close()


def _pids(stack: Stack) -> list[int]:
    return [process.pid for process in stack.family()]


def _cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time, with that of children that have ended: so none is lost when one ends meanwhile."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")


def _pss_kib(pid: int) -> int:
    """Proportional set size: pages that processes share are counted once in the sum."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
