"""Each second of a storm is covered, or it is said why it isn't."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing import losses
from billing.losses import Losses
from billing.models import Contract, CoverRuling, Invoice
from billing.templatetags.losses import length
from dns.models import Drill, RecordSet, WeightChange
from services.models import Service
from storms.models import StormEvent
from tests import factories
from tests.billing.story import APRIL_3, GB, at, billed_customer, shift, storm, use
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db
HOUR = 3600.0


@pytest.fixture
def service() -> Service:
    return billed_customer()[1]


def found(row: StormEvent) -> Losses:
    row.refresh_from_db()
    return losses.of_storm(row, APRIL_3)


def reasons(row: StormEvent) -> dict[str, float]:
    return {loss.reason: loss.seconds for loss in found(row).losses}


def terms(**kw: Any) -> None:
    Contract.objects.update(**kw)


def held(row: StormEvent, **kw: Any) -> WeightChange:
    record_set = RecordSet.objects.get(domain__service=row.service)
    told: dict[str, Any] = {
        "wanted_at": row.detected_at,
        "state": "held",
        "refusal": "blast_radius",
        "held_reason": "blast_radius: 40 domains at once",
    }
    return WeightChange.objects.create(
        customer=row.customer, service=row.service, record_set=record_set, generation=99, weights={}, reason="storm",
        storm=row, **told | kw,
    )  # fmt: skip


def test_a_storm_that_is_covered_whole_has_no_loss(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11))
    assert found(row) == Losses(2 * HOUR, 2 * HOUR, [])


def test_what_kept_failing_is_said_in_seconds_and_bytes(service: Service) -> None:
    terms(waiting_seconds=600)
    for minute in range(60):
        use(service, "primary", at(5, 9, minute), GB)
    use(service, "backup", at(5, 9, 5), 7 * GB)
    row = storm(service, at(5, 9), at(5, 11))
    (loss,) = found(row).losses
    assert (loss.reason, loss.seconds, loss.primary_bytes) == ("the waiting time of 600 s", 600.0, 10 * GB)
    assert found(row).covered_seconds == 2 * HOUR - 600


def test_waiting_time_and_hours_clause(service: Service) -> None:
    terms(waiting_seconds=600, hours_clause_seconds=1800)
    row = storm(service, at(5, 9), at(5, 11))
    assert reasons(row) == {
        "the waiting time of 600 s": 600.0, "beyond the 1800 s that one event is paid": 2 * HOUR - 2400
    }  # fmt: skip
    terms(waiting_seconds=7200)
    assert reasons(row) == {"not longer than the waiting time of 7200 s": 2 * HOUR}


@pytest.mark.parametrize(
    ("kw", "said"),
    [
        ({"is_armed": False}, "the policy only watched"),
        ({"incident": None}, "no witness yet beyond the customer's own paths"),
        ({"attribution": "origin_fault"}, "attributed to origin_fault"),
        ({"kind": "manual", "attribution": "manual"}, "manual storms are not covered"),
    ],
)
def test_a_storm_that_does_not_pay_says_why(service: Service, kw: dict[str, Any], said: str) -> None:
    row = storm(service, at(5, 9), at(5, 11), **kw)
    ((reason, seconds),) = reasons(row).items()
    assert reason.startswith(said) and seconds == 2 * HOUR
    assert found(row).covered_seconds == 0


def test_a_persons_word_says_why(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11))
    CoverRuling.objects.create(customer=row.customer, storm=row, is_covered=False, reason="a test", ruled_by="ann")
    row = StormEvent.objects.get(pk=row.pk)
    assert list(reasons(row)) == ["refused by a person: a test (ann)"]


def test_detection_and_dns_take_their_time(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11), seen=False, detected_at=at(5, 9, 1))
    shift(service, at(5, 9, 3), at(5, 11), row)
    change = WeightChange.objects.earliest("pk")
    change.wanted_at = at(5, 9, 1)
    change.save()
    assert reasons(row) == {"not detected yet": 60.0, "DNS did not show our shift yet": 120.0}
    assert found(row).covered_seconds == 2 * HOUR - 180


def test_a_shift_that_was_held_says_why_and_until_when(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11), seen=False)
    held(row)
    assert reasons(row) == {"the shift was held: 40 domains at once": 2 * HOUR}
    WeightChange.objects.all().delete()
    shift(service, at(5, 9, 30), at(5, 11), row)
    held(row, state="observed", submitted_at=at(5, 9, 29), observed_at=at(5, 9, 30))
    WeightChange.objects.filter(generation__lt=99).update(wanted_at=at(5, 9, 29))
    assert reasons(row) == {"the shift was held: 40 domains at once": 29 * 60.0, "DNS did not show our shift yet": 60.0}


def test_an_unfit_backup_and_a_shift_that_failed(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11), seen=False)
    assert reasons(row) == {losses.NO_SHIFT: 2 * HOUR}
    factories.finding(
        service=service, kind="backup_unfit", reason="its certificate expired", first_seen_at=at(5, 8),
        last_seen_at=at(5, 10), resolved_at=at(5, 10),
    )  # fmt: skip
    assert reasons(row) == {"no fit backup: its certificate expired": HOUR, losses.NO_SHIFT: HOUR}
    held(row, state="failed", refusal="", held_reason="", wanted_at=at(5, 10))
    assert reasons(row) == {"no fit backup: its certificate expired": HOUR, "the shift could not be written": HOUR}


def test_what_never_pays_is_named(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11))
    Drill.objects.create(
        customer=service.customer, service=service, state="passed", started_at=at(5, 9), ended_at=at(5, 9, 10)
    )
    assert reasons(row) == {"a drill": 600.0}


def test_an_aggregate_that_is_used_up(service: Service) -> None:
    terms(aggregate_seconds=5400)
    assert reasons(storm(service, at(5, 9), at(5, 10))) == {}
    assert reasons(storm(service, at(8, 9), at(8, 10))) == {"the policy year's aggregate is used up": 1800.0}
    contract = Contract.objects.get()
    Invoice.objects.create(
        customer=service.customer, contract=contract, prices=contract.rate_card.versions.get(), currency="USD",
        period_start=at(1) - timedelta(days=28), period_end=at(1), as_of=at(1), formula="F",
        cover_used={str(service.pk): 5400 * 10**6},
    )  # fmt: skip
    assert reasons(StormEvent.objects.earliest("started_at")) == {"the policy year's aggregate is used up": HOUR}


def test_without_terms_nothing_is_covered(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11))
    Contract.objects.all().delete()
    assert reasons(row) == {losses.NO_TERMS: 2 * HOUR}


def test_the_parts_are_the_whole(service: Service) -> None:
    terms(waiting_seconds=300, hours_clause_seconds=5000, discount_rate=Decimal("0.5"))
    row = storm(service, at(5, 9), at(5, 11), seen=False, detected_at=at(5, 9, 2))
    shift(service, at(5, 9, 20), at(5, 11), row)
    whole = found(row)
    assert whole.covered_seconds > 0 and len(whole.losses) >= 3
    assert whole.covered_seconds + sum(loss.seconds for loss in whole.losses) == whole.raged_seconds == 2 * HOUR


def test_it_costs_the_same_however_much_happened(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11), seen=False, detected_at=at(5, 9, 2))

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            losses.of_storm(StormEvent.objects.select_related("incident").get(pk=row.pk), APRIL_3)
        return len(captured)

    held(row)
    one = queries()
    for n in range(5):
        factories.finding(
            service=service, kind="backup_unfit", reason=f"no. {n}", first_seen_at=at(5, 9, 10 + n),
            last_seen_at=at(5, 9, 11 + n), resolved_at=at(5, 9, 11 + n),
        )  # fmt: skip
        use(service, "primary", at(5, 9, n), GB)
    assert queries() == one


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.5, "0.5 s"), (12.0, "12 s"), (125.0, "2 min 05 s"), (3720.0, "1 h 02 min")]
)
def test_lengths_as_people_read_them(seconds: float, said: str) -> None:
    assert length(seconds) == said


def test_a_storms_page_shows_it_to_those_who_may_see_money(service: Service) -> None:
    row = storm(service, at(5, 9), at(5, 11), is_armed=False)
    page = reverse("admin:storms_stormevent_change", args=[row.pk])
    client = Client()
    client.force_login(rows.operator())
    html = client.get(page).content.decode()
    assert "What cover does not pay" in html and "the policy only watched" in html
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename="view_stormevent"))
    client.force_login(clerk)
    answer = client.get(page)
    assert answer.status_code == 200 and "What cover does not pay" not in answer.content.decode()
