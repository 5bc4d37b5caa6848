"""The page of exposure: what cover would pay if a CDN failed now, as a picture that needs no script, and in figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.shortcuts import render
from django.utils import timezone

from billing.exposure import HOURS, Exposure, Ledger, Stake, exposure
from billing.money import format_minor
from tranche_site.floor.console_admin import data_size

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

WIDTH, BAR, GAP = 1000, 10, 2
LEAST_BAR = 2
"""What is at stake must be seen beside what is a thousand times as much."""


@dataclass(frozen=True, slots=True)
class Bar:
    y: int
    width: float
    hours: int
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    cdn: str
    services: int
    traffic: str
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Group:
    """One currency: its CDNs, the dearest first, and its last year."""

    currency: str
    rows: list[Row]
    premium: str
    collected: str
    cover: str
    ratio: str
    width: int = WIDTH
    height: int = len(HOURS) * (BAR + GAP)
    bar: int = BAR


def groups(found: Exposure) -> list[Group]:
    stakes: dict[str, list[Stake]] = defaultdict(list)
    for stake in found.stakes:
        stakes[stake.currency].append(stake)
    ledgers = {ledger.currency: ledger for ledger in found.ledgers}
    return [
        _group(currency, stakes[currency], ledgers.get(currency) or Ledger(currency, 0, 0, 0))
        for currency in sorted({*stakes, *ledgers})
    ]


def _group(currency: str, stakes: Sequence[Stake], ledger: Ledger) -> Group:
    most = max((minor for stake in stakes for minor in stake.at_stake.values()), default=0) or 1
    rows = [
        Row(stake.cdn, stake.services, f"{data_size(stake.bytes_an_hour)}/h", _bars(stake, most, currency))
        for stake in stakes
    ]
    ratio = f"{ledger.cover_minor / ledger.premium_minor:.0%} of the premium" if ledger.premium_minor else "no premium"
    return Group(
        currency, rows, format_minor(ledger.premium_minor, currency), format_minor(ledger.collected_minor, currency),
        format_minor(ledger.cover_minor, currency), ratio,
    )  # fmt: skip


def _bars(stake: Stake, most: int, currency: str) -> list[Bar]:
    bars = []
    for place, hours in enumerate(HOURS):
        minor = stake.at_stake[hours]
        width = max(round(WIDTH * minor / most, 1), LEAST_BAR) if minor else 0
        bars.append(Bar(place * (BAR + GAP), width, hours, format_minor(minor, currency)))
    return bars


def page(request: HttpRequest) -> HttpResponse:
    if not (request.user.has_perm("billing.view_invoice") or request.user.has_perm("billing.change_invoice")):
        raise PermissionDenied
    found = exposure(timezone.now())
    context = {
        **admin.site.each_context(request), "title": "Exposure", "as_of": found.as_of, "hours": HOURS,
        "groups": groups(found),
        "left_out": [(cdn, reason, count) for cdn, reasons in found.left_out.items() for reason, count in reasons.items()],
    }  # fmt: skip
    return render(request, "console/exposure.html", context)
