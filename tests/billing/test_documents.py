"""What people read: the sheet, and the HTML, PDF and CSV of it. Amounts are worked out in the comments."""

from __future__ import annotations

import csv as csv_files
import dataclasses
import html
import io
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from django.template.loader import render_to_string
from django.test import Client
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from billing import credits, invoicing
from billing.documents import csv, pdf, sheet
from billing.documents.sheet import Sheet
from billing.documents.written import duration, number, percent, printable
from billing.models import Contract, Invoice, InvoiceLineItem, Prices, RateCard
from customers.models import Customer
from tests import factories
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use
from tests.together import run_together
from tests.tranche_site import console_rows as rows
from tranche_site.floor.spreadsheets import guarded

LAYERS = [{"attachment": "0", "limit": "100", "share": "0.5"}, {"attachment": "100", "limit": "400", "share": "1"}]


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def seen(page: str) -> str:
    """The text of a page, as a person reads it."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def page_of(told: Sheet) -> str:
    return seen(render_to_string("billing/invoice.html", {"sheet": told}))


def on_paper(document: bytes) -> str:
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in PdfReader(io.BytesIO(document)).pages))


def costs(told: Sheet) -> list[Decimal]:
    return [Decimal(row["BilledCost"]) for row in csv_files.DictReader(io.StringIO(csv.render(told)))]


def unsaved(*lines: dict[str, Any], customer: str = "Acme", **kw: Any) -> Sheet:
    """A sheet of rows that are in no database."""
    card = RateCard(name="Basic", currency="USD", unit="GB")
    fields = {
        "customer": Customer(pk=7, name=customer), "contract": Contract(version=1, rate_card=card),
        "prices": Prices(version=1, rate_card=card), "currency": "USD", "formula": "tranche/1", "as_of": APRIL_3,
        "period_start": at(1), "period_end": datetime(2026, 4, 1, tzinfo=UTC), "state": "open", "number": "INV-000001",
        "finalized_at": APRIL_3,
    }  # fmt: skip
    made = [
        InvoiceLineItem(**{"position": n, "details": {}, "amount_minor": 100, "kind": "usage", "description": f"line {n}"} | x)
        for n, x in enumerate(lines, 1)
    ]  # fmt: skip
    total = sum(-line.amount_minor if line.kind == "cover" else line.amount_minor for line in made)
    return sheet.build(Invoice(**{"subtotal_minor": total, "total_minor": total} | fields | kw), made)


# --- the sheet ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_two_tranches_with_taxes_to_the_last_cent() -> None:
    customer, service = billed_customer(
        layers=LAYERS, waiting_seconds=600, time_zone="America/New_York", fixed_fee=Decimal("250"),
        premium=Decimal("89.90"), tax_rates={"delivery": "0.19", "fee": "0.19", "premium": "0.07"},
    )  # fmt: skip
    use(service, "primary", at(2, 12), 4000 * GB)  # 400.00
    for minute in range(12):
        use(service, "backup", at(5, 10, minute), 100 * GB)  # 240.00, after the waiting time
    struck = storm(service, at(5, 9, 50), at(5, 10, 12))
    short = storm(service, at(9, 4), at(9, 4, 5))
    refused = storm(service, at(11), at(11, 2), attribution="origin_fault")
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    issued = invoicing.finalize(draft, APRIL_3)
    told = sheet.of(issued)

    assert [line.amount for line in told.charges] == ["400.00", "240.00", "250.00", "89.90"]
    # Covered cost of the year 0 → 240: ½ of the first 100, and all of the next 140.
    (cover,) = told.covers
    assert [line.amount for line in cover.lines] == ["-50.00", "-140.00"]
    layers = [dataclasses.astuple(line.tranche) for line in cover.lines if line.tranche]
    assert layers == [
        ("A", "0.00", "100.00", "50 %", "0.00", "240.00"),
        ("B", "100.00", "400.00", "100 %", "0.00", "240.00"),
    ]
    assert (cover.covered, cover.backup, cover.grade) == ("1,200 GB", "1,200 GB", "E2 (by minute)")
    (event,) = cover.events
    assert (event.storms, event.lasted, event.paid, event.normal_share) == (
        f"storm {struck.pk}",
        "22 min",
        "12 min",
        "0 %",
    )
    assert event.spans[0].text == "2026-03-05 10:00:00 to 10:12:00"
    # (640.00 − 190.00) × 19 % = 85.50 · 250.00 × 19 % = 47.50 · 89.90 × 7 % = 6.293
    assert [(s.label, s.amount) for s in told.sums] == [
        ("Subtotal", "979.90"),
        ("Storm cover", "-190.00"),
        ("Tax on delivery, 19 % of 450.00", "85.50"),
        ("Tax on fee, 19 % of 250.00", "47.50"),
        ("Tax on premium, 7 % of 89.90", "6.29"),
        ("Total", "929.19"),
        ("Paid", "0.00"),
        ("Credited", "0.00"),
        ("Due", "929.19"),
    ]
    assert [(s.id, s.verdict) for s in told.storms] == [
        (str(struck.pk), "paid"), (str(short.pk), "pays nothing"), (str(refused.pk), "not covered"),
    ]  # fmt: skip
    for said in (page_of(told), on_paper(pdf.render(told))):
        for words in (
            "Invoice INV-000001", "Due 2026-05-03 00:00 UTC", "America/New_York, 743 h", "929.19 USD",
            "2026-03-01 00:00 to 2026-04-01 00:00", "2026-03-01 05:00 to 2026-04-01 04:00 UTC",
            "attributed to origin_fault", "not longer than the waiting time of 600 s", "-140.00", "waiting time 10 min",
        ):  # fmt: skip
            assert words in said
        assert "DRAFT" not in said and "VOID" not in said
    assert sum(costs(told)) == Decimal("929.19")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("currency", "subtotal", "discount", "total"),
    [
        ("USD", "1,234.56", "-34.56", "1,200.00"),
        ("JPY", "123,456", "-3,456", "120,000"),
        ("KWD", "123.456", "-3.456", "120.000"),
    ],
)
def test_it_adds_up_in_the_currencys_own_digits(
    console: Client, currency: str, subtotal: str, discount: str, total: str
) -> None:
    invoice = rows.invoice(factories.contract(), currency)
    text = seen(console.get(f"/admin/billing/invoice/{invoice.pk}/document/").content.decode())
    assert f"Subtotal {subtotal} {currency}" in text
    assert f"Storm cover {discount} {currency}" in text
    assert f"Total {total} {currency}" in text
    told = sheet.of(invoice)
    assert csv.render(told).count(f",{discount.replace(',', '')},2,cover,") == 1
    assert sum(costs(told)) == Decimal(total.replace(",", ""))


@pytest.mark.django_db
def test_it_explains_every_line(console: Client) -> None:
    customer = factories.customer(name="Acme", billing_email="bills@acme.example")
    invoice = rows.invoice(factories.contract(customer=customer))
    text = seen(console.get(f"/admin/billing/invoice/{invoice.pk}/document/").content.decode())
    for said in (
        "Invoice DRAFT", "Acme", "bills@acme.example", "2026-03-01 00:00 to 2026-04-01 00:00 UTC, 744 h",
        "version 7", "Basic, version 3",
        "1,234 GB", "tier 1: 1,000 GB × 0.12 = 120.00", "tier 2: 234 GB × 0.10 = 23.40", "1,234.56",
        "Event , storm 41: 2026-03-10 10:00:00 to 10:41:30 UTC", "paid 40 min 30 s, lasted 41 min 30 s",
        "covered 57 GB of 57 GB on the backup then, above its normal share of 12.5 %", "policy version 5", "-34.56",
        "50 % of the covered backup charge", "backup charge 1,234.56", "not covered attributed to origin_fault",
    ):  # fmt: skip
        assert said in text


@pytest.mark.django_db
def test_a_final_one_bears_its_number(console: Client) -> None:
    invoice = rows.invoice(factories.contract())
    Invoice.objects.filter(pk=invoice.pk).update(number="INV-000001", state="open", finalized_at=timezone.now())
    text = seen(console.get(f"/admin/billing/invoice/{invoice.pk}/document/").content.decode())
    assert "Invoice INV-000001" in text and "DRAFT" not in text


@pytest.mark.django_db
def test_it_is_for_staff(console: Client) -> None:
    invoice = rows.invoice(factories.contract())
    assert Client().get(f"/admin/billing/invoice/{invoice.pk}/document/").status_code == 302
    assert console.get("/admin/billing/invoice/999/document/").status_code == 404


@pytest.mark.django_db
def test_what_changes_later_is_not_what_was_issued() -> None:
    customer, service = billed_customer()
    use(service, "primary", at(2), GB)
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    issued = invoicing.finalize(draft, APRIL_3)
    before = sheet.of(issued)
    service.name = "another"
    service.save()
    RateCard.objects.update(name="another")
    assert sheet.of(Invoice.objects.get()) == before


@pytest.mark.django_db
def test_a_credit_note_says_what_it_corrects_and_costs_less_than_nothing() -> None:
    customer, service = billed_customer(tax_rates={"delivery": "0.19"})
    use(service, "primary", at(2), 1000 * GB)  # 100.00
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    issued = invoicing.finalize(draft, APRIL_3)
    note = credits.credit_line(issued.lines.get(), 50_00, "goodwill", "a slow answer", "ann", APRIL_3)
    told = sheet.of(note)
    assert (told.title, told.corrects, told.reason) == (
        "Credit note CN-000001",
        "INV-000001",
        "goodwill: a slow answer",
    )
    for said in (page_of(told), on_paper(pdf.render(told))):
        assert "Corrects INV-000001 : goodwill" in said or "Corrects INV-000001: goodwill" in said
        assert "Total credited 59.50 USD" in said and "Due" not in said
    assert costs(told) == [Decimal("-50.00"), Decimal("-9.50")]

    issued.refresh_from_db()
    told = sheet.of(issued)
    assert [(n.number, n.reason, n.amount) for n in told.credit_notes] == [
        ("CN-000001", "goodwill: a slow answer", "-59.50")
    ]
    assert [(s.label, s.amount) for s in told.sums[-2:]] == [("Credited", "-59.50"), ("Due", "59.50")]
    assert sum(costs(told)) == Decimal("119.00")


@pytest.mark.django_db
def test_own_cdns_are_explained_and_delivery_is_not_charged() -> None:
    customer, service = billed_customer(kind="own_cdn", premium=Decimal(30), tax_rates={"premium": "0.19"})
    use(service, "backup", at(5, 10), 100 * GB)  # 20.00 at the declared rate, half of it ours
    storm(service, at(5, 9), at(5, 11))
    (draft,) = invoicing.draft(customer, MARCH, APRIL_3)
    told = sheet.of(draft)
    assert [(line.kind, line.amount) for line in told.lines] == [("premium", "30.00"), ("cover", "-10.00")]
    assert told.covers[0].backup == "100 GB"
    for said in (page_of(told), on_paper(pdf.render(told))):
        assert "delivery is not billed here" in said
    assert sum(costs(told)) == Decimal("25.70")


def test_a_correction_says_which_line_of_which_period_it_corrects() -> None:
    first = InvoiceLineItem(position=2, invoice=Invoice(number="INV-000007"))
    details = {
        "invoice": "INV-000007", "bytes_now": {"primary": 1000}, "rated_again_at": "2026-05-04T05:06:07+00:00",
        "period": ["2026-03-01T05:00:00+00:00", "2026-04-01T04:00:00+00:00"], "tax_rate": "0.19",
    }  # fmt: skip
    correction = {"kind": "correction", "corrects": first, "details": details}
    told = unsaved(correction, time_zone="America/New_York")
    said = page_of(told)
    for words in (
        "corrects line 2 of INV-000007", "original period 2026-03-01 00:00 to 2026-04-01 00:00 America/New_York",
        "usage now: primary 1,000 bytes", "rated again 2026-05-04 05:06 UTC", "tax 19 %",
    ):  # fmt: skip
        assert words in said
    (row,) = csv_files.DictReader(io.StringIO(csv.render(told)))
    assert row["ChargePeriodStart"] == "2026-03-01T05:00:00Z" and row["ChargePeriodEnd"] == "2026-04-01T04:00:00Z"
    assert (row["ChargeCategory"], row["ChargeClass"]) == ("Adjustment", "Correction")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            {"kind": "requests", "details": {"requests": 1_234_567, "per_10k": "0.0075", "exact": "0.92592525"}},
            ["1,234,567 requests", "0.0075 per 10,000", "exactly 0.92592525, rounded once to 1.00"],
        ),
        (
            {"kind": "fixed_fee", "details": {"a_month": "100", "share_of_month": "1/3", "exact": "100/3"}},
            ["1/3 month", "100.00 a month", "exactly 33.333333…, rounded once to 1.00"],
        ),
        (
            {
                "kind": "minimum",
                "details": {
                    "a_month": "500", "share_of_month": "1", "exact": "500", "committed_minor": 50000, "reached_minor": 12345,
                    "on_net": True,
                },
            },
            ["at least 500.00 a month", "committed 500.00 in this period, reached 123.45 after cover"],
        ),
        ({"details": {"units": "7", "unit": "GiB", "tiers": [{"units": "7", "per_unit": "0.1"}]}}, ["7 GiB", "0.10 per GiB"]),
        ({"kind": "cover", "details": {"of_cover_minor": 5000}}, ["of 50.00 cover; the rest is credited"]),
    ],
)  # fmt: skip
def test_how_an_amount_follows(line: dict[str, Any], said: list[str]) -> None:
    told = unsaved(line)
    for text in (page_of(told), on_paper(pdf.render(told))):
        for words in said:
            assert words in text


def test_each_cdn_with_a_price_of_its_own_has_its_own_bytes() -> None:
    sizes = {"bytes": 30 * GB, "covered_bytes": 20 * GB}
    event = {
        "storms": ["storm-1"], "start": "2026-03-05T10:00:00Z", "end": "2026-03-05T11:00:00Z", "paid_seconds": "3600",
        "spans": [{"start": "2026-03-05T10:00:00Z", "end": "2026-03-05T11:00:00Z"}],
        "by_cdn": {"bunny": sizes, "fastly": {"bytes": 5 * GB, "covered_bytes": 4 * GB}, "akamai": sizes},
    }  # fmt: skip
    usage = [
        {"service": "None", "path": path, "cdn": cdn, "bytes": size * GB}
        for path, cdn, size in (
            ("backup", "bunny", 30),
            ("backup", "akamai", 31),
            ("backup", "fastly", 5),
            ("primary", "x", 9),
        )
    ]
    covers = [{"kind": "cover", "path": "backup", "cdn": cdn, "details": {"events": [event]}} for cdn in ("", "fastly")]
    told = unsaved(*covers, inputs={"rates": {"cdns": {"fastly": {"backup": []}}}, "usage": usage}, total_minor=0)
    assert [(c.backup, c.events[0].covered, c.events[0].moved) for c in told.covers] == [
        ("61 GB", "40 GB", "60 GB"), ("5 GB", "4 GB", "5 GB"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "number_", "mark"), [("draft", None, "DRAFT"), ("void", "INV-000001", "VOID"), ("paid", "INV-000001", "")]
)
def test_a_mark_is_seen_from_afar(state: str, number_: str | None, mark: str) -> None:
    told = unsaved({}, state=state, number=number_, finalized_at=APRIL_3 if number_ else None)
    paper = on_paper(pdf.render(told))
    assert [word for word in ("DRAFT", "VOID") if word in paper] == [mark] * bool(mark)
    assert ("INV-" in paper) == bool(number_)
    page = render_to_string("billing/invoice.html", {"sheet": told})
    assert (f'data-mark="{mark}"' in page) == bool(mark)
    assert [row["InvoiceId"] for row in csv_files.DictReader(io.StringIO(csv.render(told)))] == [number_ or ""]


# --- the PDF --------------------------------------------------------------------------------------------------------


def test_the_same_sheet_is_the_same_pdf_in_any_process() -> None:
    told = unsaved({"description": "Delivery, primary: שלום مرحبا Ünïcode"}, {}, time_zone="Asia/Kathmandu")
    here = pdf.render(told)
    assert pdf.render(told) == here
    code = """import pickle, sys; from billing.documents import pdf
