"""A decision as JSON, and a storm's whole evidence as one document that anybody can replay. Pure.

The document is canonical: keys sorted, no spaces, times in RFC 3339 with UTC, exact numbers as text, no floats. Its
`sha256` is that of its canonical form without that field.

`replay` recomputes, from the document alone:

* every transition, from all that it was decided from (the windows of every path and vantage point, the policy's version,
  the storm as it stood, maintenance);
* the storm's start and its spells, from those transitions;
* the start and the end of each spell, and every window, from the raw samples;
* the counts by the minute, from the raw samples.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import combinations
from typing import Any

from services.maintenance import Span
from services.outcomes import BAD, SET_ASIDE, Outcome
from storms import cases, detector, verdicts
from storms.cases import Case, Path
from storms.detector import Storm
from storms.verdicts import Kind, Policy, Seen, VantagePoint, Window

FORMAT = 1
IN_FLIGHT, MOST_IN_FLIGHT = timedelta(seconds=5), 8
"""A sample may be recorded this long after its probe was over; until then a window need not have it. That many at most."""


class EvidenceError(Exception):
    """The document can't be read; says which field is wrong."""


# --- values to JSON and back -----------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Dataclasses, times, exact numbers and enums as JSON values."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def time(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise EvidenceError(f"“{text}” is no time") from None
    if moment.tzinfo is None:
        raise EvidenceError(f"“{text}” says no time zone")
    return moment


def _maybe(text: Any) -> datetime | None:
    return None if text is None else time(text)


