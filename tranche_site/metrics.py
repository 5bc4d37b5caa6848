"""/metrics: the figures of the whole system, and the requests of this web server, for Prometheus and nobody else."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterator

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from tranche_site import figures
from tranche_site.floor import http_metrics


class _Figures(Collector):
    def collect(self) -> Iterator[Metric]:
        return figures.collect()


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    """403 for all but METRICS_TOKEN's bearer or, where no token is set, the networks of METRICS_ALLOW."""
    if not may_read(request):
        return HttpResponse("This address or token may not read metrics: see METRICS_TOKEN and METRICS_ALLOW.\n",
                            status=403, content_type="text/plain; charset=utf-8")  # fmt: skip
    # Only of this request: a registry that stays would ask Postgres when it is made.
    asked = CollectorRegistry(auto_describe=False)
    asked.register(_Figures())
    text = generate_latest(asked) + generate_latest(http_metrics.registry())
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


def may_read(request: HttpRequest) -> bool:
    """By the peer's own address: what a proxy says of its clients is not believed, and what comes through one is refused."""
    if token := settings.METRICS_TOKEN:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    try:
        peer = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return False  # a unix socket: some proxy is at its other end
    return any(peer in network for network in settings.METRICS_ALLOW)
