"""The whole story through real pieces: samples, storm, steering, DNS answers, CDN logs, usage, invoice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dnslib
import pytest

from billing import invoicing, metering
from billing.models import CoverRuling, Invoice, UsageSource
from billing.segments import Month
from customers.models import Event
from dns import outbox, reconcile, steering
from dns.embedded import EmbeddedDns
from dns.models import EmbeddedRecord, RecordSet, WeightChange
from services.models import Target
from storms.models import StormEvent
from storms.watch import watch
from tests import factories
from tests.samples import record, times
from tests.servers import free_port
from tranche_site.demo import access_logs

pytestmark = pytest.mark.django_db(transaction=True)

ZONE = "scenario.test"
HOSTNAME = f"www.{ZONE}"
MB = 1_000_000
# Far ahead: steering notes by the real clock when it observed a change, and failback counts from there.
NOON = datetime(2040, 3, 10, 12, tzinfo=UTC)


def at(text: str) -> datetime:
    """12:MM:SS on the day of the story."""
    minute, second = map(int, text.split(":"))
    return NOON + timedelta(minutes=minute, seconds=second)


@dataclass
class Story:
    primary: Target
    backup: Target
    origin: Target
    points: list[Any]
    record_set: RecordSet
    dns_port: int
    logs: Path

    def samples(self, start: str, end: str, primary: str) -> None:
        """Every ten seconds from every vantage point; backup and origin are well all the time."""
        slots = times(at(start), at(end), 10)
        record([self.backup, self.origin], self.points, slots)
        record([self.primary], self.points, slots, primary)

    def steer(self, now: datetime) -> list[WeightChange]:
        """As the task does: plan, write, and look until DNS shows it at every authoritative server."""
        made = steering.steer(now)
        outbox.submit(now)
        deadline = time.monotonic() + 10
        while WeightChange.objects.live().exists():
            reconcile.observe(datetime.now(UTC))
            assert time.monotonic() < deadline, RecordSet.objects.get().observation
        # It was seen by this machine's clock, and the story has its own.
        WeightChange.objects.filter(pk__in=[change.pk for change in made]).update(observed_at=now)
        return made

    def answers(self) -> set[str]:
        """Where twenty visitors are sent, half of them asking over TCP."""
        return {self._ask("CNAME", HOSTNAME, tcp=tcp) for tcp in (False, True) for _ in range(10)}

    def beacon(self) -> str:
        return self._ask("TXT", f"_tranche.{HOSTNAME}", tcp=False)

    def _ask(self, qtype: str, name: str, *, tcp: bool) -> str:
        packet = dnslib.DNSRecord.question(name, qtype).send("127.0.0.1", self.dns_port, tcp=tcp, timeout=2)
        reply = dnslib.DNSRecord.parse(packet)
        assert reply.header.aa
        (answer,) = (rr for rr in reply.rr if rr.rtype == getattr(dnslib.QTYPE, qtype))
        return str(answer.rdata).rstrip(".").strip('"')

    def log(self, minute: str, megabytes: int, host: str = HOSTNAME) -> access_logs.Entry:
        """One request of so many megabytes, half a minute into 12:MM."""
        return access_logs.Entry(
            at(f"{minute}:30").timestamp(), host, "GET", "/film.mp4?part=1", 200, megabytes * MB, "127.0.3.1",
            "Mozilla/5.0 (a visitor)",
        )  # fmt: skip

    def deliver(self, slug: str, log_format: str, usage: dict[str, int]) -> None:
        """Finished log objects, as the CDN leaves them: megabytes by minute; one object for each, out of order."""
        log = access_logs.AccessLog(self.logs / slug, access_logs.FORMATS[log_format])
        for minute, megabytes in sorted(usage.items(), reverse=True):
            log.add(self.log(minute, megabytes))
            log.add(self.log(minute, 1000, host="www.somebody-else.test"))
            log.rotate()


@pytest.fixture
def story(settings: Any, tmp_path: Path) -> Iterator[Story]:
    port = free_port()
    settings.AUTHORITY_OVERRIDES = {ZONE: f"127.0.0.1:{port}"}
    settings.FAILBACK_STEPS_PERCENT = [100]
    settings.FAILBACK_GATE_SECONDS = 3
    service = factories.service(interval_seconds=10)
    domain = factories.domain(service=service, hostname=HOSTNAME)
    cdns = {role: factories.cdn() for role in ("primary", "backup")}
    targets = {
        role: factories.target(role, domain=domain, cdn=cdns[role], address=f"{role}.{ZONE}")
        for role in ("primary", "backup")
    }
    origin = factories.target("origin", domain=domain, address=f"origin.{ZONE}")
    points = [factories.vantage_point() for _ in range(3)]
    factories.policy(
        service=service, window_seconds=60, min_samples=3, min_failures=3, closing_samples=3, cooldown_seconds=60,
        minimum_seconds=240, max_coverage_factor=Decimal("0.6"),
    )  # fmt: skip
    EmbeddedRecord.objects.create(
        zone=ZONE, name=ZONE, type="SOA", value=f"ns1.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 5", ttl_seconds=60
    )
    EmbeddedRecord.objects.create(zone=ZONE, name=ZONE, type="NS", value=f"ns1.{ZONE}.", ttl_seconds=60)
    record_set = factories.record_set(
        domain=domain, account=factories.dns_account("embedded"), zone=ZONE, ttl_seconds=5
    )
    card = factories.rate_card(
        primary_tiers=[{"up_to": None, "per_unit": "500"}], backup_tiers=[{"up_to": None, "per_unit": "1000"}]
    )
    factories.contract(
        customer=service.customer, rate_card=card, discount_rate=Decimal("0.5"), max_coverage_factor=Decimal("0.8"),
        merge_gap_seconds=0, drain_seconds=0,
    )  # fmt: skip
    for role, log_format in (("primary", "cloudflare_logpush"), ("backup", "cloudfront")):
        (tmp_path / role).mkdir()
        UsageSource.objects.create(
            customer=service.customer, name=f"{role} logs", cdn=cdns[role], kind="directory", format=log_format,
            location=str(tmp_path / role),
        )  # fmt: skip
    server = EmbeddedDns("127.0.0.1", port)
    server.start()
    yield Story(targets["primary"], targets["backup"], origin, points, record_set, port, tmp_path)
    server.stop()


def test_an_outage_moves_traffic_and_is_paid_to_the_cent(story: Story) -> None:
    # All is well: the first plan puts everything on the primary, and DNS says so.
    story.samples("00:15", "02:15", primary="ok")
    assert watch(at("02:10")).opened == []
    story.steer(at("02:10"))
    assert story.answers() == {f"primary.{ZONE}"}
    assert story.beacon() == "rev=1"

    # The primary fails from 12:02:15 on. Two bad samples are not enough.
    story.samples("02:15", "02:35", primary="http_5xx")
    assert watch(at("02:30")).opened == []
    assert story.steer(at("02:30")) == []

    # The third opens a storm that began with the first; everything moves in one step.
    story.samples("02:35", "05:35", primary="http_5xx")
    assert watch(at("02:36")).opened == [story.record_set.domain.service_id]
    storm = StormEvent.objects.get()
    assert storm.attribution == "cdn_fault"
    assert (storm.started_at, storm.detected_at) == (at("02:15"), at("02:36"))
    (away,) = story.steer(at("02:36"))
    assert away.weights == {str(story.primary.pk): 0, str(story.backup.pk): 100}
    assert away.storm == storm and away.reason
    assert story.answers() == {f"backup.{ZONE}"}
    assert story.beacon() == "rev=2"

    # Run again, everything is as it was: one outage is one storm, one plan is one change.
    watch(at("02:36"))
    watch(at("05:26"))
    assert story.steer(at("05:26")) == []
    assert StormEvent.objects.count() == 1 and WeightChange.objects.count() == 2

    # Good from 12:05:35 on; a whole window later the storm has ended with the first good sample, and is not closed yet.
    story.samples("05:35", "07:35", primary="ok")
    watch(at("06:26"))
    storm.refresh_from_db()
    assert (storm.ended_at, storm.closed_at) == (at("05:35"), None)
    assert story.steer(at("06:26")) == []
    # Cooldown (60 s since it was last bad) and minimum (240 s since it began) have passed: closed, and traffic goes home.
    watch(at("06:27"))
    storm.refresh_from_db()
    assert storm.closed_at == at("06:27")
    (home,) = story.steer(at("06:27"))
    assert home.weights == {str(story.primary.pk): 100, str(story.backup.pk): 0}
    assert home.is_reversal
    assert story.answers() == {f"primary.{ZONE}"}
    assert story.beacon() == "rev=3"
    kinds = list(Event.objects.order_by("id").values_list("kind", flat=True))
    assert [kind for kind in kinds if kind.startswith("storm.")] == ["storm.opened", "storm.ended", "storm.closed"]
    assert kinds.count("weights.observed") == 3

    # The CDNs deliver what they served, with hosts that are not ours among it; a second look counts nothing twice.
    story.deliver("primary", "cloudflare_logpush", {"01": 10, "02": 1, "07": 1})
    story.deliver("backup", "cloudfront", {"02": 4, "03": 3, "04": 2, "05": 12, "06": 5})
    for _ in range(2):
        metering.collect_all(apply=True, now=at("08:00"))

    # Usage: primary 12 MB at 500 a GB = 6.00; backup 26 MB at 1000 a GB = 26.00
    customer = story.record_set.customer
    month = Month(2040, 3)
    (draft,) = invoicing.draft(customer, month, at("08:00"))
    assert (draft.subtotal_minor, draft.discount_minor, draft.total_minor) == (3200, 0, 3200)
    # One customer's own paths alone can't make a claim; a person finds that the CDN was at fault.
    (refused,) = draft.decisions["storms"]
    assert not refused["is_covered"] and "no witness yet" in refused["reason"]
    CoverRuling.objects.create(
        customer=customer, storm=storm, is_covered=True, reason="their status page", ruled_by="ann"
    )

    # Covered: from the shift seen at 12:02:36 until failback seen at 12:06:27. That is 24 s of minute 02, all of 03, 04
    # and 05, and 27 s of minute 06: 4 · 24/60 + 3 + 2 + 12 + 5 · 27/60 = 20.85 MB at 1000 a GB = 20.85
    # Factor: min(contract 0.8, policy 0.6) = 0.6; discount 20.85 · 0.5 · 0.6 = 6.255, rounded 6.26
    # Total: 6.00 + 26.00 − 6.26 = 25.74
    invoice = invoicing.finalize(draft, month.span().end + timedelta(hours=24))
    assert (invoice.state, invoice.subtotal_minor, invoice.discount_minor, invoice.total_minor) == (
        Invoice.State.OPEN, 3200, 626, 2574,
    )  # fmt: skip
    lines = {(line.kind, line.path): line for line in invoice.lines.all()}
    assert {key: (line.bytes, line.amount_minor) for key, line in lines.items()} == {
        ("usage", "primary"): (12 * MB, 600),
        ("usage", "backup"): (26 * MB, 2600),
        ("cover", "backup"): (20_850_000, 626),
    }
    (told,) = lines["cover", "backup"].details["storms"]
    assert (told["start"], told["end"]) == ("2040-03-10T12:02:15Z", "2040-03-10T12:05:35Z")
    assert told["reason"] == storm.reason and told["attribution"] == "cdn_fault"
    (event,) = lines["cover", "backup"].details["events"]
    assert event["spans"] == [{"start": "2040-03-10T12:02:36Z", "end": "2040-03-10T12:06:27Z"}]
