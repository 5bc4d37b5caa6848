"""Samples on disk: they come back whole, late, in order, and never more than the bounds."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services import spool as spool_module
from services.samples import Row
from services.spool import FILES, Spool
from tests.services.test_samples import NOON, ROW


def rows(first: int, count: int) -> list[Row]:
    return [replace(ROW, slot_at=NOON + timedelta(seconds=n), is_late=False) for n in range(first, first + count)]


def everything(spool: Spool) -> list[Row]:
    found = []
    while taken := spool.oldest():
        path, there = taken
        found += there
        spool.remove(path)
    return found


def test_what_went_in_comes_out_late_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "not" / "there", 10**6, 900)
    assert spool.oldest() is None and spool.size_bytes == 0
    spool.append(rows(0, 3))
    spool.append([])
    spool.append([replace(ROW, certificate_expires_at=None, remote_address=None, reason="“ü”\n", status=None)])
    found = everything(spool)
    assert found[:3] == [replace(row, is_late=True) for row in rows(0, 3)]
    assert (found[3].certificate_expires_at, found[3].reason) == (None, "“ü”\n")
    assert spool.size_bytes == 0


def test_another_process_finds_it(tmp_path: Path) -> None:
    Spool(tmp_path, 10**6, 900).append(rows(0, 2))
    assert len(everything(Spool(tmp_path, 10**6, 900))) == 2


def test_what_is_taken_stays_until_it_is_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**6, 900)
    spool.append(rows(0, 2))
    first = spool.oldest()
    spool.append(rows(2, 2))  # goes into a file of its own: the first may be recorded just now
    assert spool.oldest() == first
    assert [row.slot_at.second for row in everything(spool)] == [0, 1, 2, 3]


def test_a_line_that_a_kill_cut_off_costs_only_itself(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10**6, 900)
    spool.append(rows(0, 3))
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-40])
    assert len(everything(spool)) == 2


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_it_never_holds_more_bytes_than_its_bound(tmp_path: Path, batch: int) -> None:
    most = 64 * 1024
    spool = Spool(tmp_path, most, 900)
    for first in range(0, 1200, batch):
        spool.append(rows(first, batch))
        assert spool.size_bytes <= max(most, 700 * batch)
    found = everything(spool)
    assert found[-1] == replace(rows(1199, 1)[0] if 1200 % batch == 0 else found[-1], is_late=True)
    slots = [row.slot_at for row in found]
    assert slots == [slots[0] + timedelta(seconds=n) for n in range(len(slots))], "the oldest go, none from between"


def test_it_never_holds_older_ones_than_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(time.time_ns(), 10**9)
    now = [next(clock)]
    monkeypatch.setattr(spool_module.time, "time_ns", lambda: now[0])
    spool = Spool(tmp_path, 10**9, 160)
    for n in range(400):
        now[0] = next(clock)
        spool.append(rows(n, 1))
    slots = [row.slot_at for row in everything(spool)]
    assert slots[-1] == NOON + timedelta(seconds=399)
    assert 160 - 160 / FILES - 2 <= len(slots) <= 161


def test_a_disk_that_fails_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Spool(tmp_path / "file", 10**6, 900).append(rows(0, 1))