sys.stdout.buffer.write(pdf.render(pickle.load(sys.stdin.buffer)))"""
    elsewhere = {**os.environ, "TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(told), capture_output=True, check=True, env=elsewhere
    )
    assert run.stdout == here
    written = PdfReader(io.BytesIO(here)).metadata
    assert written and written.creation_date == APRIL_3


def test_threads_share_the_compiler() -> None:
    sheets = [unsaved({}, customer=f"Customer {n}") for n in range(4)]
    alone = [pdf.render(told) for told in sheets]
    made: dict[int, bytes] = {}

    def render(n: int) -> Callable[[], None]:
        return lambda: made.update({n: pdf.render(sheets[n])})

    run_together(*[render(n) for n in range(4)])
    assert [made[n] for n in range(4)] == alone


def test_a_fork_is_told_instead_of_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pdf.render(unsaved({}))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="forked"):
        pdf.render(unsaved({}))


def test_two_thousand_lines_and_the_heads_of_their_table_on_every_page() -> None:
    pages = PdfReader(io.BytesIO(pdf.render(unsaved(*[{}] * 2000)))).pages
    texts = [page.extract_text() for page in pages]
    assert len(texts) > 20 and "2,000.00 USD" in texts[-1]
    assert all("DESCRIPTION" in text for text in texts[:-1])


# --- what customers may be called -----------------------------------------------------------------------------------

HOSTILE = [
    """#import "x.typ": *""", """#read("/etc/passwd")""", "$x^2$ *bold* _it_ `raw`", """\\ @label <label> [x] "quoted" 'q'""",
    "= = = Head", "// comment /* and */ more", "- item + item / term: x", "~ -- --- ...", "<script>alert(1)</script> & &amp;",
    "{{ x }} {% y %}",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_markup_is_printed_as_it_is(name: str) -> None:
    told = unsaved({"description": name}, customer=name)
    squeezed = re.sub(r"\s", "", name)
    assert re.sub(r"\s", "", on_paper(pdf.render(told))).count(squeezed) == 2
    page = render_to_string("billing/invoice.html", {"sheet": told})
    assert html.escape(name) in page and name.strip("{% }") in seen(page)
    assert "<script" not in page


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("a\x00b\x07c\x7f", "a␀b␇c␡"),
        ("two\nlines\tand\u2028more", "two lines and more"),
        ("100\u202e99", "10099"),
        ("\u2066x\u2069", "x"),
        ("\x85\x9b", " \ufffd"),
        ("żółć 你好 مرحبا 👩\u200d💻", "żółć 你好 مرحبا 👩\u200d💻"),
    ],
)
def test_control_characters_are_shown_and_nothing_turns_the_text_around(raw: str, said: str) -> None:
    assert printable(raw) == said


