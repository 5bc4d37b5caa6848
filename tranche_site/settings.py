"""All settings, by environment. The table in docs/deploying.md names the variables that deployers set."""

from datetime import timedelta
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

from tranche_site.floor import egress, errors, logs
from tranche_site.floor.embedded import embedded_urls

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

# --- where things are -------------------------------------------------------------------------------------------

TRANCHE_HOME = Path(env.str("TRANCHE_HOME", default=str(BASE_DIR / "var"))).resolve()
EMBEDDED = embedded_urls(TRANCHE_HOME)

_dsns = {name: env.str(name) for name in ("DATABASE_URL", "PG_DSN") if env.str(name, default="")}
if len(set(_dsns.values())) > 1:
    raise ImproperlyConfigured("DATABASE_URL and PG_DSN are both set and differ: set one of them, or both to the same.")
DATABASE_URL = next(iter(_dsns.values()), "")
REDIS_URL = env.str("REDIS_URL", default="")
EMBEDDED_POSTGRES = not DATABASE_URL
EMBEDDED_VALKEY = not REDIS_URL

if DATABASE_URL:
    DATABASES = {"default": env.db_url_config(DATABASE_URL)}
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "tranche",
            "USER": "tranche",
            "HOST": EMBEDDED.postgres_socket_dir,
        }
    }
DATABASES["default"]["ATOMIC_REQUESTS"] = False
DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
# A database that is away is noticed, not waited for; the address itself may say otherwise.
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 2)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- security ---------------------------------------------------------------------------------------------------

DEBUG = env.bool("DEBUG", default=False)
# The embedded stack listens on loopback only; a real deployment names its own key and hosts.
SECRET_KEY = env.str("SECRET_KEY", default="") or EMBEDDED.secret_key()
SECRET_KEY_IS_OURS = not env.str("SECRET_KEY", default="")
# Seal the credentials that customers entrust to us, as "id:base64 of 32 bytes": the first seals, all open.
CREDENTIAL_KEYS = env.list("CREDENTIAL_KEYS", default=[])
# Signs break-glass scripts: the base64 of 32 bytes. Empty: derived from SECRET_KEY, and another one after that is changed.
BREAK_GLASS_KEY = env.str("BREAK_GLASS_KEY", default="")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
# The proxy ends TLS, and an API that led plain requests on to TLS would teach clients to send keys in the clear. The names of
# enumerations are given where the document is served, and tested there.
SILENCED_SYSTEM_CHECKS = ["security.W008", "drf_spectacular.W001"]
_https = env.bool("HTTPS_ONLY", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
# Console sessions end after so long, however busy, and after so long at an idle desk.
SESSION_HOURS = env.int("SESSION_HOURS", default=12)
SESSION_IDLE_MINUTES = env.int("SESSION_IDLE_MINUTES", default=60)
SESSION_COOKIE_AGE = SESSION_HOURS * 3600
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
if _https:  # a name that no other host and no plain connection can set
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-session", "__Host-csrf"
# A code of an app beside the password, for all staff; and the password again before what is dangerous, if it was given
# longer ago than this (0: never). Both are off on the embedded stack, which listens on loopback.
TWO_FACTOR = env.bool("TWO_FACTOR", default=not EMBEDDED_POSTGRES)
REAUTHENTICATE_SECONDS = env.int("REAUTHENTICATE_SECONDS", default=0 if EMBEDDED_POSTGRES else 900)
# So long after the account was made, or the second factor was reset, the password is enough to set one up.
SECOND_FACTOR_HOURS = env.int("SECOND_FACTOR_HOURS", default=72)
# Wrong passwords for one name from one address, after which that address must wait.
AXES_FAILURE_LIMIT = env.int("LOGIN_FAILURES", default=5)
AXES_COOLOFF_TIME = timedelta(minutes=env.int("LOGIN_LOCKED_MINUTES", default=15))
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "tranche_site.floor.addresses.network_of"
AXES_LOCKOUT_TEMPLATE = "console/locked_out.html"
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ADMIN = False  # the console has pages of its own for it
AXES_VERBOSE = False
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
X_FRAME_OPTIONS = "DENY"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# --- applications: the order is the order of imports, foreign keys and the README ----------------------------------

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_filters",
    "django_celery_beat",
    "django_structlog",
    "django_otp",
    "axes",
    "customers",
    "services",
    "storms",
    "dns",
    "billing",
    "tranche_site",
]

