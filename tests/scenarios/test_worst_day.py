"""The worst day of the year, by clicks alone: a person at the console, and a CDN that fails."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dnslib
import pytest

from tests.browser import Browser
from tests.stack import Stack, until
from tranche_site.demo import world

PASSWORD = "correct horse battery"
# As quick as the drill, and with a month that is over: its terms and its traffic.
WORLD = """
from datetime import timedelta
from django.utils import timezone
from billing.models import Contract, Prices, UsageBucket, UsageSnapshot
from services.models import Service, Target
from storms.models import StormPolicy
Service.objects.update(interval_seconds=1)
policy = StormPolicy.objects.get()
policy.window_seconds, policy.cooldown_seconds, policy.minimum_seconds, policy.holdoff_seconds = 10, 5, 10, 5
policy.holdoff_max_seconds = 10
policy.save()
for model in (Prices, Contract):
    row = model.objects.get()
    row.valid_from = (row.valid_from - timedelta(days=1)).replace(day=1)
    row.save()
path = Target.objects.get(role="primary")
hour = (timezone.now().replace(day=1) - timedelta(days=10)).replace(minute=0, second=0, microsecond=0)
used = {"customer": path.customer, "service": path.domain.service, "target": path, "bytes": 40_000_000_000, "requests": 9}
UsageBucket.objects.create(**used, minute_at=hour, minutes=15)
UsageSnapshot.objects.create(**used, window_start=hour, window_end=hour + timedelta(hours=1))
"""


@pytest.fixture
def stack() -> Iterator[Stack]:
    stack = Stack(
        ADMIN_PASSWORD=PASSWORD, BLAST_RADIUS_SHARE="0", BLAST_RADIUS_FLOOR="0", FAILBACK_GATE_SECONDS="3",
        DEMO_LOG_SECONDS="3", TWO_FACTOR="0", REAUTHENTICATE_SECONDS="900",
    )  # fmt: skip
    stack.start()
    yield stack
    stack.close()


@pytest.fixture
def browser(stack: Stack) -> Iterator[Browser]:
    browser = Browser(f"http://127.0.0.1:{stack.port}")
    yield browser
    browser.close()


def test_a_storm_opens_its_plan_is_approved_and_observed_it_ends_and_an_invoice_goes_out(
    stack: Stack, browser: Browser
) -> None:
    stack.await_ready()
    made = stack.run("shell", "-c", WORLD)
    assert made.returncode == 0, made.stderr

    browser.open("/")
    browser.fill("username", "admin")
    browser.fill("password", PASSWORD)
    browser.click("Log in")
    browser.see("Operations room")

    # Our own witness is off, so that nobody but the customer's paths says that the CDN fails: a person must decide.
    browser.open("/admin/services/target/?role__exact=reference")
    browser.click(f"reference.cloudflare.{world.ZONE}")
    browser.tick("enabled", False)
    browser.click("Save")
    browser.see("was changed successfully")
    browser.open("/admin/")
    browser.see("no good drill", 90)
    until(lambda: "of an armed policy" not in browser.text and "UNKNOWN" not in browser.text, 90)

    assert stack.run("edge", "primary", "500").returncode == 0
    # The room tells it by itself.
    browser.see("1 storm is raging", 60)
    browser.see("1 plan waits for an operator", 30)
    browser.see("Plans that wait for you")
    assert _answer(stack) == "primary"
    browser.click(world.HOSTNAME, within=".tr-card-alert")
    browser.await_path("/admin/dns/weightchange/")
    browser.click("Approve")
    browser.fill("reason", "their status page says so")
    browser.click("Approve", within="#dialog")
    browser.see("approved", 20)
    until(lambda: _answer(stack) == "backup", 30)
    browser.open("/admin/")
    browser.click("shop", within=".tr-card-alert")
    browser.see("A storm rages since")
    browser.see("OBSERVED", 30)
    assert "primary Cloudflare" in browser.text and "<svg xmlns" in browser.source

    assert stack.run("edge", "primary", "ok").returncode == 0
    browser.open("/admin/storms/stormevent/1/change/")
    browser.click("Note")
    browser.fill("reason", "They say it is mended.")
    browser.click("Note it", within="#dialog")
    browser.see("They say it is mended.")
    browser.open("/admin/")
    until(lambda: "1 storm is raging" not in browser.text, 60)
    browser.see("failback: 100 % to the primary, which is up again", 90)
    browser.see("No storm.")
    until(lambda: _answer(stack) == "primary", 30)

    last_month = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
    until(lambda: _invoice_of(browser, last_month), 60)
    browser.open(_invoice_of(browser, last_month))
    browser.click("Finalize")
    browser.fill("reason", "the month is over")
    browser.click("Finalize", within="#dialog")
    browser.see("INV-", 20)

    assert browser.complaints() == []


def _invoice_of(browser: Browser, month: str) -> str:
    """Its page; empty while there is none."""
    browser.open("/admin/billing/invoice/")
    rows = browser.script(
        "return [...document.querySelectorAll('#result_list tr')].map("
        "row => [row.innerText, (row.querySelector('a[href*=\"/change/\"]') || {}).pathname])"
    )
    return next((path for text, path in rows if month in text and path), "")


def _answer(stack: Stack) -> str:
    answers = _answers(stack)
    return answers.pop() if len(answers) == 1 else "both"


def _answers(stack: Stack) -> set[str]:
    """Which edges visitors are sent to, asked twenty times as `dig` would."""
    question = dnslib.DNSRecord.question(world.HOSTNAME, "CNAME")
    port = int(stack.environment["DEMO_DNS_PORT"])
    found = set()
    for _ in range(20):
        reply = dnslib.DNSRecord.parse(question.send("127.0.0.1", port, timeout=5))
        found |= {str(record.rdata).rstrip(".") for record in reply.rr if record.rtype == dnslib.QTYPE.CNAME}
    return {edge.role for edge in world.EDGES if edge.target in found}
