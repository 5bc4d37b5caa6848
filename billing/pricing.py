"""What may stand in the JSON of rate cards and contracts. Pure: each check returns what is wrong, or None.

Amounts are numbers in quotes, so that they stay exact.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

PATHS = ("primary", "backup")
TAX_CATEGORIES = ("delivery", "fee", "premium")


def amount(text: Any) -> Decimal | None:
    """The number of a text such as "0.12"; None for anything else, and below 0."""
    try:
        number = Decimal(text) if isinstance(text, str) else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() and number >= 0 else None


def check_tiers(tiers: Any) -> str | None:
    """Tiers rise, and the last is open."""
    if not isinstance(tiers, list) or not tiers or not all(isinstance(tier, dict) for tier in tiers):
        return "Give a list of tiers, each {“up_to”: …, “per_unit”: …}."
    floor = Decimal(0)
    for place, tier in enumerate(tiers, start=1):
        if set(tier) != {"up_to", "per_unit"}:
            return f"Tier {place}: name “up_to” and “per_unit”, and nothing else."
        if amount(tier["per_unit"]) is None:
            return f'Tier {place}: “per_unit” is a number in quotes, not below 0, such as "0.12".'
        if place == len(tiers):
            return None if tier["up_to"] is None else "The last tier is open: its “up_to” is null."
        limit = amount(tier["up_to"])
        if limit is None or limit <= floor:
            return f"Tier {place}: “up_to” is a number in quotes above the tier before it."
        floor = limit
    return None


def check_cdn_tiers(prices: Any) -> str | None:
    if not isinstance(prices, dict):
        return "Give an object by the CDN's slug."
    for cdn, by_path in prices.items():
        if not isinstance(by_path, dict) or not by_path or not set(by_path) <= set(PATHS):
            return f"{cdn}: name “primary”, “backup” or both."
        for path, tiers in by_path.items():
            if problem := check_tiers(tiers):
                return f"{cdn}, {path}: {problem}"
    return None


def check_requests(prices: Any) -> str | None:
    if not isinstance(prices, dict) or not set(prices) <= set(PATHS):
        return "Give an object with “primary”, “backup” or both."
    wrong = next((path for path, text in prices.items() if amount(text) is None), None)
    return wrong and f'{wrong}: a number in quotes, not below 0, such as "0.0075".'


def check_layers(layers: Any) -> str | None:
    """Layers rise without overlapping, and only the last is open."""
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        return "Give a list of layers, each {“attachment”: …, “limit”: …, “share”: …}."
    floor: Decimal | None = Decimal(0)
    for place, layer in enumerate(layers, start=1):
        if set(layer) != {"attachment", "limit", "share"}:
            return f"Layer {place}: name “attachment”, “limit” and “share”, and nothing else."
        attachment, share = amount(layer["attachment"]), amount(layer["share"])
        if attachment is None or floor is None or attachment < floor:
            return f"Layer {place}: “attachment” is a number in quotes, not below the end of the layer before it."
        if share is None or share > 1:
            return f"Layer {place}: “share” is a number in quotes from 0 to 1."
        limit = None if layer["limit"] is None else amount(layer["limit"])
        if layer["limit"] is not None and not limit:
            return f"Layer {place}: “limit” is a number in quotes above 0, or null for no end."
        floor = None if limit is None else attachment + limit
    return None


def check_tax_rates(rates: Any) -> str | None:
    if not isinstance(rates, dict) or not set(rates) <= set(TAX_CATEGORIES):
        return f"Give an object by category: {', '.join(TAX_CATEGORIES)}."
    for category, text in rates.items():
        rate = amount(text)
        if rate is None or rate > 1:
            return f'{category}: a share in quotes from 0 to 1, such as "0.19".'
    return None
