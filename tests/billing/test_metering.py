"""Collecting usage: each object counts once, nothing is dropped, and one bad object holds up no other."""

from __future__ import annotations

import errno
import gzip
import os
import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models import Sum

from billing import metering
from billing.logs import HostMinute, LogReading
from billing.metering import Action, CollectReport, Outcome
from billing.models import LogObject, UnknownHostUsage, UsageBucket, UsageSnapshot, UsageSource
from billing.sources import ListedObject
from customers.models import Event
from services.models import Cdn, Target
from tests import factories
from tests.billing.log_lines import AT, logpush, write
from tranche_site.floor import faults

NOW = datetime(2026, 3, 2, tzinfo=UTC)
START = datetime.fromtimestamp(AT, UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture
def cdn() -> Cdn:
    return factories.cdn()


@pytest.fixture
def path(cdn: Cdn) -> Target:
    """A primary path of www.example.com over the CDN."""
    return factories.target(domain=factories.domain(hostname="www.example.com"), cdn=cdn)


@pytest.fixture
def source(cdn: Cdn, path: Target, tmp_path: Path) -> UsageSource:
    return directory_source(cdn, tmp_path)


def directory_source(cdn: Cdn, directory: Path, **more: Any) -> UsageSource:
    fields = {"name": directory.name, "kind": "directory", "format": "cloudflare_logpush"}
    return UsageSource.objects.create(**fields | {"cdn": cdn, "location": str(directory)} | more)


def collect(source: UsageSource, *, apply: bool = True) -> CollectReport:
    return metering.collect(source, apply=apply, now=NOW)


def deliver(directory: Path, name: str, *rows: str) -> Path:
    """Write a log, each time with a later time of modification, as a delivery has."""
    path = write(directory / name, "".join(f"{row}\n" for row in rows), packed=True)
    deliver.clock += 1  # type: ignore[attr-defined]
    os.utime(path, ns=(0, deliver.clock))  # type: ignore[attr-defined]
    return path


deliver.clock = AT * 10**9  # type: ignore[attr-defined]


def totals(model: Any) -> tuple[int, int]:
    sums = model.objects.aggregate(requests=Sum("requests", default=0), bytes=Sum("bytes", default=0))
    return sums["requests"], sums["bytes"]


def snapshots_are_sums() -> bool:
    """Every snapshot is what its buckets sum up to, and every bucket is in one."""
    return totals(UsageSnapshot) == totals(UsageBucket) and all(
        (snapshot.requests, snapshot.bytes)
        == tuple(
            UsageBucket.objects.filter(
                service_id=snapshot.service_id,
                target_id=snapshot.target_id,
                minute_at__gte=snapshot.window_start,
                minute_at__lt=snapshot.window_end,
            )
            .aggregate(requests=Sum("requests", default=0), bytes=Sum("bytes", default=0))
            .values()
        )
        for snapshot in UsageSnapshot.objects.all()
    )


def test_a_log_becomes_minutes_and_hours_of_its_path(source: UsageSource, path: Target, tmp_path: Path) -> None:
    later = [logpush(EdgeStartTimestamp=AT + seconds) for seconds in (59, 60, 3600)]
    deliver(tmp_path, "a.log.gz", logpush(), *later, "bad")
    report = collect(source)
    assert [(o.outcome, o.rows, o.bad_rows, o.requests, o.bytes) for o in report.objects] == [
        (Outcome.COUNTED, 5, 1, 4, 4000)
    ]
    buckets = UsageBucket.objects.order_by("minute_at").values_list("minute_at", "requests", "bytes", "target", "grade")
    assert list(buckets) == [
        (START, 2, 2000, path.pk, "E2"),
        (START + timedelta(minutes=1), 1, 1000, path.pk, "E2"),
        (START + timedelta(hours=1), 1, 1000, path.pk, "E2"),
    ]
    hours = UsageSnapshot.objects.order_by("window_start").values_list(
        "window_start", "window_end", "requests", "bytes", "service", "customer"
    )
    assert path.domain is not None
    owner = (path.domain.service_id, path.domain.customer_id)
    assert list(hours) == [
        (START, START + timedelta(hours=1), 3, 3000, *owner),
        (START + timedelta(hours=1), START + timedelta(hours=2), 1, 1000, *owner),
    ]
    row = LogObject.objects.get()
    assert (row.state, row.rows, row.bad_rows, row.bad) == (
        "counted", 5, 1, [{"line": 5, "reason": "not a JSON object with Logpush fields"}],
    )  # fmt: skip
    source.refresh_from_db()
    assert (source.listed_at, source.last_error) == (NOW, "")


def test_a_dry_run_says_what_is_new_and_stores_nothing(source: UsageSource, tmp_path: Path) -> None:
    deliver(tmp_path, "a.log.gz", logpush())
    report = collect(source, apply=False)
    assert [(entry.key, entry.action, entry.outcome) for entry in report.objects] == [("a.log.gz", Action.COUNT, None)]
    source.refresh_from_db()
    assert not LogObject.objects.exists()
    assert source.listed_at is None


def test_the_same_object_counts_once(source: UsageSource, tmp_path: Path) -> None:
    deliver(tmp_path, "a.log.gz", logpush())
    collect(source)
    report = collect(source)
    assert (report.listed, report.objects) == (1, [])
    assert totals(UsageBucket) == (1, 1000)


def test_a_changed_object_replaces_what_it_had_counted(source: UsageSource, tmp_path: Path) -> None:
    deliver(tmp_path, "a.log.gz", *[logpush()] * 5, *[logpush(ClientRequestHost="unknown.example")] * 2)
    deliver(tmp_path, "b.log.gz", logpush())
    collect(source)
    deliver(tmp_path, "a.log.gz", logpush(EdgeStartTimestamp=AT + 3600))
    report = collect(source)
    assert [(entry.key, entry.action, entry.outcome) for entry in report.objects] == [
        ("a.log.gz", Action.REPLACE, Outcome.COUNTED)
    ]
    assert list(UsageSnapshot.objects.order_by("window_start").values_list("requests", flat=True)) == [1, 1]
    assert not UnknownHostUsage.objects.exists()
    assert sorted(LogObject.objects.values_list("key", "state")) == [
        ("a.log.gz", "counted"), ("a.log.gz", "replaced"), ("b.log.gz", "counted"),
    ]  # fmt: skip
    assert snapshots_are_sums()


def test_an_earlier_version_that_comes_back_counts_again(source: UsageSource, tmp_path: Path) -> None:
    first = deliver(tmp_path, "a.log.gz", *[logpush()] * 3)
    content, moment = first.read_bytes(), first.stat().st_mtime_ns
    collect(source)
    deliver(tmp_path, "a.log.gz", logpush())
    collect(source)
    assert totals(UsageBucket) == (1, 1000)
    first.write_bytes(content)
    os.utime(first, ns=(0, moment))
    collect(source)
    assert totals(UsageBucket) == totals(UsageSnapshot) == (3, 3000)
    assert LogObject.objects.filter(state="counted").count() == 1


def test_a_broken_object_is_tried_three_times_and_holds_up_nobody(source: UsageSource, tmp_path: Path) -> None:
    deliver(tmp_path, "a.log.gz", logpush())
    deliver(tmp_path, "c.log.gz", logpush())
    write(tmp_path / "b.log.gz", gzip.compress(logpush().encode() * 100)[:-9])
    outcomes = [[(o.key[0], o.action, o.outcome) for o in collect(source).objects] for _ in range(4)]
    assert outcomes == [
        [("a", "count", "counted"), ("b", "count", "failed"), ("c", "count", "counted")],
        [("b", "retry", "failed")],
        [("b", "retry", "quarantined")],
        [],
    ]
    row = LogObject.objects.get(key="b.log.gz")
    assert (row.state, row.attempts, row.reason) == ("quarantined", 3, "truncated: the gzip stream ends too early")
    event = Event.objects.get(kind="usage.object_quarantined")
    assert (event.subject_type, event.subject_id, event.customer_id) == ("logobject", row.pk, None)
    assert totals(UsageBucket) == (2, 2000)

    deliver(tmp_path, "b.log.gz", logpush())
    assert [entry.outcome for entry in collect(source).objects] == [Outcome.COUNTED]
    assert set(LogObject.objects.filter(key="b.log.gz").values_list("state", flat=True)) == {"counted", "replaced"}
    assert totals(UsageBucket) == (3, 3000)


def test_a_broken_new_version_leaves_what_was_counted(source: UsageSource, tmp_path: Path) -> None:
    deliver(tmp_path, "a.log.gz", logpush())
    collect(source)
    (tmp_path / "a.log.gz").write_bytes(b"\x1f\x8b broken")
    for _ in range(3):
        collect(source)
    assert totals(UsageBucket) == (1, 1000)
    assert sorted(LogObject.objects.values_list("state", flat=True)) == ["counted", "quarantined"]


def test_sums_beyond_64_bits_are_a_broken_object(source: UsageSource, tmp_path: Path) -> None:
    path = deliver(tmp_path, "a.log.gz", logpush())
    with path.open("wb") as file:
        file.write(gzip.compress((logpush(EdgeResponseBytes=10**13) + "\n").encode() * 1_000_000, 1))
    assert [entry.outcome for entry in collect(source).objects] == [Outcome.FAILED]


# --- whose usage it is --------------------------------------------------------------------------------------------


def test_hosts_without_a_path_are_kept_with_a_reason(source: UsageSource, cdn: Cdn, tmp_path: Path) -> None:
    factories.target(domain=factories.domain(verified=False, hostname="claimed.example.com"), cdn=cdn)
    factories.target(domain=factories.domain(hostname="elsewhere.example.com"))
    witnessed = factories.domain(hostname="witnessed.example.com")
    factories.target("origin", domain=witnessed, cdn=cdn)
    hosts = ("claimed", "elsewhere", "witnessed", "nobody", "www")
    deliver(tmp_path, "a.log.gz", *[logpush(ClientRequestHost=f"{host}.example.com") for host in hosts])
    report = collect(source)
    nobody, no_path = "no verified domain has this hostname", f"the domain has no path over {cdn}"
    assert dict(UnknownHostUsage.objects.values_list("host", "reason")) == {
        "claimed.example.com": nobody,
        "elsewhere.example.com": no_path,
        "witnessed.example.com": no_path,
        "nobody.example.com": nobody,
    }
    assert (report.objects[0].requests, report.objects[0].unknown_requests) == (5, 4)
    assert totals(UsageBucket) == (1, 1000)


def test_a_customers_source_counts_for_no_other(cdn: Cdn, path: Target, tmp_path: Path) -> None:
    other = factories.customer()
    deliver(tmp_path, "a.log.gz", logpush())
    collect(directory_source(cdn, tmp_path, customer=other))
    assert UnknownHostUsage.objects.get().reason == "the hostname belongs to another customer than this source"
    assert not UsageBucket.objects.exists()


def test_usage_before_a_deletion_still_counts(source: UsageSource, path: Target, cdn: Cdn, tmp_path: Path) -> None:
    """And after it, it counts for whoever has the hostname then."""
    assert path.domain is not None
    path.domain.deleted_at = START + timedelta(minutes=2)
    path.domain.save()
    deliver(tmp_path, "a.log.gz", *[logpush(EdgeStartTimestamp=AT + 60 * minute) for minute in range(5)])
    collect(source)
    assert list(UsageBucket.objects.order_by("minute_at").values_list("target", flat=True)) == [path.pk] * 2
    assert UnknownHostUsage.objects.count() == 3

    successor = factories.target(domain=factories.domain(hostname="www.example.com"), cdn=cdn)
    deliver(tmp_path, "a.log.gz", *[logpush(EdgeStartTimestamp=AT + 60 * minute) for minute in range(5)])
    collect(source)
    assert list(UsageBucket.objects.order_by("minute_at").values_list("target", flat=True)) == [
        path.pk, path.pk, successor.pk, successor.pk, successor.pk,
    ]  # fmt: skip
    assert snapshots_are_sums()


def test_a_deleted_service_ends_its_hostnames_too(source: UsageSource, path: Target, tmp_path: Path) -> None:
    assert path.domain is not None
    path.domain.service.deleted_at = START
    path.domain.service.save()
    deliver(tmp_path, "a.log.gz", logpush(), logpush(EdgeStartTimestamp=AT - 1))
    collect(source)
    assert totals(UsageBucket) == totals(UnknownHostUsage) == (1, 1000)


def test_of_two_paths_over_one_cdn_the_one_in_use_counts(source: UsageSource, path: Target, tmp_path: Path) -> None:
    backup = factories.target("backup", domain=path.domain, cdn=path.cdn)
    deliver(tmp_path, "a.log.gz", logpush())
    collect(source)
    assert UsageBucket.objects.get().target_id == path.pk
    Target.objects.filter(pk=path.pk).update(enabled=False)
    deliver(tmp_path, "b.log.gz", logpush())
    collect(source)
    assert set(UsageBucket.objects.values_list("target", flat=True)) == {path.pk, backup.pk}


# --- nothing is lost or doubled -----------------------------------------------------------------------------------


def test_replays_in_any_order_leave_the_same_totals(source: UsageSource, cdn: Cdn, tmp_path: Path) -> None:
    """R-20: duplicates, late objects and replays; what comes out is exactly the distinct lines that went in."""
    chance = random.Random(20)
    factories.target("backup", domain=factories.domain(hostname="api.example.com"), cdn=cdn)
    files, lines = {}, {}
    for number in range(40):
        rows = []
        for index in range(chance.randrange(30)):
            ray = f"{number}-{index}"
            host = chance.choice(["www.example.com", "api.example.com:443", "unknown.example"])
            size, at = chance.randrange(10**6), AT + chance.randrange(24 * 3600)
            lines[ray] = size
            rows.append(logpush(RayID=ray, ClientRequestHost=host, EdgeResponseBytes=size, EdgeStartTimestamp=at))
        files[f"{number}.log.gz"] = rows + chance.choices(rows, k=len(rows) // 5)
    for _ in range(3):
        names = list(files)
        chance.shuffle(names)
        for name in names[: len(names) // 2 + 1]:
            chance.shuffle(files[name])
            deliver(tmp_path, name, *files[name])
            if chance.random() < 0.2:
                collect(source)
    for name in files:
        deliver(tmp_path, name, *files[name])
    collect(source)
    known, unknown = totals(UsageBucket), totals(UnknownHostUsage)
    assert (known[0] + unknown[0], known[1] + unknown[1]) == (len(lines), sum(lines.values()))
    assert snapshots_are_sums()


def test_what_counts_is_rows_less_bad_excluded_and_duplicates(source: UsageSource, tmp_path: Path) -> None:
    worker = logpush(WorkerSubrequest=True)
    deliver(tmp_path, "a.log.gz", *[logpush(RayID="a")] * 3, worker, "bad", logpush(ClientRequestHost="unknown"))
    (entry,) = collect(source).objects
    assert entry.rows == entry.requests + entry.excluded + entry.duplicates + entry.bad_rows == 6
    assert entry.requests == totals(UsageBucket)[0] + totals(UnknownHostUsage)[0] == 2
    row = LogObject.objects.get()
    assert (row.excluded_rows, row.duplicate_rows, row.bad_rows) == (1, 2, 1)


def test_a_run_that_dies_before_it_commits_leaves_nothing(source: UsageSource, tmp_path: Path) -> None:
    deliver(tmp_path, "a.log.gz", logpush())

    def die() -> None:
        raise KeyboardInterrupt

    faults.arm("billing.counted", die)
    try:
        with pytest.raises(KeyboardInterrupt):
            collect(source)
    finally:
        faults.disarm()
    assert not LogObject.objects.exists()
    assert not UsageBucket.objects.exists()
    collect(source)
    assert totals(UsageSnapshot) == (1, 1000)


@pytest.mark.django_db(transaction=True)
def test_runs_at_the_same_time_count_each_object_once(source: UsageSource, cdn: Cdn, tmp_path: Path) -> None:
    """Four runs over one source, and as many over another that touches the same hours of the same path."""
    other_directory = tmp_path / ".other"
    other_directory.mkdir()
    other = directory_source(cdn, other_directory)
    for number in range(12):
        deliver(tmp_path, f"{number}.log.gz", *[logpush()] * 10)
        deliver(other_directory, f"{number}.log.gz", *[logpush()] * 10)
    write(tmp_path / "broken.gz", b"\x1f\x8b broken")
    start = threading.Barrier(8)
    errors: list[BaseException] = []

    def run(which: UsageSource) -> None:
        try:
            start.wait()
            collect(which)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(which,)) for which in (source, other) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert totals(UsageBucket) == totals(UsageSnapshot) == (240, 240_000)
    assert LogObject.objects.filter(state="counted", attempts=1).count() == 24
    assert LogObject.objects.filter(key="broken.gz").count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_slow_run_does_not_undo_a_newer_version(
    source: UsageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(tmp_path, "a.log.gz", logpush())
    read = metering._read

    def read_while_another_run_counts(*told: Any) -> Any:
        reading = read(*told)
        monkeypatch.setattr(metering, "_read", read)
        deliver(tmp_path, "a.log.gz", *[logpush()] * 5)
        collect(source)
        return reading

    monkeypatch.setattr(metering, "_read", read_while_another_run_counts)
    (entry,) = collect(source).objects
    assert entry.outcome == Outcome.SKIPPED
    assert totals(UsageBucket) == (5, 5000)


def test_a_source_that_cant_be_listed_holds_up_no_other(cdn: Cdn, source: UsageSource, tmp_path: Path) -> None:
    missing = directory_source(cdn, tmp_path / "missing", name="0 comes first")
    directory_source(cdn, tmp_path / "off", name="switched off", enabled=False)
    deliver(tmp_path, "a.log.gz", logpush())
    reports = metering.collect_all(apply=True, now=NOW)
    assert [(report.source, bool(report.error), len(report.objects)) for report in reports] == [
        ("0 comes first", True, 0), (source.name, False, 1),
    ]  # fmt: skip
    missing.refresh_from_db()
    assert missing.last_error.endswith("missing: No such file or directory")
    assert missing.listed_at is None


def test_a_file_that_nobody_may_read_is_given_up_and_holds_up_no_other(
    source: UsageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.log", "b.log"):
        deliver(tmp_path, name, logpush())
    real = Path.open

    def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "a.log":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    for _ in range(4):
        assert collect(source).error == ""
    assert dict(LogObject.objects.values_list("key", "state")) == {"a.log": "quarantined", "b.log": "counted"}
    monkeypatch.undo()
    assert metering.read_again(LogObject.objects.all()) == 1
    collect(source)
    assert set(LogObject.objects.values_list("state", flat=True)) == {"counted"}


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_a_fault_of_this_machine_is_held_against_no_object(
    source: UsageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    deliver(tmp_path, "a.log", logpush())

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr("tempfile.TemporaryDirectory", failing)
    for _ in range(5):
        assert "this machine can't read" in collect(source).error
    assert not LogObject.objects.exists()
    monkeypatch.undo()
    collect(source)
    assert LogObject.objects.get().state == "counted"


def test_what_nobody_foresaw_of_one_source_holds_up_no_other(
    source: UsageSource, cdn: Cdn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    second = directory_source(cdn, other, name="the other one")
    deliver(other, "b.log", logpush())
    real = metering.collect

    def broken(of: UsageSource, **kw: Any) -> CollectReport:
        if of.pk == source.pk:
            raise ValueError("a source that nobody foresaw")
        return real(of, **kw)

    monkeypatch.setattr(metering, "collect", broken)
    reports = {report.source: report.error for report in metering.collect_all(apply=True, now=datetime.now(UTC))}
    assert reports == {source.name: "ValueError: a source that nobody foresaw", second.name: ""}
    assert LogObject.objects.get().state == "counted"


def test_what_was_merged_between_listing_and_counting_is_not_counted_again(source: UsageSource, tmp_path: Path) -> None:
    deliver(tmp_path, "a.log", logpush())
    collect(source)
    counted = LogObject.objects.get()
    listed = ListedObject(counted.key, "another version", 1)
    work = metering._work(listed, [counted])
    assert work
    LogObject.objects.update(merged_at=datetime.now(UTC))
    report = metering.ObjectReport(counted.key, 1, Action.REPLACE)
    reading = LogReading(1, 1, 0, 0, 0, (), [HostMinute("www.example.com", AT, 1, 1)])
    before = totals(UsageBucket)
    metering._settle(source, work, reading, report, datetime.now(UTC))
    assert report.outcome == Outcome.SKIPPED and totals(UsageBucket) == before
