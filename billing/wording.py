"""What stands on the lines of an invoice, in words."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from billing.money import exponent
from billing.rating import Line

_FEES = {"fixed_fee": "Fixed fee", "premium": "Premium for storm cover", "minimum": "Up to the minimum commitment"}


def describe(line: Line, names: Mapping[str, str], currency: str) -> str:
    """One line; `names` are the services' by id."""
    if line.kind in _FEES:
        return _FEES[line.kind]
    service = names.get(line.service, f"service {line.service}")
    over = f", {line.path}" + (f" ({line.cdn})" if line.cdn else "")
    if line.kind == "requests":
        return f"Requests{over}: {service}"
    if line.kind == "cover":
        return f"Storm cover{tranche(line, currency)}: {service}"
    return f"Delivery{over}: {service}"


def tranche(line: Line, currency: str) -> str:
    """“, tranche A (first 100.00 xs 0.00, 50 %)”; nothing where cover has no layers."""
    if "layer" not in line.details:
        return ""
    letter = chr(ord("A") + int(line.details["layer"]) - 1)
    attachment, share = _amount(line.details["attachment"], currency), Decimal(line.details["share"]) * 100
    limit = line.details["limit"]
    size = (
        "all"
        if limit is None
        else f"{'first' if Decimal(line.details['attachment']) == 0 else 'next'} {_amount(limit, currency)}"
    )
    return f", tranche {letter} ({size} xs {attachment}, {share.normalize():f} %)"


def _amount(text: str, currency: str) -> str:
    return f"{Decimal(text):,.{exponent(currency)}f}"
