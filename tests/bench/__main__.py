"""`python -m tests.bench [NAME…]`: one JSON object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from tests.bench import (
    Result,
    api,
    documents,
    idle,
    invoices,
    logs,
    pages,
    planning,
    probes,
    recording,
    replaying,
    slip,
    steering,
    watching,
    webhooks,
)

BENCHES: dict[str, Callable[[], Result]] = {
    "probe_cpu_ms": probes.probe_cpu_ms,
    "probe_rate": probes.probe_rate,
    "plan_slot_ms": planning.plan_slot_ms,
    "probe_slip_p99_ms": slip.probe_slip_p99_ms,
    "probe_rss_mib": slip.probe_rss_mib,
    "record_rows": recording.record_rows,
    "watch_10k_ms": watching.watch_10k_ms,
    "watch_100k_ms": watching.watch_100k_ms,
    "webhook_rate": webhooks.webhook_rate,
    "backtest_samples": replaying.backtest_samples,
    "storm_to_submitted_ms": steering.storm_to_submitted_ms,
    "submitted_to_observed_ms": steering.submitted_to_observed_ms,
    "dns_5000_s": steering.dns_5000_s,
    "room_ms": pages.room_ms,
    "service_page_ms": pages.service_page_ms,
    "changelist_ms": pages.changelist_ms,
    "log_rows_logpush": logs.log_rows_logpush,
    "log_rows_cloudfront": logs.log_rows_cloudfront,
    "log_rss_mib": logs.log_rss_mib,
    "log_small_objects": logs.log_small_objects,
    "invoices_draft": invoices.invoices_draft,
    "invoices_finalize": invoices.invoices_finalize,
    "pdf_ms": documents.pdf_ms,
    "api_list_p99_ms": api.api_list_p99_ms,
    "api_list_rate": api.api_list_rate,
    "idle_mib": idle.idle_mib,
    "idle_cpu_percent": idle.idle_cpu_percent,
}


def main(names: list[str]) -> None:
    if unknown := sorted(set(names) - set(BENCHES)):
        sys.exit(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    for name in names or BENCHES:
        result = BENCHES[name]()
        print(json.dumps(asdict(result) | {"ratio": result.ratio}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
