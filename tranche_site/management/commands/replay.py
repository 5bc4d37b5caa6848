"""`manage.py replay PACK.json`: recompute an evidence pack; exit 1 if anything differs. No database, no broker."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError

from billing import evidence as lines
from storms import evidence as storms

Pack = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """What replays a pack of one type and says what differs, and what that checks, in words."""

    replay: Callable[[Pack], Iterable[object]]
    checked: Callable[[Pack], list[str]]


def _checked_of_storm(pack: Pack) -> list[str]:
    return [
        f"the document's own SHA-256, {pack.get('sha256')}",
        f"{len(pack['entries'])} entries, each decided again; the storm and its {len(pack['storm']['spells'])} spells",
        f"every window and start, from {len(pack['samples'])} samples, and {len(pack['minutes'])} counts by the minute",
    ]


KINDS: Mapping[str, Kind] = {
    "storm": Kind(storms.replay, _checked_of_storm),
    "line": Kind(lines.replay, lines.checked),
}


class Command(BaseCommand):
    help = "Recompute an evidence pack, of a storm or of an invoice line, from what it holds, and say what differs."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="PACK.json", help="- is standard input")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        pack = _read(options["file"])
        kind = KINDS.get(str(pack.get("type")))
        if kind is None:
            raise CommandError(f"{options['file']}: type: must be one of {', '.join(KINDS)}", returncode=2)
        try:
            differs = [str(difference) for difference in kind.replay(pack)]
        except storms.EvidenceError as error:
            raise CommandError(f"{options['file']}: {error}", returncode=2) from None
        checked = kind.checked(pack)
        if options["json"]:
            told = {"type": pack["type"], "sha256": pack.get("sha256"), "checked": checked, "differs": differs}
            self.stdout.write(json.dumps(told, indent=2))
        else:
            for text in checked:
                self.stdout.write(f"checked  {text}")
            for text in differs:
                self.stdout.write(f"differs  {text}")
            if not differs:
                self.stdout.write(f"the {pack['type']} follows from its evidence (sha256 {pack.get('sha256')})")
        if differs:
            raise CommandError(f"{len(differs)} differences", returncode=1)


class _NoPackError(ValueError):
    """Why a text is no evidence pack."""


def _read(name: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        pack = json.loads(text, parse_float=_no_float, parse_constant=_no_float, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        problem = "it is cut off" if is_cut else "it is no JSON"
        raise CommandError(f"{name}: {problem}: {error}", returncode=2) from None
    except RecursionError:
        raise CommandError(f"{name}: it is nested too deeply for an evidence pack", returncode=2) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{name}: {error}", returncode=2) from None
    if not isinstance(pack, dict):
        raise CommandError(f"{name}: an evidence pack is one JSON object", returncode=2)
    return pack


def _no_float(number: str) -> NoReturn:
    raise _NoPackError(f"{number} is a float; in an evidence pack numbers are integers, or text that is exact")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a field that stands twice, one reader would take the first and another the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:n]))
        raise _NoPackError(f"“{twice}” stands twice in one object")
    return found
