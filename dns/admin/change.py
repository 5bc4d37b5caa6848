"""Weight changes: where each stands, why it waits, how it was written, and how traffic drained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse

from dns import steering
from dns.admin import drain_curve
from dns.admin.attempt import outcome, took
from dns.admin.shown import CHANGE_COLOURS, operator, path_names, stacked, trouble_colour, weights, worded
from dns.models import WeightChange, WriteAttempt
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    RangeDateTimeFilter,
    ReadOnly,
    asker,
    coloured,
    confirmed,
    confirmed_for_many,
    display,
    moment,
    settled,
    two_lines,
)

if TYPE_CHECKING:
    from django.db.models import QuerySet

MOST_ATTEMPTS = 50


@admin.register(WeightChange)
class WeightChangeAdmin(ReadOnly):
    list_display = ["name", "weights_text", "state_label", "why", "wanted"]
    list_select_related = ["record_set__domain", "record_set__account", "service", "storm__service"]
    list_filter = [
        "state",
        "refusal",
        "trouble",
        "is_urgent",
        "is_reversal",
        ("service", AutocompleteSelectFilter),
        ("storm", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
        ("wanted_at", RangeDateTimeFilter),
    ]
    search_fields = ["record_set__domain__hostname", "service__name", "reason"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("service", "record_set"), ("generation", "region"), ("weights_text", "state_label"), "reason",
                    ("storm", "is_reversal"), ("refusal_label", "is_urgent"), ("held_reason", "approved_by"),
                ],
            },
        ),
        (
            "Its life",
            {
                "fields": [
                    ("wanted_at", "submitted_at"), ("confirmed_at", "observed_at"), ("seconds", "attempts"),
                    ("next_attempt_at", "trouble_label"), "error", "receipt",
                ],
            },
        ),
    ]  # fmt: skip
    actions = ["approve_selected", "reject_selected"]
    actions_detail = ["approve", "reject"]
    change_form_outer_after_template = "console/written.html"
    empty_hint = "No weights were changed yet. `manage.py steer` prints what would be."

    def get_queryset(self, request: HttpRequest) -> QuerySet[WeightChange]:
        return super().get_queryset(request).prefetch_related("record_set__domain__targets__cdn")

    @display(description="domain", ordering="record_set__domain__hostname")
    def name(self, change: WeightChange) -> str:
        return two_lines(change.record_set.domain, f"{change.service.name}, generation {change.generation}")

    @display(description="weights")
    def weights_text(self, change: WeightChange) -> str:
        moved: dict[str, int | str] = {}
        for key, share in change.weights.items():
            before = change.previous_weights.get(key)
            moved[key] = f"{before} → {share}" if before not in (None, share) else share
        return weights(moved, path_names(change.record_set.domain))

    @display(description="state", ordering="state")
    def state_label(self, change: WeightChange) -> str:
        parts = [coloured(change.get_state_display().lower(), CHANGE_COLOURS[change.state])]
        if change.refusal and change.state == WeightChange.State.HELD:
            parts.append(self.refusal_label(change))
        if change.trouble:
            parts.append(self.trouble_label(change))
        if change.is_urgent and change.state in WeightChange.LIVE:
            parts.append(coloured("urgent", "info"))
        return stacked(parts)

    @display(description="refusal", ordering="refusal")
    def refusal_label(self, change: WeightChange) -> str:
        return coloured(worded(change.refusal), "warning") if change.refusal else "-"

    @display(description="trouble", ordering="trouble")
    def trouble_label(self, change: WeightChange) -> str:
        return coloured(worded(change.trouble), trouble_colour(change.trouble)) if change.trouble else "-"

    @display(description="reason")
    def why(self, change: WeightChange) -> str:
        if change.state == WeightChange.State.HELD:
            return change.held_reason.removeprefix(f"{change.refusal}: ")
        return two_lines(change.reason, change.error) if change.error else change.reason

    @display(description="wanted (UTC)", ordering="wanted_at")
    def wanted(self, change: WeightChange) -> str:
        observed = f"observed after {self.seconds(change)}" if change.observed_at else "not observed"
        return two_lines(moment(change.wanted_at), observed)

    @display(description="observed after")
    def seconds(self, change: WeightChange) -> str:
        return f"{(change.observed_at - change.wanted_at).total_seconds():.1f} s" if change.observed_at else "-"

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Any = None, **kw: Any
    ) -> HttpResponse:
        found = WriteAttempt.objects.filter(change_ids__contains=[obj.pk]).select_related("account")
        context["written"] = [(attempt, outcome(attempt), took(attempt)) for attempt in found[:MOST_ATTEMPTS]]
        context["drain"] = drain_curve.draw(obj)
        answer: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kw)
        return answer

    # --- a person's word ---

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("dns.change_weightchange")

    def offers(self, action_name: str, row: WeightChange) -> bool:
        return row.state == WeightChange.State.HELD

    @confirmed(
        "Approve",
        "Traffic moves as soon as this is written, for every domain of the service that is held.",
        submit="Approve",
        permission="decide",
        icon="check",
        variant=ActionVariant.SUCCESS,
        dangerous=True,
    )
    def approve(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        change = self.row_of(request, object_id, "approve")
        steering.approve(change, operator(request))
        self.log_change(request, change, f"Approved: {form.cleaned_data['reason']}")
        return settled(request, asker(request, self.url_of(change)), f"{change.service}: the held plan is approved.")

    @confirmed(
        "Reject",
        "Traffic stays where it is, for every domain of the service that is held. "
        "The plan comes back while the situation wants it; a freeze keeps it away.",
        submit="Reject",
        permission="decide",
        icon="close",
        variant=ActionVariant.DANGER,
        dangerous=True,
    )
    def reject(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        change = self.row_of(request, object_id, "reject")
        steering.reject(change, operator(request))
        self.log_change(request, change, f"Rejected: {form.cleaned_data['reason']}")
        return settled(request, asker(request, self.url_of(change)), f"{change.service}: the held plan is rejected.")

    @confirmed_for_many(
        "Approve held plans",
        "Traffic of every service among the ticked plans moves as soon as they are written, whatever held them.",
        submit="Approve",
        permission="decide",
        dangerous=True,
    )
    def approve_selected(self, request: HttpRequest, queryset: QuerySet[WeightChange], reason: str) -> None:
        self._decide(request, queryset, steering.approve, "Approved", reason)

    @confirmed_for_many(
        "Reject held plans",
        "Traffic stays where it is. The plans come back while the situation wants them; a freeze keeps them away.",
        submit="Reject",
        permission="decide",
        dangerous=True,
    )
    def reject_selected(self, request: HttpRequest, queryset: QuerySet[WeightChange], reason: str) -> None:
        self._decide(request, queryset, steering.reject, "Rejected", reason)

    def _decide(
        self, request: HttpRequest, chosen: QuerySet[WeightChange], decide: Any, word: str, reason: str
    ) -> None:
        """One decision a service: it moves as a whole."""
        held = chosen.filter(state=WeightChange.State.HELD).order_by("service_id", "pk").distinct("service_id")
        decided = list(held)
        for change in decided:
            decide(change, operator(request))
            self.log_change(request, change, f"{word}: {reason}")
        level = messages.SUCCESS if decided else messages.WARNING
        self.message_user(request, f"{word}: the held plans of {len(decided)} services.", level)
