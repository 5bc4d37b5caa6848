from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks


class TrancheSiteConfig(AppConfig):
    name = "tranche_site"

    def ready(self) -> None:
        # Makes our Celery app the current one wherever Django runs, so that `.delay()` finds the broker.
        from tranche_site import celery  # noqa: F401


@checks.register(checks.Tags.security, deploy=True)
def secret_key_is_shared(**_: Any) -> list[checks.CheckMessage]:
    """A key that each host makes for itself ends every session at the next host."""
    if not settings.SECRET_KEY_IS_OURS:
        return []
    return [checks.Error("SECRET_KEY is not set: every host would make its own.", id="tranche.E001")]
