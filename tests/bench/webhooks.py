"""How fast webhooks go out to good, slow and lying receivers, and what one dead receiver among them costs the others."""

from __future__ import annotations

import sys

from tests.bench import Result, database


def webhook_rate() -> Result:
    """A thousand deliveries to good and slow receivers beside lying ones and a dead one; the peer is without the dead one."""
    told: dict[str, float] = database.measure("tests.bench.webhooks_client")
    print(f"webhooks: {told}", file=sys.stderr)
    return Result(
        "webhook_rate", round(told["with_dead"]), "1/min", "without the dead one", round(told["without_dead"])
    )
