"""A sheet's amounts as CSV, one row each, in columns as the FOCUS specification names them; those with x_ are ours.

The sum of BilledCost is the invoice's total. A credit note's costs are below 0, so that its sum is its total taken away.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.bill import REQUESTS_PER_PRICE
from billing.cover import zulu
from billing.documents.sheet import COVER, CREDIT, Line, Period, Sheet, Tax
from billing.documents.written import fraction
from billing.money import exponent
from billing.rating import decimal
from tranche_site.floor.spreadsheets import guarded

COLUMNS = (
    "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd",
    "ChargePeriodStart", "ChargePeriodEnd", "InvoiceId", "InvoiceIssuerName", "ChargeCategory", "ChargeClass",
    "ChargeDescription", "ServiceName", "ResourceId", "ConsumedQuantity", "ConsumedUnit", "PricingQuantity", "PricingUnit",
    "ListUnitPrice", "BilledCost", "x_Line", "x_Kind", "x_Path", "x_Cdn", "x_CoveredBytes", "x_TaxCategory", "x_TaxRate",
    "x_Details",
)  # fmt: skip
_CATEGORIES = {
    "usage": "Usage", "requests": "Usage", "minimum": "Purchase", "fixed_fee": "Purchase", "premium": "Purchase",
    "correction": "Adjustment", "cover": "Credit", "credit": "Credit",
}  # fmt: skip
_SERVICES = {
    "usage": "Delivery",
    "requests": "Delivery",
    "minimum": "Delivery",
    "cover": "Storm cover",
    "premium": "Storm cover",
}
_MONTHLY = ("fixed_fee", "premium")


def render(sheet: Sheet) -> str:
    """The whole file, its lines ended by CRLF as RFC 4180 has it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in _rows(sheet):
        writer.writerow({column: guarded(str(value)) for column, value in row.items()})
    return out.getvalue()


def _rows(sheet: Sheet) -> Iterable[Mapping[str, Any]]:
    sign = -1 if sheet.is_credit_note else 1
    common = {
        "BillingAccountId": sheet.customer_id,
        "BillingAccountName": sheet.customer,
        "BillingCurrency": sheet.currency,
        "BillingPeriodStart": _time(sheet.period.start),
        "BillingPeriodEnd": _time(sheet.period.end),
        "InvoiceId": sheet.number,
        "InvoiceIssuerName": sheet.issuer[0],
        "ChargeClass": "Correction" if sheet.is_credit_note else "",
    }
    for line in sheet.lines:
        yield common | _charge(line, sheet) | {"BilledCost": _cost(sign * line.amount_minor, sheet.currency)}
    for tax in sheet.taxes:
        yield common | _tax(tax, sheet.period) | {"BilledCost": _cost(sign * tax.tax_minor, sheet.currency)}


def _charge(line: Line, sheet: Sheet) -> dict[str, Any]:
    period = line.period or sheet.period
    is_late = line.period is not None or line.kind == CREDIT
    return {
        "ChargePeriodStart": _time(period.start),
        "ChargePeriodEnd": _time(period.end),
        "ChargeCategory": _CATEGORIES[line.kind],
        "ChargeDescription": line.description,
        "ServiceName": _SERVICES.get(line.kind, line.label.capitalize()),
        "ResourceId": line.service.replace(" ", "-"),
        "x_Line": line.position,
        "x_Kind": line.kind,
        "x_Path": line.path,
        "x_Cdn": line.cdn,
        "x_CoveredBytes": line.bytes if line.kind == COVER else "",
        "x_TaxCategory": line.tax_category,
        "x_TaxRate": line.details.get("tax_rate", ""),
        "x_Details": json.dumps(line.details, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
    } | _quantities(line) | ({"ChargeClass": "Correction"} if is_late else {})  # fmt: skip


def _quantities(line: Line) -> dict[str, Any]:
    """Bytes as consumed and the units that have the price; requests; or months."""
    details = line.details
    if line.kind == "usage":
        tiers = details.get("tiers", [])
        return {
            "ConsumedQuantity": line.bytes,
            "ConsumedUnit": "B",
            "PricingQuantity": details.get("units", ""),
            "PricingUnit": details.get("unit", ""),
            "ListUnitPrice": tiers[0]["per_unit"] if len(tiers) == 1 else "",
        }
    if line.kind == "requests":
        count = details.get("requests", 0)
        return {
            "ConsumedQuantity": count,
            "ConsumedUnit": "Requests",
            "PricingQuantity": decimal(Fraction(count, REQUESTS_PER_PRICE)),
            "PricingUnit": f"{REQUESTS_PER_PRICE // 1000}K Requests",
            "ListUnitPrice": details.get("per_10k", ""),
        }
    if line.kind in _MONTHLY and (share := fraction(details.get("share_of_month"))) is not None:
        return {
            "PricingQuantity": decimal(share), "PricingUnit": "Months", "ListUnitPrice": details.get("a_month", "")
        }  # fmt: skip
    return {}


def _tax(tax: Tax, period: Period) -> dict[str, Any]:
    return {
        "ChargePeriodStart": _time(period.start),
        "ChargePeriodEnd": _time(period.end),
        "ChargeCategory": "Tax",
        "ChargeDescription": f"Tax on {tax.category}, {tax.rate} of {tax.taxable}",
        "ServiceName": "Tax",
        "x_Kind": "tax",
        "x_TaxCategory": tax.category,
        "x_TaxRate": tax.share,
    }


def _time(at: datetime) -> str:
    return zulu(at.astimezone(UTC))


def _cost(amount_minor: int, currency: str) -> str:
    """In major units with the currency's own digits, and nothing else that a parser would have to know."""
    digits = exponent(currency)
    return f"{Decimal(amount_minor).scaleb(-digits):.{digits}f}"
