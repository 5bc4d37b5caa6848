"""How fast logs are read, beside bare DuckDB over the same objects, and what memory one large object takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.bench import Result, logs_files

OBJECTS, ROWS = 8, 100_000  # as many rows as Logpush puts into an object by default
BIG_ROWS, RSS_LIMIT_MIB = 4_000_000, 512
DAY_OBJECTS, DAY_ROWS, REAL_TIME_LIMIT = 2_880, 1_000, 50  # one object each 30 seconds


def log_rows_logpush() -> Result:
    return _rows("log_rows_logpush", "cloudflare_logpush", logs_files.logpush)


def log_rows_cloudfront() -> Result:
    return _rows("log_rows_cloudfront", "cloudfront", logs_files.cloudfront)


def log_rss_mib() -> Result:
    with tempfile.TemporaryDirectory(prefix="tranche-bench-") as name:
        path = logs_files.write(Path(name) / "log.gz", logs_files.logpush(BIG_ROWS), level=1)
        told = _client("big", "cloudflare_logpush", str(path))
    return Result("log_rss_mib", round(told["rss_mib"]), "MiB", "limit", RSS_LIMIT_MIB)


def log_small_objects() -> Result:
    with tempfile.TemporaryDirectory(prefix="tranche-bench-") as name:
        _objects(Path(name), DAY_OBJECTS, DAY_ROWS, logs_files.logpush)
        told = _client("day", "cloudflare_logpush", name)
    return Result("log_small_objects", round(86_400 / told["seconds"]), "x real time", "limit", REAL_TIME_LIMIT)


def _rows(bench: str, format: str, parts: Callable[[int, int], Iterator[bytes]]) -> Result:
    with tempfile.TemporaryDirectory(prefix="tranche-bench-") as name:
        _objects(Path(name), OBJECTS, ROWS, parts)
        told = _client("rate", format, name)
    print(f"{bench}: {told}", file=sys.stderr)
    rows = OBJECTS * ROWS
    return Result(bench, round(rows / told["seconds"]), "rows/s", "bare DuckDB", round(rows / told["bare_seconds"]))


def _objects(directory: Path, count: int, rows: int, parts: Callable[[int, int], Iterator[bytes]]) -> None:
    with ProcessPoolExecutor() as processes:
        made = [processes.submit(_write, directory / f"{n:04}.gz", parts, rows, n) for n in range(count)]
        for future in made:
            future.result()


def _write(path: Path, parts: Callable[[int, int], Iterator[bytes]], rows: int, number: int) -> None:
    logs_files.write(path, parts(rows, number))


def _client(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.logs_client", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