MIDDLEWARE = [
    "tranche_site.floor.request_id.RequestIdMiddleware",
    "tranche_site.floor.request_log.RequestLog",
    "tranche_site.floor.paths.without_trailing_slash",
    "tranche_site.floor.headers.Headers",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "tranche_site.floor.access.StaffAccess",
    "tranche_site.floor.audit_context.AuditContext",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",  # the last: it turns a log-in that is locked out into its page
]

ROOT_URLCONF = "tranche_site.urls"
WSGI_APPLICATION = "tranche_site.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "tranche_site" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = ["tranche_site.formats"]
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True
APPEND_SLASH = False

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("STATIC_ROOT", default=str(TRANCHE_HOME / "static")))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": env.str("STATICFILES_STORAGE", default="whitenoise.storage.CompressedManifestStaticFilesStorage")
    },
}
WHITENOISE_USE_FINDERS = DEBUG
LOGIN_URL = "/admin/login/"
LOGIN_REDIRECT_URL = "/admin/"

# --- observability ----------------------------------------------------------------------------------------------

try:
    LOGGING = logs.configuration(
        env.str("LOG_LEVEL", default="INFO"), logs.chosen_form(env.str("LOG_FORMAT", default=""))
    )
except ValueError as error:
    raise ImproperlyConfigured(str(error)) from None
DJANGO_STRUCTLOG_CELERY_ENABLED = True  # ids of a request go with the tasks that it sends
DJANGO_STRUCTLOG_CELERY_DEFAULT_LOG_LEVEL = 10  # DEBUG: beat sends several tasks a second
DJANGO_STRUCTLOG_CELERY_TASK_FAILURE_LOG_LEVEL = 40
DJANGO_STRUCTLOG_STATUS_START_LOG_LEVEL = 10
DJANGO_STRUCTLOG_STATUS_4XX_LOG_LEVEL = 20
DJANGO_STRUCTLOG_USER_ID_FIELD = ""  # the middleware would load the session of each request for it
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
# Who may read /metrics beside this machine: whoever sends it as Bearer. Empty: this machine alone.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
# Networks that may read it without a token: "10.0.0.0/8,127.0.0.1/32". Never what a proxy says of its clients.
METRICS_ALLOW = egress.networks(env.list("METRICS_ALLOW", default=["127.0.0.1/32", "::1/128"]), "METRICS_ALLOW")
errors.report_to(env.str("SENTRY_DSN", default=""), env.str("SENTRY_ENVIRONMENT", default="production"))

# --- Celery -----------------------------------------------------------------------------------------------------

CELERY_BROKER_URL = REDIS_URL or EMBEDDED.celery_url
CELERY_RESULT_BACKEND = None
CELERY_RESULT_EXPIRES = None  # or beat adds a row of its own that cleans up results, of which there are none
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = 60  # always below the visibility timeout, or Redis hands a running task out again
CELERY_TASK_SOFT_TIME_LIMIT = 50
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 120,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_keepalive": True,
    "health_check_interval": 15,
}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 10
CELERY_WORKER_ENABLE_SOFT_SHUTDOWN_ON_IDLE = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BEAT_SCHEDULER = "tranche_site.floor.leader:LeaderScheduler"
CELERY_BEAT_SYNC_EVERY = 1
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
CELERY_TIMEZONE = "UTC"
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {
    "tranche_site.react": {"queue": "storms"},
    "tranche_site.page": {"queue": "webhooks"},
    "tranche_site.mail_digests": {"queue": "webhooks"},
    "dns.check_readiness": {"queue": "billing"},  # slow, so beside what must be quick
    "dns.*": {"queue": "dns"},
    "billing.*": {"queue": "billing"},
    "tranche_site.selfcheck": {"queue": "billing"},
    "tranche_site.seal_audit": {"queue": "billing"},
    "customers.send_webhooks": {"queue": "webhooks"},
    "customers.retry_webhooks": {"queue": "webhooks"},
}

# --- API --------------------------------------------------------------------------------------------------------

