"""The whole story unattended: outage, storm, shift, observed answers, moved traffic, recovery, failback, invoice.

Then three faults that must move nothing: a broken origin, a blind prober, a spoiled backup.
"""

from __future__ import annotations

import gzip
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import httpx
from django.conf import settings
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from billing import invoicing, metering
from billing.models import Contract, Invoice, LogObject, Prices
from billing.segments import Month
from customers.models import Customer
from dns.models import RecordSet, WeightChange
from services.models import Service, Target, VantagePoint
from storms.models import Finding, PathVerdict, StormEvent, StormPolicy
from tranche_site.demo import seed, world

PRICE_PER_GB = Decimal(1000)  # 1.00 a megabyte, so that seconds of traffic cost something
DISCOUNT_RATE = Decimal("0.5")
FAULT_SECONDS = 6.0
"""How long a fault that must move nothing lasts: half as long again as a real storm may take to be detected."""

_NEVER = datetime.max.replace(tzinfo=UTC)

T = TypeVar("T")


class DrillFailed(Exception):
    """What did not happen."""


@dataclass(slots=True)
class Drill:
    say: Callable[[str], None]
    result: dict[str, Any] = field(default_factory=dict)
    _zero: float = field(default_factory=time.time)
    _shifted_at: datetime = _NEVER
    _home_at: datetime = _NEVER
    _http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=5))

    def run(self) -> None:
        """Tell the story. Raises DrillFailed at the first thing that does not happen."""
        self._loosen()
        self._tell("waiting until every path is up and the first weights are observed")
        self._until("all paths up", 40, self._calm)
        self._until("visitors at the primary", 10, lambda: self._at("primary") >= 9 or None)
        self._storm()
        self._invoice()
        self._moves_nothing("a broken origin", [("origin", "500")], self._origin_fault_found)
        self._until("all paths up again", 40, self._calm)
        self._moves_nothing("a blind prober", [("prober", "blind")], self._all_blind)
        self._until("all paths up again", 40, self._calm)
        self._spoiled_backup()
        self.result["ok"] = True

    # --- the story --------------------------------------------------------------------------------------------------

    def _storm(self) -> None:
        self._zero = self._order("primary", "500")
        self._tell("the primary edge answers 500")
        storm = self._until("a storm", 15, lambda: StormEvent.objects.order_by("-id").first())
        self._mark("detected_after_s", f"storm detected: {storm.reason}")
        moved = self._until("the shift to be observed", 10, lambda: self._change(primary=0, observed=True))
        self.result["submitted_after_s"] = self._after(moved.submitted_at)
        self.result["observed_after_s"] = self._after(moved.observed_at)
        self._shifted_at = moved.observed_at or _NEVER
        self._tell(f"weights {self._split(moved)} observed at every authoritative server")
        at = self._until("traffic at the backup", 20, lambda: self._moved_at("backup"))
        self.result["traffic_moved_after_s"] = round(at - self._zero, 2)
        self._tell("9 of 10 consecutive visitor requests are at the backup")
        time.sleep(8)

        self._order("primary", "ok")
        self._mark("mended_after_s", "the primary edge works again")
        ended = self._until("the storm's end", 40, lambda: StormEvent.objects.filter(ended_at__isnull=False).first())
        self._tell(f"the storm is over: {ended.closing_reason}")
        home = self._until("failback", 60, lambda: self._change(primary=100, observed=True, after=moved.generation))
        self.result["failback_done_after_s"] = self._after(home.observed_at)
        self._home_at = home.observed_at or _NEVER
        self._tell(f"weights {self._split(home)} observed: traffic is home")
        self._until("visitors at the primary", 10, lambda: self._moved_at("primary"))
        storm.refresh_from_db()
        self.result["storm_s"] = round(((storm.ended_at or storm.started_at) - storm.started_at).total_seconds(), 2)
        self._expect(StormEvent.objects.count() == 1, "one outage was more than one storm")

    def _invoice(self) -> None:
        """Meter the logs, draft and issue the invoice, and compute it again by other means."""
        time.sleep(settings.DEMO_LOG_SECONDS)
        self._control("POST", "/rotate")
        metering.collect_all(apply=True, now=datetime.now(UTC))
        customer = Customer.objects.get(name=seed.CUSTOMER)
        now = datetime.now(UTC)
        month = Month.at(now)
        drafts = invoicing.draft(customer, month, now)
        if not drafts:
            raise DrillFailed("there was no usage to invoice")
        # The month is not over; the drill issues it as it would be issued when its grace period has passed.
        contract = drafts[0].contract
        invoice = invoicing.finalize(drafts[0], month.span().end + timedelta(hours=contract.grace_hours))
        # Covered from the shift that was seen in DNS until visitors had time to come home.
        home = self._home_at + timedelta(seconds=contract.drain_seconds)
        expected = expected_minor(StormEvent.objects.get().started_at, self._shifted_at, home)
        self.result |= {
            "backup_bytes": expected["backup_bytes"],
            "discount_minor": invoice.discount_minor,
            "expected_discount_minor": expected["discount_minor"],
            "invoice_total_minor": invoice.total_minor,
            "expected_total_minor": expected["total_minor"],
            "invoice_number": invoice.number,
        }
        self._tell(
            f"invoice {invoice.number}: {invoice.subtotal_minor} − {invoice.discount_minor} = {invoice.total_minor}"
        )
        self._expect(invoice.state == Invoice.State.OPEN, "the invoice was not issued")
        self._expect(invoice.discount_minor > 0, "the discount is 0")
        self._expect(invoice.discount_minor == expected["discount_minor"], "the discount differs from the logs' own")
        self._expect(invoice.total_minor == expected["total_minor"], "the total differs from the logs' own")

    def _moves_nothing(self, what: str, orders: list[tuple[str, str]], noticed: Callable[[], bool]) -> None:
        storms, generation = StormEvent.objects.count(), self._generation()
        for part, mode in orders:
            self._order(part, mode)
        self._tell(f"{what}: nothing may move")
        time.sleep(FAULT_SECONDS)
        self._until(f"{what} to be noticed", 10, lambda: noticed() or None)
        for part, _ in orders:
            self._order(part, "ok")
        time.sleep(1)
        self._expect(StormEvent.objects.count() == storms, f"{what} was taken for a storm")
        self._expect(self._generation() == generation, f"{what} moved weights")
        self.result[f"{what.split()[-1]}_fault_moved"] = 0
        self._tell(f"{what}: noticed, no storm, nothing moved")

    def _spoiled_backup(self) -> None:
        """A backup with a lapsed certificate takes nothing, even while the primary burns."""
        generation = self._generation()
        self._order("backup", "expired")
        self._tell("a spoiled backup: its certificate has lapsed")
        backup = Target.objects.get(role=Target.Role.BACKUP)
        self._until("the backup to be found unfit", 15, lambda: self._verdict(backup) == "DOWN" or None)
        self._order("primary", "500")
        time.sleep(FAULT_SECONDS)
        storm = StormEvent.objects.order_by("-id").first()
        self._expect(self._generation() == generation, "traffic moved onto a spoiled backup")
        self._expect(StormEvent.objects.count() == 2 and storm is not None, "the outage was not seen")
        self.result["backup_fault_moved"] = 0
        self._tell("a spoiled backup: the storm is seen, and nothing moved onto it")

    # --- looking ----------------------------------------------------------------------------------------------------

    def _calm(self) -> bool | None:
        verdicts = PathVerdict.objects.filter(target__role__in=Target.DOMAIN_ROLES)
        up = [v.verdict == "UP" for v in verdicts]
        blind = VantagePoint.objects.filter(blind_since__isnull=False).exists()
        open_storm = StormEvent.objects.open().exists()
        settled = RecordSet.objects.filter(observed_at__isnull=False).exists()
        return (len(up) == 3 and all(up) and settled and not blind and not open_storm) or None

    def _origin_fault_found(self) -> bool:
        return Finding.objects.filter(kind="origin_fault").exists()

    def _all_blind(self) -> bool:
        return not VantagePoint.objects.filter(blind_since__isnull=True).exists()

    def _verdict(self, target: Target) -> str:
        return PathVerdict.objects.get(target=target).verdict

    def _generation(self) -> int:
        return RecordSet.objects.get().generation

    def _change(self, *, primary: int, observed: bool, after: int = 1) -> WeightChange | None:
        target = str(Target.objects.get(role=Target.Role.PRIMARY).pk)
        changes = WeightChange.objects.filter(generation__gt=after, observed_at__isnull=not observed)
        return next((change for change in changes if change.weights[target] == primary), None)

    def _split(self, change: WeightChange) -> str:
        roles = {str(t.pk): t.role for t in Target.objects.paths()}
        return ", ".join(f"{roles[target]} {percent} %" for target, percent in change.weights.items())

    def _at(self, edge: str) -> int:
        return sum(visit["edge"] == edge and visit["status"] == 200 for visit in self._visits()[-10:])

    def _moved_at(self, edge: str) -> float | None:
        """When 9 of 10 consecutive visits since the clock began were answered by this edge."""
        visits = [visit for visit in self._visits() if visit["at"] >= self._zero]
        for end in range(10, len(visits) + 1):
            ten = visits[end - 10 : end]
            if sum(visit["edge"] == edge for visit in ten) >= 9 and (edge == "backup" or end == len(visits)):
                return float(ten[-1]["at"])
        return None

    def _visits(self) -> list[dict[str, Any]]:
        visits: list[dict[str, Any]] = self._control("GET", "/visits")
        return sorted(visits, key=lambda visit: visit["at"])

    # --- telling ----------------------------------------------------------------------------------------------------

    def _order(self, part: str, mode: str) -> float:
        return float(self._control("POST", f"/{part}/{mode}")["at"])

    def _control(self, method: str, path: str) -> Any:
        response = self._http.request(method, f"http://127.0.0.1:{settings.DEMO_CONTROL_PORT}{path}")
        response.raise_for_status()
        return response.json()

    def _until(self, what: str, seconds: float, look: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + seconds
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise DrillFailed(f"waited {seconds:.0f} s for {what}")
            time.sleep(0.02)
        return found

    def _expect(self, true: bool, otherwise: str) -> None:
        if not true:
            raise DrillFailed(otherwise)

    def _mark(self, key: str, text: str) -> None:
        self.result[key] = round(time.time() - self._zero, 2)
        self._tell(text)

    def _after(self, at: datetime | None) -> float:
        return round((at.timestamp() if at else math.nan) - self._zero, 2)

    def _tell(self, text: str) -> None:
        self.say(f"[{time.time() - self._zero:7.2f} s] {text}")

    def _loosen(self) -> None:
        """The drill's own policy, TTL and prices; and it alone reads the logs, so that both sums see the same objects."""
        Service.objects.update(interval_seconds=1)
        StormPolicy.objects.update(
            window_seconds=10, cooldown_seconds=5, minimum_seconds=10, holdoff_seconds=1, holdoff_max_seconds=1
        )
        RecordSet.objects.update(ttl_seconds=1)
        tiers = [{"up_to": None, "per_unit": str(PRICE_PER_GB)}]
        Prices.objects.update(primary_tiers=tiers, backup_tiers=tiers)
        Contract.objects.update(discount_rate=DISCOUNT_RATE, merge_gap_seconds=0)
        PeriodicTask.objects.filter(task__in=["billing.collect_usage", "billing.draft_invoices"]).update(enabled=False)
        PeriodicTasks.update_changed()


def expected_minor(storm_at: datetime, start: datetime, end: datetime) -> dict[str, int]:
    """The invoice once more, from the log files alone: text in, a few sums, no code of `billing`.

    Covered is what the backup had from `start` to `end` above its share before the storm, which our probes alone give it.
    """
    usage: dict[str, dict[datetime, int]] = {"primary": defaultdict(int), "backup": defaultdict(int)}
    for edge in world.EDGES:
        keys = LogObject.objects.filter(source__name__contains=edge.cdn, state="counted").values_list("key", flat=True)
        for key in keys:
            for host, at, size in _entries(world.log_directory(edge) / key, edge.log_format):
                if host == world.HOSTNAME:
                    usage[edge.role][at.replace(second=0, microsecond=0)] += size
    per_byte = Fraction(PRICE_PER_GB) / 10**9
    minute = timedelta(minutes=1)
    moved, before = defaultdict[str, Fraction](Fraction), defaultdict[str, int](int)
    for role, minutes in usage.items():
        for begin, size in minutes.items():
            overlap = max(min(end, begin + minute) - max(start, begin), timedelta(0))
            moved[role] += size * Fraction(overlap // timedelta(microseconds=1), 60_000_000)
            before[role] += size if begin + minute <= storm_at else 0
    everything = sum(before.values())
    normal = Fraction(before["backup"], everything) if everything else Fraction(0)
    covered = max(moved["backup"] - normal * sum(moved.values()), Fraction(0))
    primary, backup = (sum(usage[role].values()) for role in ("primary", "backup"))
    discount = _cents(int(covered) * per_byte * Fraction(DISCOUNT_RATE))  # whole bytes are covered
    return {
        "backup_bytes": backup,
        "discount_minor": discount,
        "total_minor": _cents(primary * per_byte) + _cents(backup * per_byte) - discount,
    }


def _cents(amount: Fraction) -> int:
    exact = Decimal(amount.numerator * 100) / Decimal(amount.denominator)
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def _entries(path: Path, log_format: str) -> list[tuple[str, datetime, int]]:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    if log_format == "cloudflare_logpush":
        rows = [json.loads(line) for line in lines]
        return [
            (
                r["ClientRequestHost"],
                datetime.fromtimestamp(r["EdgeStartTimestamp"] // 10**9, UTC),
                r["EdgeResponseBytes"],
            )
            for r in rows
        ]
    names = lines[1].removeprefix("#Fields: ").split()
    entries = []
    for line in lines[2:]:
        row = dict(zip(names, line.split("\t"), strict=True))
        at = datetime.fromisoformat(f"{row['date']}T{row['time']}+00:00")
        entries.append((row["x-host-header"], at, int(row["sc-bytes"])))
    return entries
