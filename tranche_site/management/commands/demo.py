"""`manage.py demo`: the demo world's servers; `manage.py up` runs it."""

from __future__ import annotations

import signal
from typing import Any

from django.core.management.base import BaseCommand

from services.models import ServiceDomain
from services.proof import check
from tranche_site.demo import world


class Command(BaseCommand):
    help = "Serve the demo world: two edges, an origin, canaries, DNS and visitors, all on loopback."

    def handle(self, *args: Any, **options: Any) -> None:
        from tranche_site.demo.run import serve

        def stop(number: int, frame: object) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        try:
            serve(self._prove)
        except KeyboardInterrupt:
            self.stdout.write("demo stopped")

    def _prove(self) -> None:
        """The shop's domain is proved as any customer's is: by the TXT record that its zone shows."""
        for domain in ServiceDomain.objects.live().filter(hostname=world.HOSTNAME, verified_at__isnull=True):
            self.stdout.write(check(domain).check_result)