@settings(max_examples=40, deadline=None)
@given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_name_can_be_printed(name: str) -> None:
    told = unsaved({"description": name}, customer=name)
    assert PdfReader(io.BytesIO(pdf.render(told))).metadata
    assert html.escape(printable(name)) in render_to_string("billing/invoice.html", {"sheet": told})
    (row,) = csv_files.DictReader(io.StringIO(csv.render(told), newline=""))
    assert row["ChargeDescription"].removeprefix("'") == printable(name).removeprefix("'")


def test_a_word_of_300_letters_stays_on_the_page() -> None:
    told = unsaved({"description": "W" * 300}, customer="W" * 300)
    (page,) = PdfReader(io.BytesIO(pdf.render(told))).pages
    text = page.extract_text()
    assert text.count("W") == 600 and max(line.count("W") for line in text.splitlines()) < 60
    assert "\u200b" not in text


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("=1+1", "'=1+1"), ("+49 30", "'+49 30"), ("-x", "'-x"), ("@SUM(A1)", "'@SUM(A1)"), ("\tx", "'\tx"),
        ("  =1+1", "'  =1+1"), ("＝1+1", "'＝1+1"), ("-12.50", "-12.50"), ("+3", "+3"), ("-1e5", "'-1e5"), ("plain", "plain"),
        ("", ""),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(cell: str, said: str) -> None:
    assert guarded(cell) == said


