"""`manage.py backtest`: what a policy would have done, over a CSV of samples or over known outages. No database."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from storms import backtest, history, recordings, terms
from storms.backtest import Result
from storms.recordings import Recording
from storms.verdicts import Policy


class Command(BaseCommand):
    help = "Replay samples, or known outages, through the detector, and print the storms that it would have declared."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument(
            "--samples", metavar="FILE.csv", help=f"columns {','.join(recordings.COLUMNS)}; - is standard input"
        )
        what.add_argument(
            "--history", action="store_true", help="the shipped outages; exit 1 where one is not as expected"
        )
        parser.add_argument(
            "--policy", metavar="FILE.json", type=Path, help="a policy's fields; what is missing has its default"
        )
        parser.add_argument("--against", metavar="FILE.json", type=Path, help="a second policy, side by side")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["history"]:
            self._history(options)
        else:
            self._samples(options)

    # --- samples ----------------------------------------------------------------------------------------------------

    def _samples(self, options: dict[str, Any]) -> None:
        recorded = self._read(options["samples"])
        points = max((len(recording.vantage_points) for recording in recorded), default=1)
        policy = self._policy(options["policy"], min_vantages=min(2, points))
        results = [(_domain(recording), backtest.replay(recording, policy)) for recording in recorded]
        document = _document(results)
        other = []
        if options["against"]:
            policy = self._policy(options["against"], min_vantages=min(2, points))
            other = [(_domain(recording), backtest.replay(recording, policy)) for recording in recorded]
            document["against"] = _document(other)
        if options["json"]:
            self.stdout.write(json.dumps(document, indent=2, ensure_ascii=False))
            return
        self._print(results)
        if other:
            self.stdout.write(f"\n{options['against']}:")
            self._print(other)

    def _print(self, results: list[tuple[str, Result]]) -> None:
        for domain, result in results:
            for storm in result.storms:
                end = f"{storm.ended_at:%Y-%m-%d %H:%M:%S}" if storm.ended_at else "not yet"
                self.stdout.write(
                    f"storm    {domain}  {storm.started_at:%Y-%m-%d %H:%M:%S} to {end}, detected after "
                    f"{storm.detection_seconds:.1f} s: {storm.reason}"
                )
            for finding in result.findings:
                self.stdout.write(
                    f"finding  {domain}  {finding.at:%Y-%m-%d %H:%M:%S}  {finding.kind} ({finding.path}): {finding.reason}"
                )
        storms = sum(len(result.storms) for _, result in results)
        samples, looks = sum(r.samples for _, r in results), sum(r.looks for _, r in results)
        covered = sum(result.covered_seconds for _, result in results) / 60
        self.stdout.write(
            f"{storms} storms, {covered:.1f} minutes of them, in {samples:,} samples ({looks:,} looks of the detector)"
        )

    def _read(self, name: str) -> list[Recording]:
        try:
            if name == "-":
                return recordings.read_csv(sys.stdin)
            with Path(name).open(newline="", encoding="utf-8-sig") as lines:
                return recordings.read_csv(lines)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{name}: {error}") from None
        except recordings.RecordingError as error:
            raise CommandError(f"{name}, {error}") from None

    def _policy(self, path: Path | None, **defaults: Any) -> Policy:
        if path is None:
            return Policy(**defaults)
        try:
            return terms.loads(path.read_text(encoding="utf-8"), **defaults)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{path}: {error}") from None
        except terms.TermsError as error:
            raise CommandError(f"{path}: {error}") from None

    # --- history ----------------------------------------------------------------------------------------------------

    def _history(self, options: dict[str, Any]) -> None:
        policy = self._policy(options["policy"])
        incidents = list(history.incidents(history.read()))
        verdicts = []
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            for number, verdict in enumerate(pool.map(partial(history.replay, policy=policy), incidents), 1):
                verdicts.append(verdict)
                if not options["json"]:
                    self.stdout.write(_line(verdict))
                elif self.stderr.isatty():
                    self.stderr.write(f"{number} of {len(incidents)}: {verdict.incident}")
        wrong = [verdict for verdict in verdicts if verdict.problem]
        if options["json"]:
            self.stdout.write(
                json.dumps({"incidents": [_incident(v) for v in verdicts], "wrong": len(wrong)}, indent=2)
            )
        else:
            storms = sum(v.expected == "storm" for v in verdicts)
            self.stdout.write(
                f"{len(verdicts)} incidents, {storms} of them storms: {len(verdicts) - len(wrong)} as expected, "
                f"{len(wrong)} not"
            )
        if wrong:
            raise CommandError(f"not as expected: {', '.join(v.incident for v in wrong)}", returncode=1)


def _domain(recording: Recording) -> str:
    return next((path.domain for path in recording.paths), "")


def _document(results: list[tuple[str, Result]]) -> dict[str, Any]:
    return {
        "storms": [
            {
                "domain": domain, "kind": storm.kind, "started_at": _z(storm.started_at), "detected_at": _z(storm.detected_at),
                "ended_at": _z(storm.ended_at), "closed_at": _z(storm.closed_at), "attribution": storm.attribution,
                "relapses": storm.relapses, "reason": storm.reason,
            }
            for domain, result in results for storm in result.storms
        ],
        "findings": [
            {"at": _z(found.at), "domain": domain, "path": found.path, "kind": found.kind, "reason": found.reason}
            for domain, result in results for found in result.findings
        ],
    }  # fmt: skip


def _incident(verdict: history.Verdict) -> dict[str, Any]:
    storm = verdict.affected.storms[0] if verdict.affected.storms else None
    return {
        "incident": verdict.incident, "provider": verdict.provider, "expected": verdict.expected, "found": verdict.found,
        "problem": verdict.problem, "detection_seconds": storm.detection_seconds if storm else None,
        "started_at": _z(storm.started_at) if storm else None, "ended_at": _z(storm.ended_at) if storm else None,
        "covered_seconds": verdict.affected.covered_seconds,
        "findings": sorted({found.kind for found in verdict.affected.findings}),
    }  # fmt: skip


def _line(verdict: history.Verdict) -> str:
    said = verdict.problem or "as expected"
    text = f"{verdict.incident:22} expected {verdict.expected:8} found {verdict.found:8} {said}"
    if verdict.affected.storms:
        storm = verdict.affected.storms[0]
        end = f"{storm.ended_at:%H:%M:%S}" if storm.ended_at else "not yet"
        text += (
            f"; {storm.started_at:%Y-%m-%d %H:%M:%S} to {end}, detected after {storm.detection_seconds:.1f} s, "
            f"{verdict.affected.covered_seconds / 60:.0f} minutes covered, {storm.relapses} relapses"
        )
    elif kinds := sorted({found.kind for found in verdict.affected.findings}):
        text += f"; findings: {', '.join(kinds)}"
    return text


def _z(moment: datetime | None) -> str | None:
    """RFC 3339, UTC, to the millisecond where there is a fraction."""
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")
