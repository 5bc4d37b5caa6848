"""`manage.py probe HOST --via TARGET`: one probe through one path; no database, no broker."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from services import headers, hostnames, statuses
from services.probe import Family, Probe, Reply, Verdict, classify
from services.transport import Transport

PHASES = ("dns", "connect", "tls", "first_byte", "total")


class Command(BaseCommand):
    help = "Probe one host through one path and say what came back. Exit 0 for any outcome."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("host", type=_host, help="Host header and TLS server name")
        parser.add_argument(
            "--via", type=_target, metavar="TARGET[:PORT]", help="where to connect: name, address or [v6]"
        )
        parser.add_argument("--path", default="/")
        parser.add_argument("--expect", type=_statuses, default="200-399", help="codes that are good: 200-299,304")
        parser.add_argument("--body", default="", help="text that must stand in the first 64 KiB of the body")
        parser.add_argument("--ca", type=Path, metavar="FILE", help="trust only the authorities in this PEM file")
        parser.add_argument(
            "--allow-private", action="store_true", help="also loopback and private addresses, any port"
        )
        parser.add_argument("--family", type=int, choices=(4, 6), default=0, help="only IPv4, or only IPv6")
        parser.add_argument("--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'")
        parser.add_argument("--timeout", type=float, default=5.0, metavar="S")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["path"].startswith("/"):
            raise CommandError("--path: begin with a slash.")
        if options["timeout"] <= 0:
            raise CommandError("--timeout: give a number of seconds above 0.")
        if options["ca"] and not options["ca"].is_file():
            raise CommandError(f"--ca: there is no file {options['ca']}.")
        address, port = options["via"] or (options["host"], 443)
        probe = Probe(
            host=options["host"],
            address=address,
            port=port,
            path=options["path"],
            headers=headers.lines(dict(options["header"])),
            family=Family(options["family"]),
            expected=options["expect"],
            body_marker=options["body"].encode(),
            timeout_seconds=options["timeout"],
            allow_private=options["allow_private"] or settings.PROBE_ALLOW_PRIVATE,
            ca_file=str(options["ca"] or ""),
        )
        reply = asyncio.run(_send(probe))
        verdict = classify(probe, reply)
        told = _as_json(reply, verdict)
        if options["json"]:
            self.stdout.write(json.dumps(told))
        else:
            self._write(told, reply)

    def _write(self, told: dict[str, Any], reply: Reply) -> None:
        phases = ", ".join(f"{name} {ms:.1f}" for name, ms in told["phases_ms"].items() if ms is not None)
        self.stdout.write(f"{told['outcome']}{': ' + told['reason'] if told['reason'] else ''}")
        self.stdout.write(f"  status        {told['status'] or '-'}")
        self.stdout.write(f"  milliseconds  {phases or '-'}")
        if expires := reply.certificate_expires_at:
            days = f"{told['certificate_days']} days left, until {expires:%Y-%m-%d}"
            self.stdout.write(f"  certificate   {days}, by {reply.certificate_issuer}")
        self.stdout.write(f"  address       {told['remote_address'] or '-'}")


async def _send(probe: Probe) -> Reply:
    transport = Transport(in_flight=1)
    try:
        return await transport.send(probe)
    finally:
        transport.close()


def _as_json(reply: Reply, verdict: Verdict) -> dict[str, Any]:
    phases = {name: getattr(reply, f"{name}_ms") for name in PHASES}
    expires = reply.certificate_expires_at
    return {
        "outcome": verdict.outcome.value,
        "status": reply.status,
        "phases_ms": {name: None if ms is None else round(ms, 3) for name, ms in phases.items()},
        "certificate_days": (expires - datetime.now(UTC)).days if expires else None,
        "remote_address": reply.remote_address,
        "reason": verdict.reason,
    }


def _host(text: str) -> str:
    host = hostnames.normalize(text)
    if reason := hostnames.problem(host):
        raise ArgumentTypeError(reason)
    return host


def _target(text: str) -> tuple[str, int]:
    """“name”, “name:port”, “1.2.3.4:port”, “::1”, “[::1]:port”."""
    name, port = text, "443"
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or "443"
    elif text.count(":") == 1:
        name, port = text.split(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ArgumentTypeError(f"“{port}” is not a port")
    try:
        hostnames.validate_target(name)
    except ValidationError as error:
        raise ArgumentTypeError(error.messages[0]) from None
    return name, int(port)


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    if reason := headers.problem({name: value.strip()}):
        raise ArgumentTypeError(reason)
    return name, value.strip()


def _statuses(text: str) -> frozenset[int]:
    try:
        return statuses.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