@pytest.mark.parametrize("kind", [*InvoiceLineItem.Kind.values])
def test_every_kind_of_line_has_a_category(kind: str) -> None:
    told = unsaved({"kind": kind, "amount_minor": 7}, total_minor=-7 if kind == "cover" else 7)
    (row,) = csv_files.DictReader(io.StringIO(csv.render(told)))
    assert row["ChargeCategory"] in {"Usage", "Purchase", "Credit", "Adjustment"}
    assert Decimal(row["BilledCost"]) == Decimal(told.total_minor) / 100


# --- numbers and times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "places", "said"),
    [
        (Fraction(1234567), 2, "1,234,567.00"), (Fraction(1, 3), 2, "0.333333…"), (Fraction(1, 8), 0, "0.125"),
        (Fraction(11_213_118_044_112, 10**9) * Fraction(72, 1000), 2, "807.344499176064"), (Fraction(5), 0, "5"),
        (Fraction(1, 10**13), 2, "0.00…"), (Fraction(-3, 2), 3, "-1.500"),
    ],
)  # fmt: skip
def test_numbers_are_exact_or_say_that_they_go_on(value: Fraction, places: int, said: str) -> None:
    assert number(value, places) == said


def test_shares_and_lengths() -> None:
    assert [percent(Fraction(n, d)) for n, d in ((1, 3), (1, 1), (1, 20_000), (0, 1))] == [
        "33.33 %",
        "100 %",
        "0.01 %",
        "0 %",
    ]
    assert [duration(Fraction(s)) for s in (0, 59, 3600, 20_490)] == ["0 s", "59 s", "1 h", "5 h 41 min 30 s"]


@pytest.mark.parametrize(
    ("zone", "month", "hours"),
    [
        ("America/New_York", 3, "743 h"),
        ("America/New_York", 11, "721 h"),
        ("Australia/Lord_Howe", 4, "720.5 h"),
        ("UTC", 2, "672 h"),
    ],
)
def test_a_month_has_the_hours_of_its_zone(zone: str, month: int, hours: str) -> None:
    span = dataclasses.replace(MARCH, month=month).span(zone)
    told = unsaved(period_start=span.start, period_end=span.end, time_zone=zone)
    assert told.period.hours == hours
    assert told.period.local == f"2026-{month:02d}-01 00:00 to 2026-{month + 1:02d}-01 00:00"
    assert timedelta(0) < told.period.end - told.period.start
