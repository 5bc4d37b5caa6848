"""Log lines: one shape for all that speaks, with the ids of the request or task that it speaks in, and without secrets.

    any logger ─► context (request, task, service, storm) ─► secrets out ─► control characters escaped ─► JSON, or a line

Settings, gunicorn and Celery's workers take `configuration`; there is no other place that formats.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

FORMS = ("json", "console")
HIDDEN = "…"
_DEPTH = 6
"""Values nested deeper than this are written as they print."""
_IDS = 20
"""So many ids are named in a line or carried with a task; the rest is a number."""

# --- secrets --------------------------------------------------------------------------------------------------------

_SECRET_NAME = re.compile(r"passw|secret|authorization|cookie|credential|private_?key|api_?key|token|_dsn$|csrf", re.I)
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Of our own keys the prefix stays: it finds the row, and is no secret.
    (re.compile(r"(trk_[0-9a-f]{8})_[A-Za-z0-9_-]+"), rf"\1_{HIDDEN}"),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic|Digest)\s+[A-Za-z0-9+/=._~:-]{6,}", re.I), rf"\1 {HIDDEN}"),
    (re.compile(r"(://[^\s/:@]*):[^\s/@]+@"), rf"\1:{HIDDEN}@"),
    (
        re.compile(
            r"""(["']?[\w-]*(?:passw(?:or)?d|secret|api[_-]?key|access[_-]?key|token|signature|authorization)["']?"""
            r"""\s*[=:]\s*)(?!\s)("[^"]*"|'[^']*'|(?!Bearer|Basic)[^\s&,;}\])]+)""",
            re.I,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.S), HIDDEN),
)


def without_secrets(text: str) -> str:
    """The text with keys, tokens, passwords and private keys blotted out."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Blots out every value that bears a secret's name, and what looks like a secret anywhere else."""
    return {key: HIDDEN if _SECRET_NAME.search(key) and value else cleared(value) for key, value in event.items()}


def cleared(value: Any, depth: int = 0) -> Any:
    """The same, however it is nested, without secrets. Objects become text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping) and depth < _DEPTH:
        return {
            str(key): HIDDEN if _SECRET_NAME.search(str(key)) and inner else cleared(inner, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset) and depth < _DEPTH:
        return [cleared(inner, depth + 1) for inner in value]
    return without_secrets(value if isinstance(value, str) else str(value))


# --- control characters ---------------------------------------------------------------------------------------------

# C0, DEL, C1, the two Unicode line ends, and what turns the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MANY_LINES = ("exception", "stack")


def visible(text: str, keep: str = "") -> str:
    """Control characters as they are written in Python: nothing that is logged can begin a line or colour a terminal."""

    def shown(match: re.Match[str]) -> str:
        return match[0] if match[0] in keep else match[0].encode("unicode_escape").decode()

    return _CONTROL.sub(shown, text)


def escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Tracebacks keep their lines: JSON escapes those itself, and `line` indents them."""
    return {visible(key): _escaped(value, "\n" if key in _MANY_LINES else "") for key, value in event.items()}


def _escaped(value: Any, keep: str = "") -> Any:
    if isinstance(value, str):
        return visible(value, keep)
    if isinstance(value, dict):
        return {visible(key): _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value


# --- the two forms --------------------------------------------------------------------------------------------------


def as_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in ("timestamp", "level", "logger", "event") if name in event}
    return json.dumps({**first, **event}, ensure_ascii=False, default=str)


def as_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """For eyes: time, level, logger, what happened, then the rest as name=value; tracebacks below, indented."""
    below = [str(event.pop(name)) for name in _MANY_LINES if event.get(name)]
    head = f"{event.pop('timestamp', '')} {str(event.pop('level', '')).upper():7} {event.pop('logger', '')}:"
    words = [str(event.pop("event", "")), *(f"{name}={_word(value)}" for name, value in event.items())]
    lines = [f"    {line}" for text in below for line in text.splitlines()]
    return "\n".join([f"{head} {' '.join(words)}", *lines])


def _word(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and re.search(r'[\s="]', text) else text


# --- configuration --------------------------------------------------------------------------------------------------


def chosen_form(asked: str = "") -> str:
    """The form that LOG_FORMAT asks for; else lines for a terminal, and JSON for everything that collects. Raises ValueError."""
    if asked and asked not in FORMS:
        raise ValueError(f"LOG_FORMAT is “{asked}”: it is json or console, or unset for json away from a terminal.")
    return asked or ("console" if sys.stderr.isatty() else "json")


def _context() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]


def configuration(level: str, form: str) -> dict[str, Any]:
    """For `logging.config.dictConfig`: everything goes to standard error. Configures structlog's own loggers beside it."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_context(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer = as_json if form == "json" else as_line
    warning = ("botocore", "httpx", "httpcore", "celery", "kombu", "amqp", "gunicorn.access")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "ours": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*_context(), structlog.stdlib.ExtraAdder(_OF_OTHERS)],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, escape, renderer],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "ours"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {
            **{name: {"level": "WARNING"} for name in warning},
            "celery.app.trace": {"level": "CRITICAL"},  # django-structlog's task_failed says it, with the ids
            "django.request": {"level": "CRITICAL"},  # request_finished and request_failed say it
            "gunicorn.error": {"level": level.upper(), "handlers": [], "propagate": True},
        },
    }


# What a caller's `extra` may add to a line of the standard library's loggers.
_OF_OTHERS = {"customer_id", "service_id", "service_ids", "storm_ids", "status_code"}


def about(**ids: int | str | Collection[int]) -> None:
    """Name in each further line of this request or task, and of the tasks that it sends, what it is about:

    about(service_ids=[1, 2], storm_ids=[7])
    """
    structlog.contextvars.bind_contextvars(**{name: _some(value) for name, value in ids.items()})


def _some(value: int | str | Collection[int]) -> Any:
    if isinstance(value, int | str):
        return value
    listed = sorted(value)
    return listed if len(listed) <= _IDS else [*listed[:_IDS], f"and {len(listed) - _IDS} more"]


def name_task(task: Any = None, **_: Any) -> None:
    """Of django-structlog, when a task begins: its name stands beside its id."""
    if task is not None:
        structlog.contextvars.bind_contextvars(task=task.name)


def keep_configuration(**_: Any) -> None:
    """Celery asks who sets logging up; with a receiver it leaves alone what Django's settings have set up."""
    logging.getLogger("celery").setLevel(logging.WARNING)
