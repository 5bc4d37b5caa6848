from django.apps import AppConfig


class TrancheSiteConfig(AppConfig):
    name = "tranche_site"

    def ready(self) -> None:
        # Makes our Celery app the current one wherever Django runs, so that `.delay()` finds the broker.
        from tranche_site import celery  # noqa: F401
