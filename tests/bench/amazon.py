"""The strict Route 53 fake as a process of its own: `python -m tests.bench.amazon ACCOUNTS ZONES`.

Prints where it is, its accounts' keys and its zones, as JSON; when its input ends, what it was asked.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from tests.route53_fake import Route53Fake


def main(accounts: int, zones: int) -> None:
    fake = Route53Fake()
    fake.pending_polls, fake.pending_seconds, fake.lag_seconds = 0, 2.0, 1.0
    names = [f"account-{n}" for n in range(accounts)]
    made = [[name, fake.zone(f"zone{n}.test", account=name)] for n in range(zones) for name in [names[n % accounts]]]
    fake.start()
    keys = {name: fake.access.key(name) for name in names}
    print(json.dumps({"url": fake.url, "dns": fake.dns_text, "keys": keys, "zones": made}), flush=True)
    for line in sys.stdin:
        if line.strip() == "count":
            print(json.dumps(_counts(fake)), flush=True)
            fake.calls.clear()
    fake.stop()


def _counts(fake: Route53Fake) -> dict[str, object]:
    return {
        "calls": Counter(call.action for call in fake.calls),
        "refused": Counter(call.error for call in fake.calls if not call.accepted),
        "most_of_an_account": max(Counter(call.account for call in fake.calls).values(), default=0),
        "changes": sum(call.changes for call in fake.calls if call.accepted),
        "log": [str(call) for call in fake.calls[-8:]],
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
