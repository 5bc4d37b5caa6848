"""Which kinds of events are told by mail as well, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import models


@dataclass(frozen=True, slots=True)
class Mailed:
    """How a kind is counted in a subject line, and what it does to the story that its subject is in."""

    one: str
    many: str
    to_customer: bool = True
    to_staff: bool = False
    opens: bool = False
    closes: bool = False


def _of(what: str, verb: str = "", **kw: bool) -> Mailed:
    return Mailed(f"1 {what} {verb}".rstrip(), f"{{}} {what}s {verb}".rstrip(), **kw)


MAILED = {
    "storm.opened": _of("storm", "began", opens=True),
    "storm.relapsed": _of("storm", "came back", opens=True),
    "storm.ended": _of("storm", "ended"),
    "storm.closed": _of("storm", "closed", closes=True),
    "weights.held": _of("plan", "held", to_staff=True),
    "weights.failed": _of("failed DNS write"),
    "weights.drifted": _of("drift", "in DNS", to_staff=True),
    "finding.origin_fault": _of("origin", "failing"),
    "finding.backup_unfit": _of("backup", "unfit"),
    "finding.blocked": _of("path", "blocked"),
    "finding.certificate": _of("certificate", "about to lapse"),
    "finding.always_failing": _of("path", "never good"),
    "domain.proof_missing": _of("domain proof", "missing"),
    "domain.proof_lost": _of("domain proof", "lost"),
    "domain.contested": _of("domain", "contested"),
    "domain.disarmed": _of("domain", "disarmed"),
    "dns_account.failing": _of("DNS account", "failing", to_staff=True, opens=True),
    "dns_account.recovered": _of("DNS account", "well again", to_staff=True, closes=True),
    "drill.failed": _of("drill", "failed", to_staff=True),
    "invoice.finalized": _of("invoice", "issued"),
    "invoice.payment_overdue": _of("invoice", "overdue"),
    "alert.triggered": _of("spend alert"),
    "contract.amended": _of("contract", "amended"),
    "api_key.issued": _of("API key", "issued"),
    "api_key.revoked": _of("API key", "revoked"),
    "webhook_endpoint.disabled": _of("webhook endpoint", "disabled", to_staff=True),
    "incident.opened": _of("CDN incident", "began", to_customer=False, to_staff=True, opens=True),
    "incident.confirmed": _of("CDN incident", "confirmed", to_customer=False, to_staff=True),
    "incident.over": _of("CDN incident", "over", to_customer=False, to_staff=True, closes=True),
    "vantage_point.blind": _of("vantage point", "blind", to_customer=False, to_staff=True, opens=True),
    "vantage_point.sees": _of("vantage point", "sees again", to_customer=False, to_staff=True, closes=True),
    "selfcheck.violated": _of("broken invariant", to_customer=False, to_staff=True),
}


class AwaitsMail(models.BooleanField):
    """True from the insert on where the event's kind is mailed, however the row comes to be; false once it was taken."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        if add:
            setattr(model_instance, self.attname, getattr(model_instance, "kind", "") in MAILED)
        return super().pre_save(model_instance, add)