# Requests a minute: of one key, of all keys of a customer together, and from an address without a good key.
API_RATE_PER_KEY = env.int("API_RATE_PER_KEY", default=600)
API_RATE_PER_CUSTOMER = env.int("API_RATE_PER_CUSTOMER", default=1800)
API_RATE_PER_ADDRESS = env.int("API_RATE_PER_ADDRESS", default=60)
# Proxies of ours in front, whose X-Forwarded-For is true: 0 means that addresses are those of the connections.
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["customers.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["customers.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_THROTTLE_CLASSES": ["customers.throttling.QuotaThrottle"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "tranche_site.floor.pagination.LinkHeaderPagination",
    "DEFAULT_SCHEMA_CLASS": "tranche_site.floor.openapi.ProblemSchema",
    "EXCEPTION_HANDLER": "tranche_site.floor.problems.exception_handler",
    "DEFAULT_VERSIONING_CLASS": None,
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tranche API",
    "DESCRIPTION": "Multi-CDN insurance: services, storms, routing, usage and invoices.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "ENFORCE_NON_BLANK_FIELDS": True,
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "tranche_site.floor.openapi.refuse_unknown",
        "tranche_site.floor.openapi_examples.describe",
    ],
}

# --- console ----------------------------------------------------------------------------------------------------

UNFOLD = {
    "SITE_TITLE": "Tranche",
    "SITE_HEADER": "Tranche",
    "SITE_SUBHEADER": "Multi-CDN insurance",
    "SITE_SYMBOL": "thunderstorm",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "tranche_site.console.menu.favicon"}],
    "STYLES": ["tranche_site.console.menu.stylesheet"],
    "SCRIPTS": ["tranche_site.console.menu.script"],
    "DASHBOARD_CALLBACK": "tranche_site.console.pages.dashboard",
    "COMMAND": {"search_callback": "tranche_site.console.search.search", "show_history": True},
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": "tranche_site.console.menu.navigation",
    },
}

# --- calling people and writing to them -------------------------------------------------------------------------

# Where people find the console, such as "https://console.example.net": links in mails and pages lead there. Empty: no links.
PUBLIC_URL = env.str("PUBLIC_URL", default="")
# "smtp+tls://name:password@host:587"; by default mails are printed into the worker's log.
vars().update({k: v for k, v in env.email_url("EMAIL_URL", default="consolemail://").items() if v is not None})
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("MAIL_FROM", default="tranche@localhost")
# Who of ours is mailed about incidents, held plans and the like: "ann@example.net,bob@example.net".
STAFF_MAIL = env.list("STAFF_MAIL", default=[])
# Paging channels may be at private addresses, and then without TLS as well.
PAGING_ALLOW_PRIVATE = env.bool("PAGING_ALLOW_PRIVATE", default=False)

# --- probing ----------------------------------------------------------------------------------------------------

PROBE_MINIMUM_INTERVAL_SECONDS = env.int("PROBE_MINIMUM_INTERVAL_SECONDS", default=5)
PROBE_MAXIMUM_INTERVAL_SECONDS = 300
# Canaries and reference sites: ours, probed at their own pace.
PROBE_OWN_INTERVAL_SECONDS = env.int("PROBE_OWN_INTERVAL_SECONDS", default=10)
PROBE_PORTS = env.list("PROBE_PORTS", cast=int, default=[80, 443])
# Loopback and private targets are refused unless the demo world or a test says so; lifts the port rule too.
PROBE_ALLOW_PRIVATE = env.bool("PROBE_ALLOW_PRIVATE", default=False)
# The same for the stores that CDNs' logs are fetched from.
LOGS_ALLOW_PRIVATE = env.bool("LOGS_ALLOW_PRIVATE", default=False)
# Below these, sources of logs may be directories of the machine that reads them; the embedded stack has the demo world's.
LOG_DIRECTORIES = env.list(
    "LOG_DIRECTORIES", default=[str(TRANCHE_HOME / "demo" / "logs")] if EMBEDDED_POSTGRES else []
)
# The same for customers' webhooks, which may then be called without TLS as well.
WEBHOOKS_ALLOW_PRIVATE = env.bool("WEBHOOKS_ALLOW_PRIVATE", default=False)
# The same for the APIs of customers' own DNS servers, which may then be called without TLS as well.
DNS_API_ALLOW_PRIVATE = env.bool("DNS_API_ALLOW_PRIVATE", default=False)
# Our own public networks, which nothing that customers name may lead us into: "198.51.100.0/24,2001:db8::/48".
EGRESS_OWN_NETWORKS = egress.networks(env.list("EGRESS_OWN_NETWORKS", default=[]))
# A PEM file of certificate authorities to trust beside the public ones (the demo world's own).
PROBE_EXTRA_CA_FILE = env.str("PROBE_EXTRA_CA_FILE", default="")
PROBE_IN_FLIGHT = env.int("PROBE_IN_FLIGHT", default=1000)
PROBE_BURST_SHOTS = 3
PROBE_BURST_SPACING_SECONDS = 1.0
# Bursts that one probe worker begins in a second; what fails beyond that is confirmed by its next slots.
PROBE_BURSTS_PER_SECOND = env.float("PROBE_BURSTS_PER_SECOND", default=50.0)
# From one vantage point, probes a second of one hostname at one address, and of one address that is no known CDN's.
PROBE_MOST_PER_HOST = env.float("PROBE_MOST_PER_HOST", default=5.0)
PROBE_MOST_PER_ADDRESS = env.float("PROBE_MOST_PER_ADDRESS", default=20.0)
# Samples wait here while Postgres is away: one bounded file a probe worker.
PROBE_SPOOL_DIR = Path(env.str("PROBE_SPOOL_DIR", default=str(TRANCHE_HOME / "spool")))
PROBE_SPOOL_BYTES = env.int("PROBE_SPOOL_BYTES", default=64 * 1024 * 1024)
PROBE_SPOOL_SECONDS = env.int("PROBE_SPOOL_SECONDS", default=900)
# Prometheus reads a probe worker's figures here; 0: nowhere. "address:port" or a port on loopback.
PROBE_METRICS = env.str("PROBE_METRICS", default="")
PROBE_USER_AGENT = env.str("PROBE_USER_AGENT", default="Tranche-Probe/1 (+https://tranche.example/probe)")
SAMPLE_DAYS_KEPT = env.int("SAMPLE_DAYS_KEPT", default=14)
ROLLUP_DAYS_KEPT = env.int("ROLLUP_DAYS_KEPT", default=400)

