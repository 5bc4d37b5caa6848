"""The process that webhooks are sent to, so that receiving costs the sender nothing: prints its addresses, ends with stdin."""

from __future__ import annotations

import contextlib
import json
import sys

from tests.customers.receivers import after, answer, endless, garbage, hang_up, receiver, silent

GOOD, SLOW = 32, 4
SLOW_SECONDS = 0.05
KINDS = {
    "good": [answer(200)] * GOOD,
    "slow": [after(SLOW_SECONDS, answer(202))] * SLOW,
    "lying": [garbage, endless, hang_up, answer(302, Location="http://127.0.0.1:1/")],
    "dead": [silent],
}


def main() -> None:
    with contextlib.ExitStack() as stack:
        urls = {
            kind: [stack.enter_context(receiver(one)).url for one in answers] for kind, answers in KINDS.items()
        }  # fmt: skip
        print(json.dumps(urls), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
