"""What a person may do to a storm: declare one, end it, acknowledge it, note something. Each with a name and a reason."""

from __future__ import annotations

from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from customers.models import Event
from services.models import Service, Target
from storms import transitions
from storms.detector import Attribution
from storms.models import Kind, PathVerdict, StormEntry, StormEvent
from storms.verdicts import Verdict

Action = StormEntry.Action


def declare(service: Service, reason: str, by: str, now: datetime) -> StormEvent:
    """A storm by a person's word. It moves traffic like any other, to a backup that is proven fit, and is marked as manual.

    Raises ValidationError where one is open already, or the service has nothing to protect.
    """
    primary = (
        Target.objects.live().filter(role=Target.Role.PRIMARY, domain__service=service, domain__verified_at__isnull=False)
        .order_by("id").first()
    )  # fmt: skip
    if primary is None:
        raise ValidationError("This service has no verified domain with a primary path: there is nothing to move.")
    try:
        with transaction.atomic():
            storm = StormEvent.objects.create(
                customer_id=service.customer_id, service=service, cdn_id=primary.cdn_id, kind=Kind.MANUAL, is_armed=True,
                attribution=Attribution.MANUAL, started_at=now, detected_at=now, last_bad_at=now,
                spells=[transitions.spell(now, None)], reason=f"declared by {by}: {reason}",
            )  # fmt: skip
            _note(storm, Action.DECLARE, reason, by, now)
    except IntegrityError:
        raise ValidationError("A storm declared by hand is open for this service already.") from None
    return storm


def finish(storm: StormEvent, reason: str, by: str, now: datetime) -> None:
    """End and close a storm by a person's word.

    Raises ValidationError for one that the probes still see: they would open it again. A pin or a freeze is what is meant
    there.
    """
    with transaction.atomic():
        row = StormEvent.objects.select_for_update().get(pk=storm.pk)
        if row.closed_at:
            raise ValidationError("This storm is closed already.")
        down = PathVerdict.objects.filter(
            target__domain__service=row.service_id, target__role=Target.Role.PRIMARY, target__enabled=True,
            verdict=Verdict.DOWN, newest_good_at__isnull=False,
        )  # fmt: skip
        if row.kind != Kind.MANUAL and down.exists():
            raise ValidationError(
                "The primary is still DOWN: the storm would open again at once. Pin the weights or freeze the service."
            )
        row.ended_at = row.ended_at or max(now, row.started_at)
        row.closed_at = max(now, row.ended_at)
        row.spells = transitions.ended(row, row.ended_at)
        row.closing_reason = f"ended by {by}: {reason}"
        row.save(update_fields=["ended_at", "closed_at", "spells", "closing_reason"])
        _note(row, Action.FINISH, reason, by, now)


def acknowledge(storm: StormEvent, reason: str, by: str, now: datetime) -> None:
    """Somebody has seen it. Changes nothing about it."""
    with transaction.atomic():
        StormEvent.objects.filter(pk=storm.pk, acknowledged_at__isnull=True).update(acknowledged_at=now)
        _note(storm, Action.ACKNOWLEDGE, reason, by, now)


def annotate(storm: StormEvent, text: str, by: str, now: datetime) -> None:
    StormEntry.objects.create(storm=storm, at=now, action=Action.NOTE, reason=text, by=by)


_NEWS = {Action.DECLARE: "storm.opened", Action.FINISH: "storm.closed", Action.ACKNOWLEDGE: "storm.acknowledged"}


def _note(storm: StormEvent, action: StormEntry.Action, reason: str, by: str, now: datetime) -> None:
    StormEntry.objects.create(storm=storm, at=now, action=action, reason=reason, by=by)
    summary = f"Storm at {storm.service}: {action.label} by {by}: {reason}"
    Event.record(_NEWS[action], storm, summary, customer_id=storm.customer_id, service=storm.service_id)