def read_case(document: Mapping[str, Any]) -> Case:
    """The case that `plain` wrote."""
    try:
        return Case(
            policy=read_policy(document["policy"]),
            now=time(document["now"]),
            vantage_points=tuple(VantagePoint(**point) for point in document["vantage_points"]),
            domains=tuple(tuple(_path(path) for path in paths) for paths in document["domains"]),
            current=_storm(document["current"]),
            previous=_storm(document["previous"]),
            maintenance={
                int(target): Span(**{**span, "start": time(span["start"]), "end": time(span["end"])})
                for target, span in document["maintenance"].items()
            },
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise EvidenceError(f"a case can't be read: {error!r}") from None


def read_policy(document: Mapping[str, Any]) -> Policy:
    exact = {field.name for field in fields(Policy) if isinstance(field.default, Decimal)}
    values: dict[str, Any] = {name: Decimal(value) if name in exact else value for name, value in document.items()}
    return Policy(**{**values, "kind": Kind(document["kind"])})


def _path(document: Mapping[str, Any]) -> Path:
    return Path(
        **{
            **document,
            "windows": {point: _window(window) for point, window in document["windows"].items()},
            "silent_since": _maybe(document["silent_since"]),
            "certificate_expires_at": _maybe(document["certificate_expires_at"]),
        }
    )


def _window(document: Mapping[str, Any]) -> Window:
    times = ("newest_at", "newest_good_at", "bad_since", "good_run_started_at")
    return Window(**{**document, **{name: _maybe(document[name]) for name in times}})


def _storm(document: Mapping[str, Any] | None) -> Storm | None:
    if document is None:
        return None
    times = ("started_at", "last_bad_at", "ended_at", "closed_at")
    return Storm(**{**document, **{name: _maybe(document[name]) for name in times}})


# --- the document ----------------------------------------------------------------------------------------------------


def canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(pack: Mapping[str, Any]) -> str:
    bare = {name: value for name, value in pack.items() if name != "sha256"}
    return hashlib.sha256(canonical(bare).encode()).hexdigest()


def sealed(pack: Mapping[str, Any]) -> dict[str, Any]:
    return {**pack, "sha256": digest(pack)}


def minutes(samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Samples counted by target, vantage point and minute, in this order."""
    counts: dict[tuple[int, str, str], dict[str, int]] = defaultdict(
        lambda: {"good": 0, "bad": 0, "set_aside": 0, "blind": 0}
    )
    for sample in samples:
        if sample["outcome"] == Outcome.UNKNOWN:
            continue
        minute = time(sample["at"]).replace(second=0, microsecond=0)
        count = counts[sample["target"], sample["vantage_point"], plain(minute)]
        if sample["is_blind"]:
            count["blind"] += 1
        elif sample["outcome"] in BAD:
            count["bad"] += 1
        else:
            count["set_aside" if sample["outcome"] in SET_ASIDE else "good"] += 1
    return [
        {"target": target, "vantage_point": point, "minute_at": minute, **counts[target, point, minute]}
        for target, point, minute in sorted(counts)
    ]


# --- replay ----------------------------------------------------------------------------------------------------------


def replay(pack: Mapping[str, Any]) -> list[str]:
    """What differs between the document and what follows from it; empty if nothing does."""
    if pack.get("type") != "storm" or pack.get("format") != FORMAT:
        raise EvidenceError(f"type and format must be “storm” and {FORMAT}")
    try:
        return list(_replay(pack))
    except (KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(f"the document can't be read: {error!r}") from None


def _replay(pack: Mapping[str, Any]) -> Iterable[str]:
    if pack.get("sha256") not in (None, digest(pack)):
        yield "sha256: the document was changed after it was sealed"
    storm, entries = pack["storm"], pack["entries"]
    series = _series(pack["samples"])
    told = iter(storm["spells"])
    spells: list[list[str | None]] = []
    stands: Storm | None = None
    for entry in entries:
        if entry["case"] is None:
            stands = _by_hand(entry, stands, storm, spells)
            continue
        case = read_case(entry["case"])
        seen = cases.views(case)
        decision = cases.decide(case, seen)
        if (decision.action, decision.reason) != (entry["action"], entry["reason"]):
            yield f"{entry['at']}: {entry['action']} ({entry['reason']}) is now {decision.action} ({decision.reason})"
            continue
        kept = pack["policies"].get(entry["policy"], {})
        if not kept or any(kept.get(name, value) != value for name, value in plain(case.policy).items()):
            yield f"{entry['at']}: it was not decided by version {entry['policy']} of the policy"
        if stands and not _is_same(stands, case.current or case.previous):
            yield f"{entry['at']}: the storm that it was decided about is not what the entries before had made of it"
        yield from _windows_hold(case, series, entry["at"])
        if decision.begins:
            if stands is None:
                yield from _opened_so(pack, entry, case, decision)
            start = _start(case, decision, seen, series, next(told, [None])[0])
            spells.append([plain(start), None])
            relapses = stands.relapses + 1 if stands else 0
            stands = Storm(stands.started_at if stands else start, case.now, relapses=relapses)
        elif decision.action is detector.Action.END and spells and stands:
            spells[-1][1] = plain(decision.at)
            stands = replace(stands, ended_at=decision.at)
        elif stands:
            stands = replace(stands, closed_at=case.now)
    if stands is None:
        yield "entries: nothing in them begins a storm"
    elif spells != storm["spells"]:
        yield f"spells: {storm['spells']} are now {spells}"
    else:
        made = {name: plain(getattr(stands, name)) for name in ("started_at", "ended_at", "closed_at", "relapses")}
        if wrong := [name for name, value in made.items() if storm[name] != value]:
            yield f"storm: {', '.join(wrong)} not what its entries say"
    if minutes(pack["samples"]) != pack["minutes"]:
        yield "minutes: they are not the counts of the samples"


def _by_hand(
    entry: Mapping[str, Any], stands: Storm | None, storm: Mapping[str, Any], spells: list[list[str | None]]
) -> Storm | None:
    """What a person did, or the watch for want of anybody to judge it; there is nothing to decide again."""
    at = time(entry["at"])
    if entry["action"] == "declare":
        spells.append([plain(at), None])
        return Storm(at, at)
    if stands is None:
        return None
    ended_at = stands.ended_at or max(at, stands.started_at)
    if entry["action"] == "close" and stands.ended_at is None and storm["ended_at"]:
        ended_at = min(ended_at, time(storm["ended_at"]))  # it ended where it was last seen bad
    if spells and spells[-1][1] is None:
        spells[-1][1] = plain(ended_at)
    return replace(stands, ended_at=ended_at, closed_at=max(at, ended_at))


def _opened_so(
    pack: Mapping[str, Any], entry: Mapping[str, Any], case: Case, decision: detector.Decision
) -> Iterable[str]:
    """Whether the storm is of the kind, the attribution and the CDN that its opening decided, and armed as the policy was."""
    cdns = {target["target"]: target["cdn"] for target in pack["targets"]}
    made = {
        "kind": case.policy.kind.value,
        "attribution": decision.attribution.value,
        "detected_at": entry["at"],
        "is_armed": pack["policies"].get(entry["policy"], {}).get("mode") == "armed",
        "cdn": cdns.get(decision.down_targets[0]),
    }
    if wrong := [name for name, value in made.items() if pack["storm"][name] != value]:
        yield f"storm: {', '.join(wrong)} not what its opening decided"


def _is_same(made: Storm, decided_about: Storm | None) -> bool:
    """When it was last seen bad moves without an entry, and is left out."""
    return decided_about is not None and made == replace(decided_about, last_bad_at=made.last_bad_at)


def _series(samples: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str], list[tuple[Seen, datetime]]]:
    """(sample, when it was over) by target and vantage point, in order of time; what came late decides nothing."""
    series: dict[tuple[int, str], list[tuple[Seen, datetime]]] = defaultdict(list)
    for sample in samples:
        if not sample["is_late"]:
            at, took = time(sample["at"]), float(sample["total_ms"] or 0)
            seen = Seen(at, sample["outcome"], took, sample["reason"], sample["is_blind"])
            series[sample["target"], sample["vantage_point"]].append((seen, at + timedelta(milliseconds=took)))
    for rows in series.values():
        rows.sort(key=lambda row: row[0].at)
    return series


def _windows_hold(case: Case, series: Mapping[tuple[int, str], list[tuple[Seen, datetime]]], at: str) -> Iterable[str]:
    """Whether the samples bear out the windows, to the last field: with all that was over for a while, and any of what may
    have been on its way."""
    for path in (path for paths in case.domains for path in paths):
        for point, window in path.windows.items():
            rows = [row for row in series.get((path.target, point), []) if row[0].at <= case.now]
            if window.newest_at is not None and not _bears_out(rows, window, case):
                said = (window.good, window.bad, window.blocked)
                yield f"{at}: the samples of target {path.target} from {point} don't bear out {said} good, bad and blocked"


def _bears_out(rows: list[tuple[Seen, datetime]], window: Window, case: Case) -> bool:
    pending = sorted((row for row in rows if row[1] > case.now - IN_FLIGHT), key=lambda row: row[1])[-MOST_IN_FLIGHT:]
    chosen = {id(row) for row in pending}
    settled = [row for row in rows if id(row) not in chosen]
    for count in range(len(pending), -1, -1):
        for some in combinations(pending, count):
            known = sorted((seen for seen, _ in [*settled, *some]), key=lambda seen: seen.at)
            made = verdicts.window(known, case.policy, case.now)
            # Also a vantage point that found out just then that it is blind has no vote.
            if replace(made, is_blind=window.is_blind) == window and window.is_blind >= made.is_blind:
                return True
    return False


def _start(
    case: Case,
    decision: detector.Decision,
    seen: Mapping[int, verdicts.PathView],
    series: Mapping[tuple[int, str], list[tuple[Seen, datetime]]],
    told: str | None,
) -> datetime:
    """The first failing sample of the run that led to a transition, out of the raw samples: what is `told`, if any of what
    was on its way just then makes it so."""
    made = [_start_by(case, decision, seen, series, known_by) for known_by in (None, case.now, case.now - IN_FLIGHT)]
    return next((start for start in made if plain(start) == told), made[0])


def _start_by(
    case: Case,
    decision: detector.Decision,
    seen: Mapping[int, verdicts.PathView],
    series: Mapping[tuple[int, str], list[tuple[Seen, datetime]]],
    known_by: datetime | None,
) -> datetime:
    def judged(target: int, point: str) -> Iterable[tuple[datetime, str]]:
        return (
            (s.at, s.outcome)
            for s, over in series.get((target, point), [])
            if case.now - detector.START_LOOKBACK < s.at <= case.now
            and (known_by is None or over <= known_by)
            and s.has_vote
        )

    return cases.start(case, decision, seen, judged)
