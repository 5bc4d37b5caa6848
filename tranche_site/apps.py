from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks

from tranche_site.floor import sealed


class TrancheSiteConfig(AppConfig):
    name = "tranche_site"
    verbose_name = "System"

    def ready(self) -> None:
        # Makes our Celery app the current one wherever Django runs, so that `.delay()` finds the broker.
        from tranche_site import celery  # noqa: F401
        from tranche_site.floor import request_log

        request_log.connect()


@checks.register(checks.Tags.security, deploy=True)
def secret_key_is_shared(**_: Any) -> list[checks.CheckMessage]:
    """A key that each host makes for itself ends every session at the next host."""
    if not settings.SECRET_KEY_IS_OURS:
        return []
    return [checks.Error("SECRET_KEY is not set: every host would make its own.", id="tranche.E001")]


@checks.register(checks.Tags.security)
def credential_keys_are_keys(**_: Any) -> list[checks.CheckMessage]:
    """A mistyped key is noticed when a process starts, not when a storm needs the credentials."""
    try:
        sealed.parse_keys(settings.CREDENTIAL_KEYS)
    except sealed.SealedError as error:
        return [checks.Error(str(error), id="tranche.E002")]
    return []
