"""Logs that something went wrong with: each is a reading in which every row is accounted for, or a reason. 250 of them
here, all 2,000 with HOSTILE_FILES=2000.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from billing import logs
from billing.logs import LogUnreadable
from tests.billing.log_lines import GOOD, log_text, random_log, usage, write
from tests.billing.log_mutations import mutated

FILES = int(os.environ.get("HOSTILE_FILES", "250"))
SHARDS = 2  # as many as there are likely cores
RSS_LIMIT_MIB = 256
ALL = pytest.mark.parametrize("format", logs.FORMATS)


def run(first: int, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.billing.log_mutations", str(first), str(count)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mutated_logs_are_read_or_refused_and_every_row_is_accounted_for(shard: int) -> None:
    share = FILES // SHARDS
    told = run(shard * share, share)
    assert told["wrong"] == []
    assert told["outcomes"]["read"] + told["outcomes"]["refused"] == told["files"] == share
    assert told["outcomes"]["read, with bad rows"] > share // 20  # so that the mutations are neither all fatal nor mild
    assert told["slowest_seconds"] < 30
    assert told["rss_mib"] < RSS_LIMIT_MIB
    print(told)


def test_the_mutations_are_the_same_again() -> None:
    assert [mutated(seed) for seed in range(40)] == [mutated(seed) for seed in range(40)]


# --- the largest ones, made cheaply -----------------------------------------------------------------------------------

GIBIBYTE = 1 << 30


def _sparse(path: Path, start: bytes, size: int) -> Path:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def _members(path: Path, start: bytes, block: bytes, count: int, end: bytes) -> Path:
    """The block many times in one gzip, packed once."""
    member = gzip.compress(block, 9)
    path.write_bytes(gzip.compress(start) + member * count + gzip.compress(end))
    return path


@ALL
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_of_a_gibibyte_is_refused(format: str, end: bytes, tmp_path: Path) -> None:
    good = log_text(format, GOOD[format]()).encode()
    path = _sparse(tmp_path / "log", good, GIBIBYTE)
    with path.open("ab") as file:
        file.write(end)
    with pytest.raises(LogUnreadable, match="a line is"):
        logs.read(logs.FORMATS[format], path)
    with pytest.raises(LogUnreadable, match=r"a line is|gzip bomb"):
        logs.read(logs.FORMATS[format], _members(tmp_path / "log.gz", good, b"x" * (16 << 20), 64, end))


@ALL
@pytest.mark.parametrize("filling", ["\n", "row"])
def test_what_is_hundreds_of_times_as_large_as_it_looks_is_refused(format: str, filling: str, tmp_path: Path) -> None:
    good = log_text(format, GOOD[format]()).encode()
    line = good.splitlines(keepends=True)[-1] if filling == "row" else b"\n"
    with pytest.raises(LogUnreadable, match="gzip bomb"):
        logs.read(logs.FORMATS[format], _members(tmp_path / "log.gz", good, line * ((4 << 20) // len(line)), 100, b""))


@ALL
def test_every_place_at_which_a_small_gzip_may_be_cut_off_is_noticed(format: str, tmp_path: Path) -> None:
    data = gzip.compress(random_log(format, random.Random(1), 3).encode())
    for end in range(2, len(data), 7):
        with pytest.raises(LogUnreadable, match=r"truncated|broken gzip"):
            logs.read(logs.FORMATS[format], write(tmp_path / "log.gz", data[:end]))


@ALL
def test_a_gzip_may_be_in_members_split_anywhere(format: str, tmp_path: Path) -> None:
    data = random_log(format, random.Random(2), 20).encode()
    whole = usage(logs.read(logs.FORMATS[format], write(tmp_path / "log.gz", data, packed=True)))
    for at in range(0, len(data), max(1, len(data) // 12)):
        parts = gzip.compress(data[:at]) + gzip.compress(b"") + gzip.compress(data[at:])
        assert usage(logs.read(logs.FORMATS[format], write(tmp_path / "log.gz", parts))) == whole


@ALL
def test_one_hostile_file_leaves_the_next_reading_as_it_was(format: str, tmp_path: Path) -> None:
    """DuckDB is kept from one reading to the next."""
    good = log_text(format, *[GOOD[format]()] * 3).encode()
    for bad in (
        good + b"x" * (2 << 20) + b"\n",
        gzip.compress(good)[:-9],
        b"\0" * 5000,
        gzip.compress(gzip.compress(good)),
    ):
        with pytest.raises(LogUnreadable):
            logs.read(logs.FORMATS[format], write(tmp_path / "bad", bad))
        assert logs.read(logs.FORMATS[format], write(tmp_path / "good", good)).counted == 3
