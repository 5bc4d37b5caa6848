"""A policy's terms as a JSON document: what `backtest --policy`, the API's backtest and evidence speak. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from typing import Any

from storms.verdicts import Kind, Policy

LIMITS: Mapping[str, tuple[Decimal, Decimal]] = {
    "threshold_avail": (Decimal("0.0001"), Decimal(1)),
    "window_seconds": (Decimal(1), Decimal(3600)),
    "cooldown_seconds": (Decimal(0), Decimal(86_400)),
    "max_coverage_factor": (Decimal(0), Decimal(10)),
    "min_samples": (Decimal(1), Decimal(32_767)),
    "min_failures": (Decimal(1), Decimal(32_767)),
    "min_vantages": (Decimal(1), Decimal(32_767)),
    "minimum_seconds": (Decimal(0), Decimal(86_400)),
    "closing_samples": (Decimal(1), Decimal(100)),
    "holdoff_seconds": (Decimal(0), Decimal(86_400)),
    "holdoff_max_seconds": (Decimal(0), Decimal(86_400)),
    "domain_share": (Decimal(0), Decimal(1)),
    "region_share": (Decimal(0), Decimal(1)),
    "slow_ms": (Decimal(1), Decimal(60_000)),
    "interval_seconds": (Decimal(1), Decimal(3600)),
    "minimum_certificate_days": (Decimal(0), Decimal(365)),
}
"""The least and the most that each number of a policy may be."""
_SHARES = ("threshold_avail", "max_coverage_factor", "domain_share", "region_share")
_PAYS_ONLY = "max_coverage_factor"


class TermsError(Exception):
    """What is wrong with a policy, with the field's name and what it may be."""


def loads(text: str, **defaults: Any) -> Policy:
    """The policy of one JSON document; `defaults` are what is meant where a field is missing."""
    try:
        document = json.loads(text, parse_float=Decimal, parse_constant=Decimal)
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise TermsError(f"the policy is no JSON: {error}") from None
    return read(document, **defaults)


def read(document: object, **defaults: Any) -> Policy:
    if not isinstance(document, dict):
        raise TermsError("the policy must be an object with a policy's fields")
    known = ["kind", *LIMITS]
    if unknown := sorted(set(document) - set(known)):
        raise TermsError(f"{unknown[0]}: no such field; a policy has {', '.join(known)}")
    terms = {name: _number(name, value) for name, value in document.items() if name != "kind"}
    terms.pop(_PAYS_ONLY, None)
    policy = Policy(**{**defaults, **terms, "kind": _kind(document.get("kind", Kind.HTTP_AVAILABILITY))})
    if policy.holdoff_max_seconds < policy.holdoff_seconds:
        raise TermsError("holdoff_max_seconds: must not be below holdoff_seconds")
    fits = policy.window_seconds // policy.interval_seconds
    if fits < policy.min_samples:
        raise TermsError(
            f"window_seconds: {fits} samples fit into it at {policy.interval_seconds} s each; a verdict needs "
            f"{policy.min_samples} (min_samples)"
        )
    return policy


def dump(policy: Policy) -> dict[str, Any]:
    """The policy as JSON values: numbers that may have fractions as text, since floats are not exact."""
    values = {field.name: getattr(policy, field.name) for field in fields(policy)}
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in values.items()}


def _kind(value: object) -> Kind:
    try:
        return Kind(str(value))
    except ValueError:
        raise TermsError(f"kind: must be one of {', '.join(Kind)}") from None


def _number(name: str, value: object) -> Decimal | int:
    least, most = LIMITS[name]
    try:
        if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
            raise ValueError
        number = Decimal(value)
        if not (number.is_finite() and least <= number <= most):
            raise ValueError
        if name in _SHARES:
            return number
        if number != int(number):
            raise ValueError
        return int(number)
    except (ValueError, InvalidOperation):
        what = "number" if name in _SHARES else "whole number"
        raise TermsError(f"{name}: must be a {what} from {least:f} to {most:f}") from None
