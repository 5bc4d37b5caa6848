"""Reads the logs of a bench, in processes of their own: `rate` and `day` FORMAT DIRECTORY, `big` FORMAT FILE."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from tests.bench.logs_files import CLOUDFRONT_FIELDS

CORES, ROUNDS = 2, 6


def rate(format: str, directory: str) -> dict[str, float]:
    """Seconds for all objects on two cores: half the sum of each object's best processor time.

    In turns, in as many processes as there are cores, each held to its own. Processor time, because what else a machine
    does adds to the clock; where it does nothing else, they are the same.
    """
    paths = sorted(Path(directory).iterdir())
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    free: multiprocessing.Queue[int] = multiprocessing.Queue()
    for core in cores:
        free.put(core)
    with ProcessPoolExecutor(len(cores), initializer=_hold, initargs=(free,)) as processes:
        times = list(processes.map(_best_times, [format] * len(paths), paths))
    ours, bare = (sum(seconds) / CORES for seconds in zip(*times, strict=True))
    return {"seconds": ours, "bare_seconds": bare}


def _best_times(format: str, path: Path) -> tuple[float, float]:
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        found = []
        for place, read in enumerate((_ours, _bare)):
            began = time.process_time()
            found.append(read(format, path))
            best[place] = min(best[place], time.process_time() - began)
        assert found[0] == found[1], found
    return best[0], best[1]


def day(format: str, directory: str) -> dict[str, float]:
    began = time.perf_counter()
    requests = sum(_ours(format, path)[0] for path in sorted(Path(directory).iterdir()))
    return {"seconds": time.perf_counter() - began, "requests": requests}


def big(format: str, path: str) -> dict[str, float]:
    began = time.perf_counter()
    requests, _ = _ours(format, Path(path))
    # Not by getrusage: that would begin with what the process had that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss_mib": int(status["VmHWM"].split()[0]) / 1024,
        "seconds": time.perf_counter() - began,
        "requests": requests,
    }


def _hold(free: multiprocessing.Queue[int]) -> None:
    os.sched_setaffinity(0, {free.get()})


def _ours(format: str, path: Path) -> tuple[int, int]:
    """Requests and bytes."""
    from billing import logs

    reading = logs.read(logs.FORMATS[format], path)
    return sum(line.requests for line in reading.usage), sum(line.bytes for line in reading.usage)


def _bare(format: str, path: Path) -> tuple[int, int]:
    found = _duckdb().execute(_QUERIES[format].format(path=path)).fetchall()
    return sum(requests for *_, requests in found), sum(size for *_, size, _ in found)


@cache
def _duckdb() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


# The same columns, typed, the same choice of rows and the same dedupe; nothing is checked, and nothing accounted for.
_QUERIES: dict[str, str] = {
    "cloudflare_logpush": """
        SELECT host, instant // 60000000000, sum(size)::BIGINT, count(*)
        FROM (
            SELECT lower(ClientRequestHost) AS host, EdgeStartTimestamp AS instant, RayID, max(EdgeResponseBytes) AS size
            FROM read_json('{path}', format = 'newline_delimited', columns = {{
                EdgeStartTimestamp: 'BIGINT', ClientRequestHost: 'VARCHAR', EdgeResponseBytes: 'BIGINT',
                ClientRequestSource: 'VARCHAR', WorkerSubrequest: 'BOOLEAN', RayID: 'VARCHAR'}})
            WHERE ClientRequestSource = 'eyeball' AND NOT WorkerSubrequest
            GROUP BY ALL)
        GROUP BY ALL""",
    "cloudfront": f"""
        SELECT host, epoch(instant) // 60, sum(size)::BIGINT, count(*)
        FROM (
            SELECT lower("x-host-header") AS host, "date" + "time" AS instant, "x-edge-request-id", max("sc-bytes") AS size
            FROM read_csv('{{path}}', skip = 2, header = false, auto_detect = false, delim = '\\t', quote = '',
                escape = '', nullstr = '-', columns = {{{{{
        ", ".join(
            f"'{name}': '{ {'date': 'DATE', 'time': 'TIME', 'sc-bytes': 'BIGINT'}.get(name, 'VARCHAR') }'"
            for name in CLOUDFRONT_FIELDS.split()
        )
    }}}}})
            GROUP BY ALL)
        GROUP BY ALL""",
}


if __name__ == "__main__":
    CLIENTS: dict[str, Callable[..., dict[str, Any]]] = {"rate": rate, "day": day, "big": big}
    print(json.dumps(CLIENTS[sys.argv[1]](*sys.argv[2:])))
