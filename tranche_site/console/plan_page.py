"""The page of plans: what each service should have, what it has, and what stands between. A dry run: looking writes nothing.

Without a search it shows what wants a look among the services that the planner itself looks at in this tick. Any other
steered service is found by its name, its customer or a hostname, and is planned when its page is shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from customers.models import Customer
from dns import planning, weights
from dns.models import Freeze, Pin, RecordSet, WeightChange
from dns.planning import ServicePlan
from services.models import Cdn, Service
from tranche_site.floor.console_admin import BaseDialogForm, asker, dangerous_action, settled

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User

MOST = 200
"""Services that are planned for one look."""
PAGE = 50
DOMAINS_SHOWN = 3
STATES = {
    "held": "Held",
    "refused": "Refused",
    "frozen": "Frozen",
    "failed": "Failed",
    "moving": "Moves",
    "under way": "Under way",
    "away": "Away from home",
    "calm": "As it should be",
}
"""In the order in which they are looked at."""
State = WeightChange.State


# --- what is shown --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lane:
    name: str
    cdns: str
    before: int
    after: int
    health: str
    why: str

    @property
    def is_primary(self) -> bool:
        return self.name == weights.PRIMARY

    @property
    def moves(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class Entry:
    """One service's plan, with all that is known of it."""

    plan: ServicePlan
    customer: str
    state: str
    lanes: list[Lane]
    refusal: tuple[str, str] | None
    """Its name and its text, of the guard now or of the change that is held."""
    held: WeightChange | None
    live: WeightChange | None
    """The newest change on its way, or the one that failed."""
    lagging: int
    """Domains that have something on its way, held or failed."""
    pin: Pin | None
    freezes: list[Freeze]

    @property
    def service(self) -> Service:
        return self.plan.service

    @property
    def title(self) -> str:
        return STATES[self.state]

    @property
    def refusal_name(self) -> str:
        return self.refusal[0].replace("_", " ") if self.refusal else ""

    @property
    def unarmed(self) -> list[tuple[str, list[RecordSet], int]]:
        """By reason: the first of its domains, and how many more there are."""
        by_reason: dict[str, list[RecordSet]] = defaultdict(list)
        for record_set in self.plan.record_sets:
            if not record_set.armed_at:
                by_reason[record_set.unarmed_reason].append(record_set)
        return [
            (reason, found[:DOMAINS_SHOWN], max(0, len(found) - DOMAINS_SHOWN)) for reason, found in by_reason.items()
        ]

    @property
    def armed_count(self) -> int:
        return sum(1 for record_set in self.plan.record_sets if record_set.armed_at)

    @property
    def moves(self) -> bool:
        return any(lane.moves for lane in self.lanes)


@dataclass(frozen=True, slots=True)
class _Found:
    """What hangs on the planned services, in a fixed number of queries."""

    newest: Mapping[int, WeightChange]
    """By record set, whatever became of it."""
    pins: Mapping[int, Pin]
    freezes: Sequence[Freeze]
    cdns: Mapping[int, str]
    customers: Mapping[int, str]

    @classmethod
    def of(cls, plans: Sequence[ServicePlan], now: datetime) -> _Found:
        rows = [record_set.pk for plan in plans for record_set in plan.record_sets]
        newest = (
            WeightChange.objects.filter(record_set__in=rows)
            .order_by("record_set_id", "-generation")
            .distinct("record_set_id")
        )
        pins = Pin.objects.filter(service__in=[plan.service.pk for plan in plans], expires_at__gt=now).order_by("pk")
        ids = {target.cdn_id for plan in plans for target in _paths(plan) if target.cdn_id}
        return cls(
            {change.record_set_id: change for change in newest},
            {pin.service_id: pin for pin in pins},
            list(Freeze.objects.filter(lifted_at__isnull=True).order_by("pk")),
            dict(Cdn.objects.filter(pk__in=ids).values_list("pk", "name")),
            dict(Customer.objects.filter(pk__in={p.service.customer_id for p in plans}).values_list("pk", "name")),
        )


def _paths(plan: ServicePlan) -> Iterable[Any]:
    for domain in plan.service.steered:  # type: ignore[attr-defined]
        yield from planning.paths(domain)


def read(service_ids: Iterable[int], now: datetime) -> list[Entry]:
    """Entries of these services, the most urgent first."""
    plans = planning.plan_services(now, list(service_ids))
    found = _Found.of(plans, now)
    entries = [_entry(plan, found) for plan in plans]
    order = list(STATES)
    return sorted(entries, key=lambda entry: (order.index(entry.state), entry.service.name, entry.service.pk))


