"""The Celery app, and what a probe worker does when it is ready."""

import os
from typing import Any

from celery import Celery
from celery.signals import heartbeat_sent, setup_logging, worker_ready, worker_shutting_down
from django_structlog.celery import signals as task_signals
from django_structlog.celery.steps import DjangoStructLogInitStep

from tranche_site.floor import logs, seen

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tranche_site.settings")

app = Celery("tranche")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(["tranche_site"], related_name="flow")

# Lines are ours in every process, and name the task that they are of, with what it came with.
setup_logging.connect(logs.keep_configuration)
app.steps["worker"].add(DjangoStructLogInitStep)
task_signals.bind_extra_task_metadata.connect(logs.name_task)
heartbeat_sent.connect(seen.tell)

_PROBE_QUEUES = "probe."


@worker_ready.connect
def start_probing(sender: Any, **_: Any) -> None:
    """A worker on queues `probe.<vantage point>` becomes the prober of those vantage points (use `--pool threads`)."""
    queues = sender.app.amqp.queues.consume_from
    names = [name.removeprefix(_PROBE_QUEUES) for name in queues if name.startswith(_PROBE_QUEUES)]
    if names:
        from services import tasks
        from tranche_site.flow import react_to_bad_samples

        tasks.start_prober(names, on_bad=react_to_bad_samples)


@worker_shutting_down.connect
def stop_probing(**_: Any) -> None:
    from services import tasks

    tasks.stop_prober()
