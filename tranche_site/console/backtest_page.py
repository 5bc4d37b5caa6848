"""The page that replays a service's samples under a policy, or two side by side. A GET form: a result can be linked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied
from django.forms.boundfield import BoundField
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from unfold.widgets import UnfoldAdminTextInputWidget

from billing.money import format_minor
from services.models import Service
from storms import terms
from storms.backtest import FoundStorm
from storms.models import StormPolicy
from storms.recordings import TooMuch
from storms.verdicts import Policy
from tranche_site import backtests
from tranche_site.backtests import Backtest, Side
from tranche_site.console import backtest_chart
from tranche_site.console.backtest_chart import Picture
from tranche_site.floor.console_admin import data_size

MAX_DAYS = 31
MOST_STORMS = 50
TERMS = {
    "threshold_avail": "Bad below this share",
    "window_seconds": "Window, seconds",
    "min_samples": "Samples for a verdict",
    "min_failures": "Failures for DOWN",
    "min_vantages": "Vantage points for a storm",
    "closing_samples": "Good samples that end it",
    "cooldown_seconds": "Cooldown, seconds",
}
AGAINST = "against_"
_LOCAL = "%Y-%m-%dT%H:%M:%S"


# --- the question --------------------------------------------------------------------------------------------------


class MomentInput(UnfoldAdminTextInputWidget):
    """A time in UTC. A link may write it with its zone, which the browser's own field would not show."""

    input_type = "datetime-local"

    def format_value(self, value: Any) -> str | None:
        try:
            moment = parse_datetime(value) if isinstance(value, str) else value
            return value if moment is None else _utc(moment).strftime(_LOCAL)
        except (ValueError, OverflowError):
            return value


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class TermRow:
    """One of a policy's terms: the service's own, and the fields of both policies."""

    label: str
    own: str
    fields: list[BoundField]


class BacktestForm(forms.Form):
    """A policy's field that is left blank means what stands to its left: the service's own, or the first policy's.

    So a link says no more than it must, and another service brings its own policy.
    """

    service = forms.ModelChoiceField(
        Service.objects.live(), widget=AutocompleteSelect(StormPolicy._meta.get_field("service"), admin.site)
    )
    start = forms.DateTimeField(label="From (UTC)", widget=MomentInput(attrs={"step": 1}))
    end = forms.DateTimeField(label="To (UTC)", widget=MomentInput(attrs={"step": 1}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own: Policy | None = None
        for prefix in ("", AGAINST):
            for name, label in TERMS.items():
                side = "against" if prefix else "policy"
                self.fields[prefix + name] = forms.CharField(
                    required=False,
                    widget=UnfoldAdminTextInputWidget(
                        attrs={"inputmode": "decimal", "autocomplete": "off", "aria-label": f"{label}, {side}"}
                    ),
                )

    def clean_start(self) -> datetime:
        return self._moment("start")

    def clean_end(self) -> datetime:
        return self._moment("end")

    def _moment(self, name: str) -> datetime:
        try:
            return _utc(self.cleaned_data[name])
        except OverflowError:
            raise forms.ValidationError("This is outside of the calendar.") from None

    def clean(self) -> dict[str, Any]:
        asked = self.cleaned_data
        start, end, service = (asked.get(name) for name in ("start", "end", "service"))
        if start and end and start >= end:
            self.add_error("start", "This is not before the end.")
        elif start and end and end - start > timedelta(days=MAX_DAYS):
            self.add_error("start", f"That is more than {MAX_DAYS} days before the end.")
        if service:
            self.own = backtests.policy_of(service)
            asked["policy"] = self._policy("", self.own) or self.own
            asked["against"] = self._policy(AGAINST, asked["policy"])
        return asked

    def _policy(self, prefix: str, base: Policy) -> Policy | None:
        """`base` with what was typed; None where nothing was, or nothing that could be taken."""
        for name in TERMS:
            self.fields[prefix + name].widget.attrs["placeholder"] = _said(getattr(base, name))
        typed = {name: text for name in TERMS if (text := self.cleaned_data.get(prefix + name))}
        if not typed:
            return None
        try:
            return terms.read(typed, **asdict(base))
        except terms.TermsError as error:
            name, _, what = str(error).partition(": ")
            is_shown = name in TERMS
            self.add_error(prefix + name if is_shown else None, what if is_shown else str(error))
            return None

    @property
    def term_rows(self) -> list[TermRow]:
        return [
            TermRow(label, _said(getattr(self.own, name)) if self.own else "", [self[name], self[AGAINST + name]])
            for name, label in TERMS.items()
        ]


def _said(value: Any) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


# --- the answer ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `values` are one for each policy."""

    label: str
    values: list[str]


@dataclass(frozen=True, slots=True)
class StormRow:
    storm: FoundStorm
    is_alone: bool
    detected_after: str
    length: str


@dataclass(frozen=True, slots=True)
class Column:
    """The storms of one policy, the first of them where there are many."""

    title: str
    storms: list[StormRow]
    left_out: int


@dataclass(frozen=True, slots=True)
class Answer:
    picture: Picture
    samples: int
    rows: list[Row]
    columns: list[Column]
    lacks_money: bool
    """No ledger, though whoever looks may see one."""


def _answer(backtest: Backtest, may_see_money: bool) -> Answer:
    sides = [backtest.side, *([backtest.against] if backtest.against else [])]
    titles = ["Policy", "Against"][: len(sides)]
    return Answer(
        picture=backtest_chart.draw(backtest),
        samples=len(backtest.recording),
        rows=list(_rows(sides, may_see_money)),
        columns=[_column(title, side) for title, side in zip(titles, sides, strict=True)],
        lacks_money=may_see_money and backtest.side.ledger is None,
    )


def _rows(sides: list[Side], may_see_money: bool) -> Iterator[Row]:
    def row(label: str, value: Callable[[Side], str]) -> Row:
        return Row(label, [value(side) for side in sides])

    for name, label in TERMS.items():
        told = row(label, lambda side, name=name: _said(getattr(side.policy, name)))  # type: ignore[misc]
        if len(set(told.values)) > 1:
            yield told
    yield row("Storms", lambda side: f"{len(side.result.storms):,}")
    if len(sides) > 1:
        yield row("Storms that the other has not", lambda side: f"{len(side.alone):,}")
    yield row("Minutes covered", lambda side: f"{side.result.covered_seconds / 60:,.1f}")
    yield row("Detected after, median", lambda side: _delay(side, median))
    yield row("Detected after, at most", lambda side: _delay(side, max))
    if may_see_money and all(side.ledger for side in sides):
        yield row("Bytes that the backup would have served", lambda side: data_size(_ledger(side).moved_bytes))
        yield row("Delivery would have cost more", lambda side: _money(side, _ledger(side).extra_minor))
        yield row("Cover would have paid", lambda side: _money(side, -_ledger(side).discount_minor))
        yield row("Net", lambda side: _money(side, _ledger(side).net_minor))
    counts = [Counter(found.kind for found in side.result.findings) for side in sides]
    for kind in sorted({kind for count in counts for kind in count}):
        yield Row(f"Findings: {kind}", [f"{count[kind]:,}" for count in counts])
    if not any(counts):
        yield row("Findings", lambda side: "0")


def _delay(side: Side, of: Callable[[list[float]], float]) -> str:
    delays = [storm.detection_seconds for storm in side.result.storms]
    return _length(of(delays)) if delays else "-"


def _ledger(side: Side) -> Any:
    return side.ledger


def _money(side: Side, amount_minor: int) -> str:
    currency = _ledger(side).currency
    return f"{format_minor(amount_minor, currency)} {currency}"


def _column(title: str, side: Side) -> Column:
    storms = side.result.storms
    rows = [
        StormRow(
            storm,
            storm in side.alone,
            _length(storm.detection_seconds),
            _length(((storm.ended_at or side.result.until) - storm.started_at).total_seconds()),
        )
        for storm in storms[:MOST_STORMS]
    ]
    return Column(title, rows, len(storms) - len(rows))


def _length(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


# --- the page ------------------------------------------------------------------------------------------------------


def page(request: HttpRequest) -> HttpResponse:
    if not (request.user.has_perm("storms.view_stormpolicy") or request.user.has_perm("storms.change_stormpolicy")):
        raise PermissionDenied
    form = _form(request, timezone.now())
    answer = _run(form, may_see_money=request.user.has_perm("billing.view_invoice")) if form.is_bound else None
    return render(
        request,
        "console/backtest.html",
        {
            **admin.site.each_context(request), "title": "Backtest", "form": form, "answer": answer,
            "has_services": form.is_bound or Service.objects.live().exists(), "days_kept": settings.SAMPLE_DAYS_KEPT,
        },
    )  # fmt: skip


def _form(request: HttpRequest, now: datetime) -> BacktestForm:
    """Asked as soon as a service is named; what else is missing has its default, the last 24 hours."""
    end = now.replace(second=0, microsecond=0)
    usual = {"start": (end - timedelta(days=1)).strftime(_LOCAL), "end": end.strftime(_LOCAL)}
    if "service" not in request.GET:
        return BacktestForm(initial=usual)
    return BacktestForm(usual | {name: value for name, value in request.GET.items() if value})


def _run(form: BacktestForm, may_see_money: bool) -> Answer | None:
    if not form.is_valid():
        return None
    try:
        return _answer(backtests.run(**_asked(form)), may_see_money)
    except TooMuch as error:
        form.add_error("start", f"There are {error}.")
        return None


def _asked(form: BacktestForm) -> dict[str, Any]:
    return {name: form.cleaned_data[name] for name in ("service", "start", "end", "policy", "against")}
