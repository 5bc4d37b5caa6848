"""A probe worker's figures for Prometheus. Counted always, since that costs next to nothing; served where settings say."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.conf import settings
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

logger = logging.getLogger(__name__)

_SLIP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class ProbeMetrics:
    """In a registry of its own, so that several probers of one process (in tests) do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.probes = Counter(
            "tranche_probes", "Probes that ended, by their class.", ["vantage_point", "outcome"], registry=here
        )
        self.slip = Histogram(
            "tranche_probe_slip_seconds", "From a slot to the start of its probe.", ["vantage_point"],
            buckets=_SLIP_SECONDS, registry=here,
        )  # fmt: skip
        self.dropped = Counter(
            "tranche_probe_slots_dropped", "Slots without a probe, by reason.", ["reason"], registry=here
        )
        self.recorded = Counter("tranche_samples_recorded", "Samples written to Postgres.", ["late"], registry=here)
        self.in_flight = Gauge("tranche_probes_in_flight", "Probes begun and not ended.", registry=here)
        self.waiting = Gauge("tranche_samples_waiting", "Samples in memory that are not written yet.", registry=here)
        self.spool = Gauge("tranche_spool_bytes", "Samples on disk that wait for Postgres.", registry=here)
        self.blind = Gauge(
            "tranche_vantage_point_blind", "1 while its samples have no vote.", ["vantage_point"], registry=here
        )

    def watch(self, in_flight: Callable[[], float], waiting: Callable[[], float], spool: Callable[[], float]) -> None:
        """These are asked whenever Prometheus asks."""
        self.in_flight.set_function(in_flight)
        self.waiting.set_function(waiting)
        self.spool.set_function(spool)

    def serve(self) -> Callable[[], None]:
        """Serve them in a thread, if PROBE_METRICS says where. Returns what stops it. A port that is taken is logged."""
        where = settings.PROBE_METRICS
        if not where:
            return lambda: None
        address, _, port = where.rpartition(":")
        try:
            server, thread = start_http_server(int(port), address or "127.0.0.1", self.registry)
        except (OSError, ValueError) as error:
            logger.error("PROBE_METRICS=%s can't be served: %s", where, error)
            return lambda: None

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop
