"""What staff change of a customer's configuration, the customer's tools hear of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction

from customers import configuration
from tranche_site.floor.console_admin import ModelAdmin, SoftDelete


class TellsCustomers(ModelAdmin):
    """Stands before the class of an admin. Django saves in one transaction, which the event is part of."""

    def save_model(self, request: Any, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change or form.changed_data:
            configuration.tell(obj, "updated" if change else "created", form.changed_data)

    def save_formset(self, request: Any, form: Any, formset: Any, change: bool) -> None:
        super().save_formset(request, form, formset, change)
        for row in formset.new_objects:
            configuration.tell(row, "created")
        for row, fields in formset.changed_objects:
            configuration.tell(row, "updated", fields)


class TellsCustomersOfDeletion(TellsCustomers, SoftDelete):
    def remove(self, row: Any, now: datetime) -> None:
        with transaction.atomic():
            super().remove(row, now)
            configuration.tell(row, "deleted")

    def bring_back(self, row: Any) -> None:
        with transaction.atomic():
            super().bring_back(row)
            configuration.tell(row, "restored")
