"""Probe samples for tests, written as the prober writes them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from services import samples
from services.models import Target, VantagePoint


def times(start: datetime, end: datetime, every_seconds: int) -> list[datetime]:
    """Slots of [start, end)."""
    count = -(-(end - start) // timedelta(seconds=every_seconds))
    return [start + timedelta(seconds=every_seconds * n) for n in range(count)]


def record(
    targets: Iterable[Target], points: Iterable[VantagePoint], at: Iterable[datetime], outcome: str = "ok"
) -> None:
    """One sample per target, vantage point and time; known ones are left alone, as a repeated batch leaves them."""
    instants, points = list(at), list(points)
    samples.write(
        [
            samples.Row(
                slot_at=instant, target_id=target.pk, vantage_point_id=point.pk, attempt=0, at=instant,
                customer_id=target.customer_id, service_id=target.domain.service_id if target.domain else None,
                outcome=outcome, status={"ok": 200, "http_5xx": 503}.get(outcome), dns_ms=1.0, connect_ms=2.0, tls_ms=3.0,
                first_byte_ms=4.0, total_ms=5.0, certificate_expires_at=None, certificate_issuer="", protocol="HTTP/1.1",
                remote_address="127.0.0.1",
                reason="" if outcome == "ok" else f"{outcome}, as the test wants", is_blind=False,
            )
            for target in targets for point in points for instant in instants
        ]
    )  # fmt: skip
