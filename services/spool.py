"""Samples on disk while Postgres is away: bounded in bytes and in age, oldest out first, safe against a kill.

One directory a probe worker, a few files in it. A file is taken whole, recorded, and only then removed, so that a
kill in between records it twice, which the samples' key makes harmless.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import astuple, replace
from datetime import datetime
from pathlib import Path

from services.samples import Row

logger = logging.getLogger(__name__)

FILES = 16
"""How many files the bound is divided into: what is dropped at once is one of them."""
_DATES = ("slot_at", "at", "certificate_expires_at")
_PLACES = [list(Row.__dataclass_fields__).index(name) for name in _DATES]


class Spool:
    """`most_bytes` and `most_seconds` bound what is kept. Methods raise OSError where the disk does."""

    def __init__(self, directory: Path, most_bytes: int, most_seconds: float) -> None:
        self._directory = directory
        self._most_bytes, self._most_seconds = most_bytes, most_seconds
        self._writing: Path | None = None

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in self._files())

    def append(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        text = "".join(json.dumps(_plain(row), separators=(",", ":")) + "\n" for row in rows)
        self._directory.mkdir(parents=True, exist_ok=True)
        if self._writing is None or self._is_full(self._writing):
            self._writing = self._directory / f"{time.time_ns()}.jsonl"
        with self._writing.open("a") as file:
            file.write(text)
        self._drop_what_is_too_much()

    def oldest(self) -> tuple[Path, list[Row]] | None:
        """The oldest file and its rows, marked late; give the file to `remove` once they are recorded."""
        files = self._files()
        if not files:
            return None
        path = files[0][0]
        if path == self._writing:
            self._writing = None
        with path.open() as file:
            return path, [row for line in file if (row := _row(line))]

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, int]]:
        """Oldest first, with their sizes."""
        found = []
        for path in self._directory.glob("*.jsonl"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append((int(path.stem), path, path.stat().st_size))
        return [(path, size) for _, path, size in sorted(found)]

    def _is_full(self, path: Path) -> bool:
        with contextlib.suppress(FileNotFoundError):
            is_old = time.time_ns() - int(path.stem) > self._most_seconds / FILES * 1e9
            return is_old or path.stat().st_size >= self._most_bytes / FILES
        return True

    def _drop_what_is_too_much(self) -> None:
        files = self._files()
        total, oldest = sum(size for _, size in files), time.time_ns() - self._most_seconds * 1e9
        for path, size in files:
            if total <= self._most_bytes and int(path.stem) >= oldest:
                return
            logger.warning("the spool is full: samples since %s are dropped", path.stem)
            self.remove(path)
            total -= size


def _plain(row: Row) -> list[object]:
    values = list(astuple(row))
    for place in _PLACES:
        if isinstance(moment := values[place], datetime):
            values[place] = moment.isoformat()
    return values


def _row(line: str) -> Row | None:
    """None for a line that a kill cut off."""
    try:
        values = json.loads(line)
        for place in _PLACES:
            if values[place]:
                values[place] = datetime.fromisoformat(values[place])
        return replace(Row(*values), is_late=True)
    except (ValueError, TypeError, IndexError):
        return None
