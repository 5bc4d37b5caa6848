"""Minor units of currencies, and how an amount in them is written."""

from __future__ import annotations

from decimal import Decimal

# ISO 4217; what is not named here has two.
EXPONENTS = {"USD": 2, "EUR": 2, "GBP": 2, "JPY": 0, "KWD": 3}


def exponent(currency: str) -> int:
    """How many decimals the currency has: 2 for USD, 0 for JPY, 3 for KWD."""
    return EXPONENTS.get(currency, 2)


def format_minor(amount_minor: int, currency: str) -> str:
    """The amount as a person writes it, without the currency: 123456 is “1,234.56” in USD and “123,456” in JPY."""
    digits = exponent(currency)
    return f"{Decimal(amount_minor).scaleb(-digits):,.{digits}f}"