# --- DNS --------------------------------------------------------------------------------------------------------

# Which servers are asked for names below a suffix, instead of following the delegation:
# "demo.test=127.0.0.1:5353,other.test=127.0.0.1:5354". For the demo world and tests.
AUTHORITY_OVERRIDES = env.dict("AUTHORITY_OVERRIDES", default={})
DNS_RESOLVERS = env.list("DNS_RESOLVERS", default=[])  # empty: those of /etc/resolv.conf
# Resolvers that are asked, after each change, what they still answer: the drain curve. Empty: nobody.
DRAIN_RESOLVERS = env.list("DRAIN_RESOLVERS", default=[])
# Who issues invoices, as printed on them: name, address and tax number, in lines. Kept with each invoice as it was.
INVOICE_ISSUER = env.str("INVOICE_ISSUER", default="Tranche").replace("\\n", "\n")
# A directory of further fonts for PDFs, for scripts that the built-in ones lack.
INVOICE_FONTS = env.str("INVOICE_FONTS", default="")
# How long usage is kept by the minute: an issued month can be corrected by single objects until then.
USAGE_MINUTES_DAYS = env.int("USAGE_MINUTES_DAYS", default=100)
# How often the slow sweep looks at a record set that is at rest.
DRIFT_LOOK_SECONDS = env.int("DRIFT_LOOK_SECONDS", default=900)
# Where vendors' health checks ask what the beacon says: https, outside every insured CDN and outside AWS; its host must be
# among ALLOWED_HOSTS. Empty: no data-plane mode.
BEACON_URL = env.str("BEACON_URL", default="")
FAILBACK_GATE_SECONDS = env.int("FAILBACK_GATE_SECONDS", default=60)
FAILBACK_STEPS_PERCENT = env.list("FAILBACK_STEPS_PERCENT", cast=int, default=[10, 50, 100])
BLAST_RADIUS_SHARE = env.float("BLAST_RADIUS_SHARE", default=0.30)
BLAST_RADIUS_FLOOR = env.int("BLAST_RADIUS_FLOOR", default=10)
BLAST_RADIUS_SECONDS = 600

# --- the demo world: what `manage.py up` runs beside the product, unless TRANCHE_DEMO=0 -----------------------------

# Only `manage.py up` looks at this; the loosened limits of the demo are in the environment that it gives its children.
TRANCHE_DEMO = env.bool("TRANCHE_DEMO", default=True)
DEMO_DNS_PORT = env.int("DEMO_DNS_PORT", default=5300)
DEMO_HTTPS_PORT = env.int("DEMO_HTTPS_PORT", default=8443)
DEMO_CONTROL_PORT = env.int("DEMO_CONTROL_PORT", default=8081)
DEMO_VISITS_PER_SECOND = env.float("DEMO_VISITS_PER_SECOND", default=2.0)
DEMO_LOG_SECONDS = env.float("DEMO_LOG_SECONDS", default=10.0)
