"""`manage.py replay PACK.json`: recompute an evidence pack; exit 1 if anything differs. No database, no broker."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from storms import evidence

KINDS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {"storm": evidence.replay}
"""What replays a pack of each type; it returns what differs."""


class Command(BaseCommand):
    help = "Recompute an evidence pack from what it holds, and say what differs."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="PACK.json", help="- is standard input")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        pack = self._read(options["file"])
        replay = KINDS.get(str(pack.get("type")))
        if replay is None:
            raise CommandError(f"type: must be one of {', '.join(KINDS)}", returncode=2)
        try:
            differs = replay(pack)
        except evidence.EvidenceError as error:
            raise CommandError(f"{options['file']}: {error}", returncode=2) from None
        if options["json"]:
            self.stdout.write(
                json.dumps({"type": pack["type"], "sha256": pack.get("sha256"), "differs": differs}, indent=2)
            )
        else:
            for line in differs:
                self.stdout.write(f"differs  {line}")
            if not differs:
                self.stdout.write(f"the {pack['type']} follows from its evidence (sha256 {pack.get('sha256')})")
        if differs:
            raise CommandError(f"{len(differs)} differences", returncode=1)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
            pack = json.loads(text, parse_float=str)
        except (OSError, ValueError, RecursionError) as error:
            raise CommandError(f"{name}: {error}", returncode=2) from None
        if not isinstance(pack, dict):
            raise CommandError(f"{name}: an evidence pack is one JSON object", returncode=2)
        return pack
