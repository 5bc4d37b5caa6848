"""Faults to order: refusals, and calls of which the caller never learns what became."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tests.route53_fake.errors import Refusal
from tests.route53_fake.limits import throttled

Kind = Literal[
    "throttle", "prior_request", "access_denied", "error_500", "timeout_before", "reset_before",
    "lost_reply", "timeout_after", "applied_500", "applied_503", "garbled", "half", "slow",
]  # fmt: skip
"""In the first line nothing is done, in the second all of it: then it is answered badly, late, or not at all.

"timeout_before" and "timeout_after" are silent for `seconds` and then close the connection; "reset_before" resets it
and "lost_reply" closes it at once; "garbled" is no XML, "half" breaks off, "slow" answers well after `seconds`.
"""
BEFORE = ("throttle", "prior_request", "access_denied", "error_500", "timeout_before", "reset_before")
ANY_ACTION = "*"


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, for those who choose by more than the action."""

    account: str
    action: str
    zone_id: str
    changes: int
    given: dict[str, Any]
    """The parameters, as boto3 takes them."""


@dataclass(slots=True)
class Fault:
    action: str
    kind: Kind
    times: float
    when: Callable[[Asked], bool] | None
    seconds: float

    def concerns(self, asked: Asked) -> bool:
        return self.times > 0 and self.action in (asked.action, ANY_ACTION) and (self.when is None or self.when(asked))


@dataclass(slots=True)
class Faults:
    ordered: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        if fault.kind not in get_args(Kind):
            raise ValueError(f"{fault.kind} is none of the faults {', '.join(get_args(Kind))}")
        self.ordered.append(fault)

    def take(self, asked: Asked) -> Fault | None:
        """The first that concerns the call, one time less."""
        for fault in self.ordered:
            if fault.concerns(asked):
                fault.times -= 1
                return fault
        return None


def refusal(kind: str) -> Refusal | None:
    """The error that a fault is answered with, if it is one."""
    return {
        "throttle": throttled(),
        "prior_request": prior_request(),
        "access_denied": Refusal("AccessDenied", "User is not authorized to access this resource", 403),
        "error_500": Refusal("InternalFailure", "An internal failure occurred", 500),
        "applied_500": Refusal("InternalFailure", "An internal failure occurred", 500),
        "applied_503": Refusal("ServiceUnavailable", "Service is unavailable", 503),
    }.get(kind)


def prior_request() -> Refusal:
    return Refusal(
        "PriorRequestNotComplete", "The request was rejected because Route 53 was still processing a prior request."
    )
