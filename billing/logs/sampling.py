"""What a sampled log stands for: a job that logs one request in ten has a tenth of the bytes in its rows."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from billing.logs.reading import HostMinute


def rate_of(sample_rate: Fraction | Decimal | int | None) -> Fraction:
    """The share of requests that is logged, in (0, 1]; None is all of them. Raises ValueError."""
    if sample_rate is None:
        return Fraction(1)
    if isinstance(sample_rate, float):
        raise ValueError(f"The sample rate {sample_rate} is a float: give it as a Decimal or a Fraction.")
    if (isinstance(sample_rate, Decimal) and not sample_rate.is_finite()) or not 0 < sample_rate <= 1:
        raise ValueError(f"The sample rate is {sample_rate}: it must be above 0, and 1 at most.")
    return Fraction(sample_rate)


def scaled(usage: list[HostMinute], rate: Fraction) -> list[HostMinute]:
    """Bytes and requests divided by the rate, as whole numbers, by largest remainder over the object.

    So their sums are the exact quotients, rounded once, half up. Rounding each minute would add up to half a request to
    every quiet one. Of equal remainders, the first by host and minute is rounded up.
    """
    if rate == 1:
        return usage
    ordered = sorted(usage)
    sizes = _divided([line.bytes for line in ordered], rate)
    requests = _divided([line.requests for line in ordered], rate)
    return [HostMinute(line.host, line.minute, *volume) for line, *volume in zip(ordered, sizes, requests, strict=True)]


def _divided(values: list[int], rate: Fraction) -> list[int]:
    parts = [divmod(value * rate.denominator, rate.numerator) for value in values]
    total = (2 * sum(values) * rate.denominator + rate.numerator) // (2 * rate.numerator)
    missing = total - sum(quotient for quotient, _ in parts)
    by_remainder = sorted(range(len(parts)), key=lambda place: -parts[place][1])
    quotients = [quotient for quotient, _ in parts]
    for place in by_remainder[:missing]:
        quotients[place] += 1
    return quotients
