"""A strict fake of Amazon Route 53, STS AssumeRole and Route 53's name servers, in this process, over real sockets.

Import `route53_fake_fixture`; tests ask for `route53_fake`. It refuses what Amazon refuses, in Amazon's words as far as
they are known. `fake.py` is what tests use, `changes.py` has the rules.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.route53_fake.access import Policy
from tests.route53_fake.errors import Refusal
from tests.route53_fake.fake import OWN_ACCOUNT, Route53Fake
from tests.route53_fake.faults import Asked
from tests.route53_fake.gateway import Call

__all__ = ["OWN_ACCOUNT", "Asked", "Call", "Policy", "Refusal", "Route53Fake", "route53_fake_fixture"]


@pytest.fixture(name="route53_fake")
def route53_fake_fixture() -> Iterator[Route53Fake]:
    fake = Route53Fake()
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()
    assert not fake.bugs, "\n".join(fake.bugs)
