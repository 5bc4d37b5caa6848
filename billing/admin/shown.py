"""How pages of billing write money, and how people write it into their forms."""

from __future__ import annotations

from decimal import Decimal

from django import forms
from django.http import HttpRequest

from billing.money import exponent, format_minor


def money(amount_minor: int, currency: str) -> str:
    return f"{format_minor(amount_minor, currency)} {currency}"


def minor(amount: Decimal, currency: str) -> int:
    """An amount in major units, as people write it, in minor units. Raises ValidationError for parts of a minor unit."""
    scaled = amount.scaleb(exponent(currency))
    if scaled != scaled.to_integral_value():
        digits = exponent(currency)
        raise forms.ValidationError(f"{currency} has {digits} decimals." if digits else f"{currency} has no decimals.")
    return int(scaled)


def who(request: HttpRequest) -> str:
    """The name that is kept with what a person did."""
    return request.user.get_username()
