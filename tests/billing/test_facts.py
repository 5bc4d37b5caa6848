"""What cover is decided from, where a customer could have a hand in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

from billing import invoicing
from customers.models import Customer
from services.models import MaintenanceWindow, Service
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use

pytestmark = pytest.mark.django_db


@pytest.fixture
def customer() -> Customer:
    """In a storm from 9 to 10 on the 25th, 200 GB on the backup; half of all traffic was there anyway."""
    customer, service = billed_customer()
    for day in range(21, 25):
        use(service, "primary", at(day, 9), 100 * GB)
        use(service, "backup", at(day, 9), 100 * GB)
    use(service, "backup", at(25, 9, 30), 200 * GB)
    storm(service, at(25, 9), at(25, 10))
    return customer


def discount(customer: Customer) -> int:
    return sum(invoice.discount_minor for invoice in invoicing.draft(customer, MARCH, APRIL_3))


def test_maintenance_planned_afterwards_leaves_nothing_out(
    customer: Customer, client_of: Callable[[Customer], APIClient]
) -> None:
    assert discount(customer) == 10_00
    week = {
        "first_day": "2026-03-18",
        "local_time": "09:00:00",
        "duration_seconds": 7 * 86_400,
        "reason": "so it is said",
    }
    service = Service.objects.get(customer=customer)
    made = client_of(customer).post("/v1/maintenance-windows", week | {"service": service.pk}, format="json")
    assert made.status_code == 201
    assert discount(customer) == 10_00


def test_maintenance_planned_before_leaves_nothing_out_of_what_is_normal(customer: Customer) -> None:
    factories.maintenance_window(at(18, 9), service=Service.objects.get(customer=customer), duration_seconds=7 * 86_400)
    assert discount(customer) == 10_00


@pytest.mark.parametrize("how", ["lifted", "its service deleted"])
def test_what_maintenance_did_not_pay_is_not_paid_by_taking_it_away(
    customer: Customer, client_of: Callable[[Customer], APIClient], how: str
) -> None:
    service = Service.objects.get(customer=customer)
    window = factories.maintenance_window(at(25, 9), service=service)
    assert discount(customer) == 0
    gone = f"/v1/maintenance-windows/{window.pk}" if how == "lifted" else f"/v1/services/{service.pk}"
    assert client_of(customer).delete(gone).status_code == 204
    assert discount(customer) == 0


def test_maintenance_lifted_in_the_middle_pays_from_then_on(customer: Customer) -> None:
    window = factories.maintenance_window(at(25, 9), service=Service.objects.get(customer=customer))
    MaintenanceWindow.objects.filter(pk=window.pk).update(lifted_at=at(25, 9, 20))
    assert discount(customer) == 10_00  # at half past it was lifted
