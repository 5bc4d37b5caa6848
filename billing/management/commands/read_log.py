"""`manage.py read_log FORMAT FILE…`: bytes and requests per host and UTC hour. Needs no database, writes nothing."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import logs
from billing.logs.reading import SAMPLED
from billing.logs.sampling import rate_of

Hours = dict[str, dict[datetime, list[int]]]


class Command(BaseCommand):
    help = "Read CDN logs: bytes and requests per host and UTC hour. Writes nothing."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("format", metavar="FORMAT", help=", ".join(logs.FORMATS))
        parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="gzip or plain, whatever its name")
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument("--fields", metavar="JSON", help="the log's field names, as a JSON object (fastly)")
        parser.add_argument("--sample-rate", metavar="RATE", help="the share of requests in the log, such as 0.1")

    def handle(self, *, format: str, files: list[Path], **options: Any) -> None:
        if format not in logs.FORMATS:
            raise CommandError(f"Unknown format “{format}”. Formats: {', '.join(logs.FORMATS)}.")
        chosen, rate = logs.FORMATS[format], _rate(options["sample_rate"])
        if options["fields"] is not None:
            chosen = _with_fields(chosen, options["fields"])
        readings: dict[Path, logs.LogReading] = {}
        unreadable: list[dict[str, str]] = []
        for path in files:
            try:
                readings[path] = logs.read(chosen, path, sample_rate=rate)
            except (logs.LogUnreadable, logs.ReaderUnavailable) as error:
                unreadable.append({"file": str(path), "reason": str(error)})
        hours = _by_hour(list(readings.values()))
        if options["json"]:
            self.stdout.write(json.dumps(_document(readings, hours, unreadable), indent=2))
        else:
            self._print(readings, hours)
        for entry in unreadable:
            self.stderr.write(f"{entry['file']}: {entry['reason']}")
        if unreadable:
            raise SystemExit(1)

    def _print(self, readings: dict[Path, logs.LogReading], hours: Hours) -> None:
        width = max((len(host) for host in hours), default=4)
        self.stdout.write(f"{'host':{width}}  {'hour (UTC)':20}  {'bytes':>16}  {'requests':>10}")
        for host in sorted(hours):
            for hour, (size, requests) in sorted(hours[host].items()):
                self.stdout.write(f"{host:{width}}  {_iso(hour):20}  {size:16,}  {requests:10,}")
        for path, reading in readings.items():
            self.stdout.write(
                f"{path}: {reading.rows:,} rows: {reading.counted:,} counted, {reading.excluded:,} excluded by rule,"
                f" {reading.duplicates:,} duplicates, {reading.bad_rows:,} bad"
                f"{'; sampled, so the sums are estimates' if reading.grade == SAMPLED else ''}"
            )
            for bad in reading.bad:
                self.stdout.write(f"  line {bad.line}: {bad.reason}")


def _with_fields(format: logs.Format, text: str) -> logs.Format:
    try:
        names = json.loads(text)
    except ValueError as error:
        raise CommandError(f"--fields is not JSON: {error}") from error
    if not isinstance(names, dict):
        raise CommandError("--fields is not a JSON object.")
    try:
        return format.with_fields(names)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _rate(text: str | None) -> Fraction:
    try:
        return rate_of(None if text is None else Decimal(text))
    except (ValueError, InvalidOperation) as error:
        raise CommandError(f"--sample-rate {text}: it must be a number above 0, and 1 at most.") from error


def _by_hour(readings: list[logs.LogReading]) -> Hours:
    hours: Hours = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for reading in readings:
        for line in reading.usage:
            volume = hours[line.host][datetime.fromtimestamp(line.minute // 60 * 3600, UTC)]
            volume[0] += line.bytes
            volume[1] += line.requests
    return hours


def _document(readings: dict[Path, logs.LogReading], hours: Hours, unreadable: list[dict[str, str]]) -> dict[str, Any]:
    all_readings = readings.values()
    return {
        "rows": sum(reading.rows for reading in all_readings),
        "bad_rows": sum(reading.bad_rows for reading in all_readings),
        "excluded": sum(reading.excluded for reading in all_readings),
        "duplicates": sum(reading.duplicates for reading in all_readings),
        "bad": [
            {"line": bad.line, "reason": bad.reason} | ({"file": str(path)} if len(readings) > 1 else {})
            for path, reading in readings.items()
            for bad in reading.bad
        ],
        "hosts": {
            host: {
                _iso(hour): {"bytes": size, "requests": requests}
                for hour, (size, requests) in sorted(hours[host].items())
            }
            for host in sorted(hours)
        },
        "unreadable": unreadable,
    }


def _iso(hour: datetime) -> str:
    return f"{hour:%Y-%m-%dT%H:%M:%SZ}"
