"""DuckDB with limits. Starting one costs as much as reading fifty thousand rows, so each thread keeps its own."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from billing.logs import opening
from billing.logs.format import LogUnreadable, ReaderUnavailable

if TYPE_CHECKING:
    import duckdb

THREADS = min(2, len(os.sched_getaffinity(0)))  # a gzip is one stream: one inflates, another takes apart
MEMORY_LIMIT = "256MB"  # beyond it, DuckDB spills to the temporary directory
SECONDS_LIMIT = 30.0  # and one more for each BYTES_A_SECOND of the file; what takes longer was made to
BYTES_A_SECOND = 4 << 20  # a core reads fifty million bytes of gzip; this is how busy a machine may be

_kept = threading.local()
_left_behind: list[duckdb.DuckDBPyConnection] = []


_MACHINE_FAULTS = ("No space left on device", "Input/output error", "Read-only file system", "Too many open files")


class Refused(Exception):
    """DuckDB did not read the file."""

    def __init__(self, error: duckdb.Error, seconds: float) -> None:
        import duckdb

        whole = str(error)
        text = whole.split("\n")[0]
        super().__init__(text)
        self.is_about_text = isinstance(error, duckdb.InvalidInputException | duckdb.NotImplementedException)
        if "Unexpected end of GZIP stream" in text:
            self.reason = opening.TRUNCATED
        elif "GZIP" in text.upper():
            self.reason = "broken gzip, or something else after its end"
        elif "maximum_object_size" in whole or "Maximum line size" in whole:
            self.reason = "a line is too long for a log"
        elif isinstance(error, duckdb.InterruptException):
            self.reason = f"not read within {seconds:.0f} seconds"
        else:
            self.reason = text[:300]


@dataclass
class Workspace:
    """What the reading of one object needs; gone when that is done."""

    duck: duckdb.DuckDBPyConnection
    directory: Path
    log: Path  # the object under a plain name: DuckDB would expand * and [ ] in a path
    seconds: float  # after them it is stopped
    is_sound: bool = field(default=True, init=False)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Raises Refused."""
        import duckdb

        try:
            return self.duck.execute(sql).fetchall()
        except duckdb.Error as error:
            if isinstance(error, duckdb.IOException) and any(word in str(error) for word in _MACHINE_FAULTS):
                raise ReaderUnavailable(str(error).split("\n")[0]) from error
            refused = Refused(error, self.seconds)
            self.is_sound = self.is_sound and refused.is_about_text
            raise refused from error


@contextmanager
def workspace(path: Path, size_bytes: int) -> Iterator[Workspace]:
    """A DuckDB for this object, which is stopped when the time for its size is over."""
    with tempfile.TemporaryDirectory(prefix="tranche-log-") as name:
        directory = Path(name)
        spill, log = directory / "spill", directory / "log"
        log.symlink_to(path.resolve())
        duck = _duckdb()
        duck.execute(f"SET temp_directory = '{spill}'")
        seconds = SECONDS_LIMIT + size_bytes / BYTES_A_SECOND
        work = Workspace(duck, directory, log, seconds)
        stop = threading.Timer(seconds, duck.interrupt)
        stop.daemon = True
        stop.start()
        try:
            yield work
        except (LogUnreadable, ReaderUnavailable):
            raise
        except BaseException:
            work.is_sound = False
            raise
        finally:
            stop.cancel()
            stop.join()  # so that it can't stop the next reading
            # A DuckDB that has spilled holds on to its directory, and one that ran into a limit may not be well.
            if not work.is_sound or spill.exists():
                _drop()


def _duckdb() -> duckdb.DuckDBPyConnection:
    import duckdb

    if kept := getattr(_kept, "duck", None):
        duck, process = kept
        if process == os.getpid():
            return duck
        _left_behind.append(duck)  # a fork has the connection, but not its threads; closing it would wait for them
    config: dict[str, Any] = {
        "threads": THREADS,
        "memory_limit": MEMORY_LIMIT,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "enable_external_file_cache": "false",
    }
    fresh = duckdb.connect(config=config)
    fresh.execute("SET TimeZone = 'UTC'")
    _kept.duck = (fresh, os.getpid())
    return fresh


def _drop() -> None:
    duck, _ = _kept.duck
    del _kept.duck
    duck.close()
