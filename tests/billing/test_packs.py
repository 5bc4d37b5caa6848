"""A line follows from its evidence pack: for our own replay, and for a script that shares no code with us. What is forged
is found by both.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import cover, evidence, facts, invoicing, metering, packs
from billing.models import CoverRuling, Invoice, InvoiceLineItem, LogObject, UsageBucket, UsageSource
from billing.problems import InvoiceError
from billing.segments import Month
from dns.models import Drill, Pin, WeightChange
from services.models import Target
from storms.models import StormEvent
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, use

VERIFIER = Path(__file__).resolve().parents[2] / "docs" / "verify_line.py"
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
START, END = at(5, 9, 58) + 20 * SECOND, at(5, 11, 10) + 45 * SECOND
SEEN, HOME = at(5, 9, 58) + 50 * SECOND, at(5, 11, 20) + 10 * SECOND


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("verify_line", VERIFIER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verifier = _load()


@dataclass
class World:
    """A customer with one service: a primary and two backups, each over a CDN of its own."""

    terms: dict[str, Any] = field(default_factory=dict)
    cdn_tiers: dict[str, Any] = field(default_factory=dict)
    """Of “backup” and “second”."""
    prices: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        card = factories.rate_card(**self.prices)
        self.customer, self.service = billed_customer(rate_card=card, **self.terms)
        rows = {row.role: row for row in Target.objects.filter(domain__service=self.service)}
        domain = rows["primary"].domain
        assert domain
        second = factories.target("backup", domain=domain, rank=2)
        self.targets = {"primary": rows["primary"], "backup": rows["backup"], "second": second}
        self.record_set = domain.record_set
        own = {self.cdn(path): {"backup": tiers} for path, tiers in self.cdn_tiers.items()}
        card.versions.update(cdn_tiers=own)

    def cdn(self, path: str) -> str:
        cdn = self.targets[path].cdn
        assert cdn
        return cdn.slug

    def deliver(self, rows: Sequence[tuple[str, datetime, int]]) -> None:
        """(path, minute, bytes); each path's from one log object."""
        hours = set()
        for path in sorted({path for path, _, _ in rows}):
            target = self.targets[path]
            source, _ = UsageSource.objects.get_or_create(
                name=f"logs of {target.pk}", cdn=target.cdn, kind="directory", format="cloudfront", location="/x",
                customer=self.customer,
            )  # fmt: skip
            log = LogObject.objects.create(
                source=source, key=f"{path}-{rows[0][1]:%Y-%m}.gz", etag="1", size_bytes=1, state="counted", rows=9
            )
            own = {"customer": self.customer, "service": self.service, "target": target, "log_object": log}
            UsageBucket.objects.bulk_create(
                UsageBucket(**own, minute_at=minute, bytes=size, requests=3) for of, minute, size in rows if of == path
            )
            hours |= {
                (self.customer.pk, self.service.pk, target.pk, minute.replace(minute=0))
                for of, minute, _ in rows if of == path
            }  # fmt: skip
        with connection.cursor() as cursor:
            metering.sum_hours(cursor, hours, APRIL_3)

    def storm(self, start: datetime, end: datetime, **kw: Any) -> StormEvent:
        cdn = self.targets["primary"].cdn
        if "incident" not in kw:
            kw["incident"] = factories.incident(
                cdn=cdn, started_at=start, confirmed_at=start, ended_at=end, witnesses=["the reference site"]
            )
        return factories.storm(
            service=self.service, cdn=cdn, started_at=start, ended_at=end, closed_at=end, **{"last_bad_at": end} | kw
        )

    def shift(
        self, moment: datetime, percent: int, storm: StormEvent | None, region: str | None = None
    ) -> WeightChange:
        """So much on the backups, the second of which has a third of it, as seen in DNS from then on."""
        self.record_set.generation += 1
        weights = {"primary": 100 - percent, "backup": percent - percent // 3, "second": percent // 3}
        return WeightChange.objects.create(
            customer=self.customer, service=self.service, record_set=self.record_set, region=region, storm=storm,
            generation=self.record_set.generation, weights={str(self.targets[p].pk): n for p, n in weights.items()},
            state="observed", observed_at=moment, reason="made by a test",
        )  # fmt: skip

    def draft(self, month: Month = MARCH) -> Invoice:
        (invoice,) = invoicing.draft(self.customer, month, APRIL_3)
        return invoice


def usual(world: World, share: bool = True) -> StormEvent:
    """A storm of seventy minutes, ten more until traffic is home; before it a little of the traffic was on the backups."""
    minutes = [at(5, 9, 50) + 7 * n * MINUTE for n in range(20)]
    world.deliver([
        *(("primary", minute, 2 * GB + n) for n, minute in enumerate(minutes)),
        *(("backup", minute, 3 * GB + 7 * n) for n, minute in enumerate(minutes)),
        *(("second", minute, GB + 11 * n) for n, minute in enumerate(minutes)),
        ("primary", at(3, 5), 900 * GB), ("backup", at(3, 6, 30), (20 if share else 0) * GB),
        ("primary", at(4, 9, 57), 3 * GB), ("second", at(20), 5 * GB),
    ])  # fmt: skip
    policy = factories.policy(service=world.service)
    storm = world.storm(START, END, policy=policy, policy_version=1)
    world.shift(SEEN, 50, storm)
    world.shift(SEEN + 10 * MINUTE, 100, storm)
    world.shift(HOME, 0, storm)
    return storm


def tiers(*steps: tuple[str | None, str]) -> list[dict[str, str | None]]:
    return [{"up_to": up_to, "per_unit": per_unit} for up_to, per_unit in steps]


WORLDS: dict[str, Callable[[], World]] = {
    "multiply": lambda: World({"max_coverage_factor": Decimal("0.8"), "drain_seconds": 300}),
    "cap": lambda: World({"max_coverage_factor": Decimal("0.4"), "coverage_mode": "cap"}),
    "two tranches": lambda: World({"layers": [
        {"attachment": "0", "limit": "2", "share": "0.5"}, {"attachment": "2", "limit": None, "share": "1"},
    ]}),
    "an hours clause": lambda: World({"waiting_seconds": 600, "hours_clause_seconds": 1800}),
    "an aggregate": lambda: World({"aggregate_seconds": 2000}),
    "a franchise": lambda: World({"waiting_seconds": 1800, "waiting_mode": "franchise", "drain_seconds": 900}),
    "too short for the waiting time": lambda: World({"waiting_seconds": 9000}),
    "two CDNs with prices of their own": lambda: World(cdn_tiers={
        "backup": tiers(("20", "0.30"), (None, "0.11")), "second": tiers((None, "0.07")),
    }),
    "volume tiers in GiB": lambda: World(prices={
        "unit": "GiB", "tier_mode": "volume", "backup_tiers": tiers(("10", "0.9"), ("90", "0.333"), (None, "0.1")),
    }),
    "yen": lambda: World(prices={"currency": "JPY", "backup_tiers": tiers(("5", "31"), (None, "17.5"))}),
    "dinars": lambda: World({"discount_rate": Decimal("0.3333")}, prices={"currency": "KWD"}),
    "fees, requests, taxes and a commitment": lambda: World(
        {"fixed_fee": Decimal("7.77"), "premium": Decimal(3), "minimum_commitment": Decimal(200), "commit_on_net": True,
         "tax_rates": {"delivery": "0.19", "fee": "0.07"}}, prices={"per_10k_requests": {"backup": "0.9"}},
    ),
    "CDNs of the customer's own, cover above the fee": lambda: World({"kind": "own_cdn", "fixed_fee": Decimal("1.25")}),
}  # fmt: skip


def pack_of(invoice: Invoice, kind: str = "cover") -> dict[str, Any]:
    """Of its last line of a kind, as it is read from a file."""
    line = invoice.lines.filter(kind=kind).order_by("position").last()
    assert line
    pack: dict[str, Any] = json.loads(packs.dumps(packs.of_line(line)))
    return pack


def agreed(invoice: Invoice) -> None:
    """Both replays find nothing in any pack of the invoice."""
    for line in invoice.lines.filter(kind__in=["usage", "cover"]):
        pack = json.loads(packs.dumps(packs.of_line(line)))
        assert packs.replay(pack) == []
        assert verifier.verify(pack, str) == []
        assert pack["line"]["amount_minor"] == line.amount_minor


@pytest.mark.django_db
@pytest.mark.parametrize("name", WORLDS)
def test_every_line_follows_from_its_pack(name: str, tmp_path: Path) -> None:
    world = WORLDS[name]()
    usual(world)
    invoice = world.draft()
    agreed(invoice)
    assert (invoice.discount_minor > 0) == (name != "too short for the waiting time")
    last = invoice.lines.filter(kind__in=["usage", "cover"]).order_by("position").last()
    assert last
    path = tmp_path / "pack.json"
    path.write_text(packs.dumps(packs.of_line(last)))
    told = verified(path)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.endswith(f"OK: the line is {last.amount_minor} minor units\n")
    out = StringIO()
    call_command("replay", str(path), stdout=out)
    assert f"checked  the invoice's SHA-256, {invoice.sha256}" in out.getvalue()


def verified(path: Path) -> subprocess.CompletedProcess[str]:
    """By a Python without this project's packages and paths."""
    command = [sys.executable, "-I", "-S", str(VERIFIER), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env={"PYTHONUTF8": "1"})


def test_the_verifier_stands_alone() -> None:
    lines = VERIFIER.read_text().splitlines()
    imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
    assert imported <= {"hashlib", "json", "sys", "collections", "datetime", "fractions", "pathlib"}
    assert len(lines) <= 250


@pytest.mark.django_db
def test_what_the_verifier_says(tmp_path: Path) -> None:
    """The arithmetic of one line, worked out here."""
    world = World({"discount_rate": Decimal("0.5")})
    world.deliver([
        ("primary", at(4), 90 * GB), ("backup", at(4), 10 * GB),  # a tenth is normal
        ("primary", at(5, 10), 40 * GB), ("backup", at(5, 10), 40 * GB),
    ])  # fmt: skip
    storm = world.storm(at(5, 10), at(5, 11))
    world.shift(at(5, 10) + 15 * SECOND, 100, storm)
    world.shift(at(5, 11), 0, storm)
    path = tmp_path / "pack.json"
    path.write_text(packs.dumps(pack_of(world.draft())))
    told = verified(path).stdout
    # Three quarters of the minute: 30 GB of 60, of which 6 are normal. 24 GB × 0.20 × ½ = 2.40
    assert "10,000,000,000 of 100,000,000,000 bytes were on backups" in told
    assert "30,000,000,000 of 60,000,000,000 were: 24,000,000,000 bytes are above normal" in told
    assert "24,000,000,000 bytes covered, factor 1, share 0.5: 2.4\n" in told
    assert "OK: the line is 240 minor units" in told


@pytest.mark.django_db
def test_it_holds_what_it_follows_from() -> None:
    world = WORLDS["two tranches"]()
    storm = usual(world)
    StormEvent.objects.update(evidence_sha256="ab" * 32)
    invoice = invoicing.finalize(world.draft(), APRIL_3)
    pack = pack_of(invoice)
    told = pack["invoice"]
    assert (told["number"], told["state"], told["currency"]) == ("INV-000001", "open", "USD")
    assert (told["contract"]["version"], told["rate_card"]["version"]) == (1, 1)
    assert told["sha256"] == invoice.sha256 == evidence.digest(pack["content"])
    assert pack["content"]["inputs"] == invoice.inputs and pack["content"]["extras"] == invoice.extras
    assert pack["content"]["decisions"] == invoice.decisions
    (row,) = pack["storms"]
    assert row["evidence"] == {"path": f"/v1/storms/{storm.pk}/evidence", "sha256": "ab" * 32}
    assert pack["policies"][f"{row['policy']}/{row['policy_version']}"]["threshold_avail"] == "0.9"
    assert [change["observed_at"] for change in pack["changes"]] == [
        "2026-03-05T09:58:50Z", "2026-03-05T10:08:50Z", "2026-03-05T11:20:10Z",
    ]  # fmt: skip
    assert pack["shifts"] == [{"start": "2026-03-05T09:58:50Z", "end": "2026-03-05T11:20:10Z"}]
    assert {row["minutes"] for row in pack["usage"]} == {1, 60}
    assert [(row["key"], row["rows"], row["size_bytes"]) for row in pack["log_objects"]] == [
        ("backup-2026-03.gz", 9, 1), ("primary-2026-03.gz", 9, 1), ("second-2026-03.gz", 9, 1),
    ]  # fmt: skip
    text = packs.dumps(packs.of_line(InvoiceLineItem.objects.get(pk=pack["line"]["id"])))
    assert text == packs.dumps(pack)  # the same document every time
    json.loads(text, parse_float=lambda number: pytest.fail(number))


@pytest.mark.django_db
def test_only_the_customers_own_is_in_it() -> None:
    """Other customers are in the same log object, and have storms of the same CDN."""
    world, other = World(), World()
    usual(world)
    usual(other)
    shared = LogObject.objects.filter(source__customer=world.customer, key="backup-2026-03.gz").get()
    UsageSource.objects.filter(pk=shared.source_id).update(customer=None)
    LogObject.objects.filter(pk=shared.pk).update(rows=777_777, bad_rows=888_888, size_bytes=999_999)
    UsageBucket.objects.create(
        customer=other.customer, service=other.service, target=other.targets["backup"], log_object=shared,
        minute_at=at(5, 10, 4), bytes=123_456_789, requests=1,
    )  # fmt: skip
    pack = pack_of(world.draft())
    assert packs.replay(pack) == []
    (told,) = [row for row in pack["log_objects"] if row["source"] == shared.source_id]
    assert (told["etag"], told["rows"], told["bad_rows"], told["size_bytes"]) == ("1", None, None, None)
    text = packs.dumps(pack)
    for word in ("777777", "888888", "999999", "123456789", other.record_set.domain.hostname, other.cdn("backup")):
        assert word not in text


@pytest.mark.django_db
def test_what_comes_after_the_invoice_is_not_its_evidence() -> None:
    """Late logs, a late ruling and a voided invoice: they are corrected elsewhere, and the line still follows."""
    world = WORLDS["an aggregate"]()
    storm = usual(world)
    storm.incident.confirmed_at = None
    storm.incident.save()
    ruling = CoverRuling.objects.create(
        customer=world.customer, storm=storm, is_covered=True, reason="seen", ruled_by="ann", ruled_at=at(6)
    )
    invoice = invoicing.finalize(world.draft(), APRIL_3)
    before = pack_of(invoice)
    later = APRIL_3 + timedelta(days=2)
    for minute in (at(5, 10, 4), at(3, 5), at(5, 20)):
        use(world.service, "primary", minute, 55 * GB, now=later)
    LogObject.objects.exclude(key__endswith=".gz").update(processed_at=later)
    storm.incident.confirmed_at = later
    storm.incident.save()
    assert pack_of(invoice) == before
    agreed(invoice)
    CoverRuling.objects.filter(pk=ruling.pk).update(ruled_at=later)
    paths = [difference.path for difference in packs.replay(pack_of(invoice))]
    assert "content.decisions.storms[0].is_covered" in paths  # nothing else made it pay


@pytest.mark.django_db
def test_the_aggregate_and_the_tranches_count_on_from_earlier_invoices() -> None:
    layers = [{"attachment": "0", "limit": "7", "share": "0.5"}, {"attachment": "7", "limit": None, "share": "1"}]
    world = World({"layers": layers, "aggregate_seconds": 4000})
    world.deliver([("backup", datetime(2026, 2, 9, 10, n, tzinfo=UTC), GB + n) for n in range(50)])
    february = datetime(2026, 2, 9, 10, tzinfo=UTC)
    storm = world.storm(february, february + 2000 * SECOND)
    world.shift(february, 100, storm)
    world.shift(february + 2000 * SECOND, 0, storm)
    earlier = invoicing.finalize(world.draft(Month(2026, 2)), APRIL_3)
    usual(world)
    invoice = invoicing.finalize(world.draft(), APRIL_3)
    pack = pack_of(invoice)
    (row,) = pack["cover"]["earlier"]
    assert (row["invoice"], row["used_microseconds"]) == (earlier.number, 2_000_000_000)
    # 33 minutes and a third of one: 33.333 GB and 561 bytes at 0.20
    assert row["covered_cost"].startswith("6.66666") and pack["content"]["inputs"]["cover"]["covered_before"] != "0"
    agreed(invoice)


@pytest.mark.django_db
def test_other_lines_have_no_pack() -> None:
    world = World({"fixed_fee": Decimal(5)})
    usual(world)
    with pytest.raises(InvoiceError, match="usage and of storm cover"):
        packs.of_line(world.draft().lines.get(kind="fixed_fee"))


# --- forgeries ------------------------------------------------------------------------------------------------------


def _bucket(pack: dict[str, Any], minutes: int, path: str = "backup") -> dict[str, Any]:
    row: dict[str, Any] = next(r for r in pack["usage"] if r["minutes"] == minutes and r["path"] == path and r["bytes"])
    return row


def _raise(pack: dict[str, Any]) -> None:
    pack["line"]["amount_minor"] += 100
    pack["content"]["lines"][pack["line"]["position"] - 1]["amount_minor"] += 100
    pack["content"]["totals"][1] += 100
    pack["content"]["totals"][3] -= 100


def _lengthen(pack: dict[str, Any]) -> None:
    storm = pack["storms"][0]
    storm["end"] = storm["spells"][0][1] = storm["last_bad_at"] = "2026-03-05T11:15:00Z"


def _move(pack: dict[str, Any]) -> None:
    pack["changes"][0]["observed_at"] = pack["shifts"][0]["start"] = "2026-03-05T09:58:21Z"


def _event(pack: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = pack["content"]["decisions"]["events"][0]
    return event


def _invent(pack: dict[str, Any]) -> None:
    """A storm that nobody bore witness to."""
    storm = copy.deepcopy(pack["storms"][0])
    storm |= {"id": 999, "start": "2026-03-20T00:00:00Z", "end": "2026-03-20T01:00:00Z", "witness": ""}
    storm["spells"] = [[storm["start"], storm["end"]]]
    pack["storms"].append(storm)
    reason = pack["content"]["decisions"]["storms"][0]["reason"]
    service = str(pack["line"]["service"])
    pack["content"]["decisions"]["storms"].append(
        {"storm": "storm-999", "service": service, "is_covered": True, "reason": reason}
    )


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    # what is done, where our replay says so, and what the verifier says
    "a raised amount": (_raise, "content.lines[", "lines"),
    "a raised amount of the line alone": (lambda p: p["line"].update(amount_minor=9999), "line.amount_minor", "line "),
    "a larger bucket": (lambda p: _bucket(p, 1).update(bytes=9 * GB), "content.decisions.events[0].", "rated usage"),
    "a bucket fewer": (lambda p: p["usage"].remove(_bucket(p, 1)), "content.decisions.events[0].", "rated usage"),
    "a smaller normal share": (lambda p: _bucket(p, 60).update(bytes=GB), "content.decisions.events[0].normal_", "rated usage"),
    "more covered bytes": (
        lambda p: _event(p)["by_cdn"][p["usage"][0]["cdn"]].update(covered_bytes=10**12), "decisions.events[0].by_cdn", "",
    ),
    "more covered bytes in what was rated": (
        lambda p: p["content"]["inputs"]["usage"][0].update(covered_bytes=p["content"]["inputs"]["usage"][0]["bytes"]),
        "content.inputs.usage[0].covered_bytes", "rated usage",
    ),
    "less delivered": (
        lambda p: p["content"]["inputs"]["usage"][-1].update(bytes=1), "content.inputs.usage[", "rated usage",
    ),
    "a longer storm": (_lengthen, "content.decisions.events[0].end", "events"),
    "a storm's end alone": (lambda p: p["storms"][0].update(end="2026-03-05T12:00:00Z"), "storms[0].end", "start and end"),
    "an earlier shift": (_move, "content.decisions.events[0].spans[0].start", "events"),
    "shifts that no change made": (lambda p: p["shifts"].append(p["shifts"][0]), "shifts", "shifts"),
    "a longer span": (lambda p: _event(p)["spans"][0].update(start="2026-03-05T09:58:00Z"), "spans[0].start", "events"),
    "another baseline": (lambda p: _event(p)["baseline"].pop(), "content.decisions.events[0].baseline", "events"),
    "covered_before": (
        lambda p: p["content"]["inputs"]["cover"].update(covered_before="1.5"), "content.inputs.cover.covered_before",
        "covered_before",
    ),
    "a decision": (
        lambda p: p["content"]["decisions"]["storms"][0].update(is_covered=False),
        "content.decisions.storms[0].is_covered", "whether it pays",
    ),
    "a storm that nobody saw": (_invent, "content.decisions.storms[1].is_covered", "whether it pays"),
    "no witness": (lambda p: p["storms"][0].update(witness=""), "content.decisions.storms[0].is_covered", "whether it pays"),
    "an excluded time removed": (lambda p: p["excluded"].clear(), "content.decisions.events[0].", "events"),
    "a longer waiting time": (
        lambda p: p["content"]["inputs"]["cover"].update(waiting_seconds=900), "content.decisions.events[0].", "events",
    ),
    "a longer drain": (lambda p: p["cover"].update(drain_seconds=600), "shifts", "shifts"),
    "the customer's own factor": (
        lambda p: p["content"]["inputs"]["cover"]["service_factors"].clear(), "service_factors", "own factor",
    ),
    "a primary made a backup": (lambda p: [t.update(role="backup") for t in p["targets"]], "shifts", "shifts"),
    "a later look": (lambda p: p["invoice"].update(as_of="2026-03-05T10:30:00Z"), "content.decisions.events[0]", "events"),
    "another period": (lambda p: p["invoice"].update(period=["2026-03-01T00:00:00Z"] * 2), "invoice.period", "period"),
    "a higher price": (
        lambda p: p["content"]["inputs"]["rates"]["backup"][0].update(per_unit="0.9"), "content.lines[", "lines",
    ),
    "another line's place": (lambda p: p["line"].update(position=1), "line.kind", "line 1"),
    "no such line": (lambda p: p["line"].update(position=99), "line.position", "line 99"),
    "details of another line": (lambda p: p["line"]["details"].update(exact="1"), "line.details.exact", ""),
    "another policy in the details": (
        lambda p: p["line"]["details"]["storms"][0].update(policy_version=2), "line.details.storms[0].policy_version", "",
    ),
    "another object's bytes": (lambda p: p["log_objects"][0].update(bytes=1), "log_objects", ""),
    "the period's objects": (lambda p: p["period_objects"].pop(), "period_objects", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def _forged(django_db_setup: None, django_db_blocker: Any) -> dict[str, Any]:
    """The pack of a line for which a pin, tranches and a factor of the customer's own matter."""
    with django_db_blocker.unblock(), transaction.atomic():
        layers = [{"attachment": "0", "limit": "1", "share": "0.5"}, {"attachment": "1", "limit": None, "share": "1"}]
        world = World({"layers": layers})
        usual(world)
        Pin.objects.create(
            customer=world.customer, service=world.service, backup_percent=10, reason="a look", created_at=at(5, 10, 20),
            expires_at=at(5, 10, 40),
        )  # fmt: skip
        pack = pack_of(world.draft())
        transaction.set_rollback(True)
    return pack


def rehashed(pack: dict[str, Any]) -> dict[str, Any]:
    """As a careful forger leaves it: every hash in it fits."""
    pack["invoice"]["sha256"] = evidence.digest(pack["content"])
    return evidence.seal({key: value for key, value in pack.items() if key != "sha256"})


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_forged_is_found_even_if_every_hash_fits(_forged: dict[str, Any], name: str) -> None:
    forge, path, said = FORGERIES[name]
    assert packs.replay(_forged) == [] and verifier.verify(_forged, str) == []
    pack = copy.deepcopy(_forged)
    forge(pack)
    assert packs.replay(pack)[0].path == "sha256"
    assert verifier.verify(pack, str)[0].startswith("sha256: ")
    pack = rehashed(pack)
    found = packs.replay(pack)
    assert any(path in difference.path for difference in found), [str(d) for d in found]
    if said:
        assert any(said in text for text in verifier.verify(pack, str)), verifier.verify(pack, str)


def test_a_difference_names_its_place_and_both_values(_forged: dict[str, Any], tmp_path: Path) -> None:
    pack = copy.deepcopy(_forged)
    pack["line"]["amount_minor"] += 1
    file = tmp_path / "pack.json"
    file.write_text(packs.dumps(rehashed(pack)))
    amount = _forged["line"]["amount_minor"]
    out = StringIO()
    with pytest.raises(CommandError) as refused:
        call_command("replay", str(file), stdout=out)
    assert refused.value.returncode == 1
    assert f"differs  line.amount_minor: {amount + 1} is stored, {amount} follows\n" in out.getvalue()
    told = verified(file)
    assert (told.returncode, told.stderr) == (1, "") and "WRONG  line 4: the pack says" in told.stdout


@pytest.mark.django_db
def test_what_a_pack_alone_can_not_prove_the_issued_invoice_does() -> None:
    """Whoever leaves out a pin and computes all of the invoice anew has a pack that follows, of another invoice."""
    world = World()
    usual(world)
    pin = Pin.objects.create(
        customer=world.customer, service=world.service, backup_percent=10, reason="a look", created_at=at(5, 10, 20),
        expires_at=at(5, 10, 40),
    )  # fmt: skip
    issued = pack_of(world.draft())
    pin.delete()
    made_up = pack_of(world.draft())
    assert packs.replay(issued) == packs.replay(made_up) == []
    assert issued["line"]["amount_minor"] != made_up["line"]["amount_minor"]
    assert issued["invoice"]["sha256"] != made_up["invoice"]["sha256"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: len(text) // 2], "it is cut off"),
        (lambda text: "", "it is cut off"),
        (lambda text: "storm cover: 1.00", "it is no JSON"),
        (lambda text: "[]", "one JSON object"),
        (lambda text: text.replace('"drain_seconds":0', '"drain_seconds":0.5'), "0.5 is a float"),
        (lambda text: text.replace('"drain_seconds":0', '"drain_seconds":NaN'), "NaN is a float"),
        (lambda text: text.replace('"type":"line"', '"type":"lines"'), "type: must be one of storm, line"),
        (lambda text: text.replace('"format":1', '"format":2'), "type and format must be “line” and 1"),
        (lambda text: text.replace('"type":"line"', '"type":"line","type":"line"'), "“type” stands twice"),
        (lambda text: text.replace('"formula":"tranche/1"', '"formula":"tranche/9"'), "“tranche/9” is not known here"),
        (lambda text: text.replace('"shifts"', '"shafts"'), "can't be read: KeyError('shifts')"),
        (lambda text: text.replace("T10:08:50Z", "T11:08:50+01:00"), "is no time in UTC"),
        (lambda text: text.replace('"unit":"GB"', '"unit":"MB"', 1), "content.inputs: unit: must be one of"),
    ],
)
def test_what_is_no_pack_is_said_in_one_line(
    _forged: dict[str, Any], tmp_path: Path, spoil: Callable[[str], str], said: str
) -> None:
    file = tmp_path / "pack.json"
    file.write_text(spoil(packs.dumps(_forged)))
    with pytest.raises(CommandError) as refused:
        call_command("replay", str(file), stdout=StringIO())
    assert refused.value.returncode == 2
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"type":"line","line":1.5}', '{"type":"storm"}'])
def test_the_verifier_refuses_what_is_no_pack(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pack.json"
    file.write_text(text)
    told = verified(file)
    assert told.returncode == 2 and "can't be read as an evidence pack" in told.stderr


# --- any story ------------------------------------------------------------------------------------------------------

_seconds = st.integers(0, 7200) | st.sampled_from([0, 60, 3600])
_money = st.sampled_from(["0.07", "0.1", "0.333", "1.5", "17", "0"])
_layers = st.sampled_from([
    [], [], [{"attachment": "0", "limit": None, "share": "0.5"}],
    [{"attachment": "0.5", "limit": "3", "share": "0.25"}, {"attachment": "3.5", "limit": "40", "share": "1"}],
    [{"attachment": "0", "limit": "0.1", "share": "0.3333"}, {"attachment": "7", "limit": None, "share": "0.9"}],
])  # fmt: skip
_terms = st.fixed_dictionaries(
    {
        "discount_rate": st.sampled_from([Decimal("0.5"), Decimal(1), Decimal("0.3333")]),
        "max_coverage_factor": st.sampled_from([Decimal("0.4"), Decimal(1), Decimal("2.5")]),
        "coverage_mode": st.sampled_from(["multiply", "cap"]),
        "waiting_seconds": st.sampled_from([0, 0, 60, 600]),
        "waiting_mode": st.sampled_from(["excess", "franchise"]),
        "hours_clause_seconds": st.none() | st.integers(1, 9000),
        "aggregate_seconds": st.none() | st.integers(0, 9000),
        "merge_gap_seconds": st.sampled_from([0, 60, 3600, 40_000]),
        "drain_seconds": st.sampled_from([0, 77, 900]),
        "layers": _layers,
        "kind": st.sampled_from(["resale", "resale", "own_cdn"]),
        "fixed_fee": _money.map(Decimal),
        "minimum_commitment": st.sampled_from([Decimal(0), Decimal(5), Decimal(400)]),
        "commit_on_net": st.booleans(),
        "time_zone": st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"]),
    }
)


def _tiers() -> st.SearchStrategy[Any]:
    steps = st.lists(st.tuples(st.integers(1, 60), _money), max_size=2, unique_by=lambda step: step[0]).map(sorted)
    return st.builds(lambda some, last: tiers(*((str(n), price) for n, price in some), (None, last)), steps, _money)


_prices = st.fixed_dictionaries(
    {
        "currency": st.sampled_from(["USD", "JPY", "KWD"]),
        "unit": st.sampled_from(["GB", "GiB"]),
        "tier_mode": st.sampled_from(["graduated", "volume"]),
        "primary_tiers": _tiers(),
        "backup_tiers": _tiers(),
    }
)
_times = {
    "gap": _seconds, "length": st.integers(900, 9000) | st.integers(1, 900), "quiet": st.none() | st.integers(1, 4000),
    "late": st.integers(0, 900), "home": st.integers(-600, 5000), "region": st.sampled_from([None, None, "eu"]),
    "factor": st.sampled_from(["0.3", "1"]),
}  # fmt: skip
_paying = {
    "percent": st.just(100), "evidence": st.just(0), "is_armed": st.just(True), "is_confirmed": st.just(True),
    "ruling": st.none(), "attribution": st.just("cdn_fault"),
}  # fmt: skip
_doubtful = {
    "percent": st.sampled_from([5, 6, 50]), "evidence": st.integers(-3000, 0), "is_armed": st.booleans(),
    "is_confirmed": st.booleans(), "ruling": st.sampled_from([None, True, False]),
    "attribution": st.sampled_from(["cdn_fault", "unproven", "origin_fault"]),
}  # fmt: skip
_paid_storm, _doubtful_storm = st.fixed_dictionaries(_times | _paying), st.fixed_dictionaries(_times | _doubtful)
_usage = st.lists(
    st.tuples(
        st.sampled_from(["primary", "backup", "backup", "second"]),
        st.integers(-200, 300) | st.integers(-9 * 1440, 20_000),  # minutes from the first storm on
        st.integers(1, 40), st.integers(1, 9), st.integers(0, 9 * GB) | st.sampled_from([1, GB]),
    ),
    min_size=1, max_size=9,
)  # fmt: skip
"""Runs of minutes with traffic: path, first minute, how many, how far apart, bytes of each."""
_barred = st.lists(
    st.tuples(st.sampled_from(["pin", "drill", "window"]), st.integers(-200, 400), st.integers(1, 90)), max_size=3
)


def tell(world: World, begin: datetime, storms: list[dict[str, Any]], usage: Any, barred: Any) -> None:
    runs = [*usage, ("primary", -4000, 30, 7, GB), ("backup", -3000, 5, 61, GB // 7)]
    runs += [(path, -5, 80, 3, 3 * GB + 1) for path in ("primary", "backup", "second")]
    rows = {(path, first + n * step): size for path, first, count, step, size in runs for n in range(count)}
    minute = begin.replace(second=0, microsecond=0)
    world.deliver([(path, minute + n * MINUTE, size) for (path, n), size in rows.items()])
    at_once = begin
    for n, told in enumerate(storms):
        start = at_once + told["gap"] * SECOND + timedelta(microseconds=n * 123_457)
        end = start + told["length"] * SECOND
        spells = [[start.isoformat(), end.isoformat()]]
        if told["quiet"]:
            again = end + told["quiet"] * SECOND
            end = again + told["length"] * SECOND
            spells.append([again.isoformat(), end.isoformat()])
        kw: dict[str, Any] = {} if told["is_confirmed"] else {"incident": None}
        policy = factories.policy(service=world.service, deleted_at=at(1), max_coverage_factor=Decimal(told["factor"]))
        storm = world.storm(
            start, end, spells=spells, is_armed=told["is_armed"], attribution=told["attribution"], policy=policy,
            policy_version=1, last_bad_at=end + told["evidence"] * SECOND, **kw,
        )  # fmt: skip
        if told["ruling"] is not None:
            CoverRuling.objects.create(
                customer=world.customer, storm=storm, is_covered=told["ruling"], reason="as drawn", ruled_by="ann"
            )
        seen = start + told["late"] * SECOND
        world.shift(seen, told["percent"], storm, told["region"])
        world.shift(max(seen, end + told["home"] * SECOND), 0, storm, told["region"] if n % 2 else None)
        at_once = end
    for kind, after, minutes in barred:
        start = begin + after * MINUTE
        end = start + minutes * MINUTE
        own = {"customer": world.customer, "service": world.service}
        if kind == "pin":
            Pin.objects.create(**own, backup_percent=9, reason="drawn", created_at=start, expires_at=end)
        elif kind == "drill":
            Drill.objects.create(**own, state="passed", started_at=start, ended_at=end)
        else:
            factories.maintenance_window(start.replace(second=0), **own, duration_seconds=60 * minutes)


@pytest.mark.django_db
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    terms=_terms,
    prices=_prices,
    own=st.dictionaries(st.sampled_from(["backup", "second"]), _tiers()),
    storms=st.lists(_paid_storm | _paid_storm | _doubtful_storm, min_size=1, max_size=3),
    usage=_usage,
    barred=_barred,
    hour=st.sampled_from([-3, 5, 100, 200, 740]),
)
def test_any_story_is_told_alike_by_the_invoice_its_pack_and_the_verifier(
    terms: Any, prices: Any, own: Any, storms: Any, usage: Any, barred: Any, hour: int
) -> None:
    with transaction.atomic():
        world = World(terms, own, prices)
        tell(world, at(1) + timedelta(hours=hour, minutes=17, seconds=23), storms, usage, barred)
        for invoice in invoicing.draft(world.customer, MARCH, APRIL_3):
            agreed(invoice)
        transaction.set_rollback(True)


@pytest.mark.django_db
def test_bytes_are_measured_alike_in_sql_and_from_the_pack() -> None:
    """Spans that cut quarters and minutes, and a baseline with edges on both sides."""
    world = World()
    usual(world)
    UsageBucket.objects.create(
        customer=world.customer, service=world.service, target=world.targets["backup"], minute_at=at(5, 9, 45), minutes=15,
        bytes=10**15 + 1, requests=1,
    )  # fmt: skip
    spans = (cover.Interval(at(5, 9, 47) + 13 * SECOND, at(5, 9, 58)), cover.Interval(SEEN, HOME))
    baseline = (cover.Interval(at(3, 4, 59), at(3, 5, 30)), cover.Interval(at(3, 5, 50), at(4, 9, 57) + 7 * SECOND))
    event = cover.Event(START, END, (), spans, baseline)
    (by_sql,) = facts.measure([(world.service.pk, event)])
    pieces = [*spans, *(edge for span in baseline for edge in cover.whole_hours(span)[1])]
    inner = [hours for span in baseline if (hours := cover.whole_hours(span)[0])]
    buckets, _ = packs._read_buckets(world.service.pk, pieces, cover.FOREVER)
    rows = [*buckets, *packs._read_hours(world.service.pk, inner, cover.FOREVER)]
    assert evidence.measure(event, sorted(rows, key=lambda b: b.start)) == by_sql