def _entry(plan: ServicePlan, found: _Found) -> Entry:
    changes = [change for row in plan.record_sets if (change := found.newest.get(row.pk))]
    held = [change for change in changes if change.state == State.HELD]
    failed = [change for change in changes if change.state == State.FAILED]
    live = [change for change in changes if change.state in (State.WANTED, *WeightChange.UNDER_WAY)]
    refusal: tuple[str, str] | None = None
    if held:
        refusal = held[0].refusal or "held", held[0].held_reason.partition(": ")[2] or held[0].held_reason
    elif plan.refusal and plan.behind and not plan.is_frozen:
        refusal = plan.refusal[0].value, plan.refusal[1]
    return Entry(
        plan=plan,
        customer=found.customers[plan.service.customer_id],
        state=_state(plan, held=bool(held), failed=bool(failed), live=bool(live), refused=refusal is not None),
        lanes=_lanes(plan, found),
        refusal=refusal,
        held=held[0] if held else None,
        live=next(iter(live or failed), None),
        lagging=len(held or live or failed),
        pin=found.pins.get(plan.service.pk),
        freezes=[freeze for freeze in found.freezes if freeze.covers(plan.service)],
    )


def _state(plan: ServicePlan, *, held: bool, failed: bool, live: bool, refused: bool) -> str:
    if held:
        return "held"
    if plan.is_frozen:
        return "frozen"
    if refused:
        return "refused"
    if failed:
        return "failed"
    if plan.behind:
        return "moving"
    if live:
        return "under way"
    is_away = plan.here.get(weights.PRIMARY, 100) < 100 - weights.SMALL_MOVE_PERCENT
    return "away" if is_away else "calm"


def _lanes(plan: ServicePlan, found: _Found) -> list[Lane]:
    named: dict[str, set[str]] = defaultdict(set)
    for target in _paths(plan):
        named[planning.lane_of(target)].add(found.cdns.get(target.cdn_id, target.address))
    present = _present(plan, found)
    return [
        Lane(
            lane.key, ", ".join(sorted(named[lane.key])), present.get(lane.key, 0),
            plan.plan.percents.get(lane.key, 0), lane.health.value, _why(lane),
        )
        for lane in (plan.situation.primary, *plan.situation.backups)
    ]  # fmt: skip


def _present(plan: ServicePlan, found: _Found) -> Mapping[str, int]:
    """What DNS was last seen to answer, of a domain that is not yet where it should be, if there is one."""
    seen = [row for row in plan.record_sets if row.observed_weights]
    newest = {row.pk: found.newest.get(row.pk) for row in seen}
    late = [row for row in seen if (change := newest[row.pk]) and change.state != State.OBSERVED]
    for row in late or seen:
        domain = next(d for d in plan.service.steered if d.pk == row.domain_id)  # type: ignore[attr-defined]
        lanes = {str(target.pk): planning.lane_of(target) for target in domain.all_paths}
        shares = {lanes[key]: share for key, share in row.observed_weights.items() if key in lanes}
        if sum(shares.values()) == 100:
            return shares
    return plan.here


def _why(lane: weights.Lane) -> str:
    parts = [lane.problem] if lane.problem and lane.key != weights.PRIMARY else []
    if lane.share_bad:
        parts.append(f"{lane.share_bad:.0%} of its samples are bad")
    if lane.capacity_percent < 100:
        parts.append(f"takes {lane.capacity_percent} % of normal traffic")
    return "; ".join(parts)


# --- which services -------------------------------------------------------------------------------------------------


class AskForm(forms.Form):
    q = forms.CharField(required=False, max_length=100)
    show = forms.ChoiceField(required=False, choices=[("all", "all"), *((s, s) for s in STATES if s != "calm")])
    page = forms.IntegerField(required=False, min_value=1, max_value=1_000_000)


@dataclass(frozen=True, slots=True)
class Answer:
    entries: list[Entry]
    counts: list[tuple[str, str, int]]
    """State, its title, how many; of those that want a look."""
    left_out: int
    """Services that the planner looks at in this tick beyond those that were planned here."""
    page: Page[int] | None


def look(show: str, now: datetime) -> Answer:
    """What wants a look, or one state of it."""
    held = WeightChange.objects.filter(state=State.HELD).order_by("service_id").values_list("service_id", flat=True)
    frozen = Freeze.objects.filter(lifted_at__isnull=True, service__isnull=False).values_list("service_id", flat=True)
    ids = list(dict.fromkeys([*held.distinct(), *frozen, *planning.candidates(now)]))
    entries = [entry for entry in read(ids[:MOST], now) if entry.state != "calm"]
    number = Counter(entry.state for entry in entries)
    counts = [(state, title, number[state]) for state, title in STATES.items() if number[state]]
    chosen = [entry for entry in entries if show in ("", entry.state)]
    return Answer(chosen, counts, max(0, len(ids) - MOST), None)


def search(text: str, number: int, now: datetime) -> Answer:
    """Any steered service by its name, its customer's, or a hostname; all of them without a text."""
    page = Paginator(steered(text).values_list("pk", flat=True), PAGE).get_page(number)
    return Answer(read(page.object_list, now), [], 0, page)


def steered(text: str = "") -> QuerySet[Service]:
    rows = RecordSet.objects.live().filter(domain__service=OuterRef("pk"))
    services = Service.objects.live().filter(Exists(rows)).order_by("name", "pk")
    if text:
        named = Exists(rows.filter(domain__hostname__icontains=text))
        services = services.filter(Q(name__icontains=text) | Q(customer__name__icontains=text) | named)
    return services


# --- the page -------------------------------------------------------------------------------------------------------


def page(request: HttpRequest) -> HttpResponse:
    if not (request.user.has_perm("dns.view_weightchange") or request.user.has_perm("dns.change_weightchange")):
        raise PermissionDenied
    now = timezone.now()
    form = AskForm(request.GET)
    asked = form.cleaned_data if form.is_valid() else {}
    text, show = asked.get("q", ""), asked.get("show", "")
    answer = search(text, asked.get("page") or 1, now) if text or show == "all" else look(show, now)
    return render(
        request,
        "console/plan.html",
        {
            **admin.site.each_context(request), "title": "Plan", "answer": answer, "q": text, "show": show, "now": now,
            "may": _may(request.user), "frozen": Freeze.objects.filter(lifted_at__isnull=True, service__isnull=True),
        },
    )  # fmt: skip


def _may(user: User | AnonymousUser) -> dict[str, bool]:
    return {
        "decide": user.has_perm("dns.change_weightchange"),
        "pin": user.has_perm("dns.add_pin"),
        "end": user.has_perm("dns.change_pin"),
        "freeze": user.has_perm("dns.add_freeze"),
        "lift": user.has_perm("dns.change_freeze"),
    }


# --- a person's hand ------------------------------------------------------------------------------------------------


class HandForm(BaseDialogForm):
    reason = forms.CharField(max_length=300, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}))


class PinForm(HandForm):
    percent = forms.IntegerField(
        label="Percent for the first fit backup", min_value=0, max_value=100, widget=UnfoldAdminIntegerFieldWidget
    )
    hours = forms.IntegerField(
        label="For how many hours", min_value=1, max_value=24 * 31, initial=2, widget=UnfoldAdminIntegerFieldWidget
    )
    field_order = ("percent", "hours", "reason")


@dangerous_action
def pin(request: HttpRequest, service_id: int) -> HttpResponse:
    """Asks, and upon the answer fixes the service's weights for some hours."""
    service = _service(request, service_id, "dns.add_pin")
    form = PinForm(data=request.POST or None, request=request, object_id=service_id)
    if not form.is_valid():
        text = "Its weights are fixed, whatever probing says, until the time is over or somebody ends the pin."
        return _dialog(request, form, f"Pin {service}", text, "Pin")
    asked = form.cleaned_data
    made = Pin(
        customer_id=service.customer_id, service=service, backup_percent=asked["percent"], reason=asked["reason"],
        expires_at=timezone.now() + timedelta(hours=asked["hours"]), created_by=_user(request),
    )  # fmt: skip
    return _keep(request, made, f"{service} is pinned: {made.backup_percent} % to the backup.")


@dangerous_action
def freeze(request: HttpRequest, service_id: int) -> HttpResponse:
    """Asks, and upon the answer stops every automatic change of the service."""
    service = _service(request, service_id, "dns.add_freeze")
    form = HandForm(data=request.POST or None, request=request, object_id=service_id)
    if not form.is_valid():
        text = "Nothing of it is moved, in a storm neither, until somebody lifts the freeze."
        return _dialog(request, form, f"Freeze {service}", text, "Freeze")
    made = Freeze(
        customer_id=service.customer_id, service=service, reason=form.cleaned_data["reason"],
        created_by=_user(request),
    )  # fmt: skip
    return _keep(request, made, f"{service} is frozen.")


def _service(request: HttpRequest, service_id: int, permission: str) -> Service:
    if not request.user.has_perm(permission):
        raise PermissionDenied
    return get_object_or_404(Service.objects.live(), pk=service_id)


def _user(request: HttpRequest) -> User:
    user = request.user
    assert user.is_authenticated  # noqa: S101
    return user


def _dialog(request: HttpRequest, form: forms.Form, title: str, text: str, submit: str) -> HttpResponse:
    context = {"dialog": {"title": title, "description": text}, "form": form, "form_submit_text": submit}
    return render(request, "unfold/helpers/dialog.html", context)


def _keep(request: HttpRequest, made: Pin | Freeze, message: str) -> HttpResponse:
    with transaction.atomic():
        made.full_clean()
        made.save()
        made.tell()
        admin.site.get_model_admin(type(made)).log_addition(request, made, f"Added: {made.reason}")
    return settled(request, asker(request, reverse("admin:plan")), message)
