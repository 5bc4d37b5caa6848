#!/bin/sh
# One process of Tranche, by its role: release, web, beat, worker QUEUES, prober NAME, manage ARGUMENTS, healthy.
# Run from an image or by a service manager, in the project's directory and with its virtual environment on PATH.
set -eu
cd "$(dirname "$0")/../.."
[ ! -x .venv/bin/python ] || PATH="$PWD/.venv/bin:$PATH"

role=${1:-web}
[ $# -eq 0 ] || shift
celery="celery -q -A tranche_site"
quiet="--without-gossip --without-mingle"

case $role in
    web | beat | worker | prober | release)
        # The embedded servers are for one machine; a process on its own names what it shares with the others.
        for name in SECRET_KEY REDIS_URL; do
            eval "value=\${$name:-}"
            [ -n "$value" ] || { echo "$role: set $name (docs/deploying.md has all settings)." >&2; exit 64; }
        done
        [ -n "${DATABASE_URL:-${PG_DSN:-}}" ] || {
            echo "$role: set DATABASE_URL (docs/deploying.md has all settings)." >&2
            exit 64
        }
        ;;
esac

case $role in
    release)
        # In an image static files are there already, and nobody may write them.
        if [ -d "${STATIC_ROOT:-}" ] && [ ! -w "$STATIC_ROOT" ]; then set -- --no-static "$@"; fi
        exec python manage.py prepare "$@"
        ;;
    web) exec gunicorn tranche_site.wsgi -c python:tranche_site.gunicorn_conf -b "${WEB_BIND:-0.0.0.0:8080}" \
        --workers "${WEB_WORKERS:-2}" --threads "${WEB_THREADS:-8}" ;;
    beat) exec $celery beat --pidfile= "$@" ;;
    worker)
        queues=${1:?which queues? For example: worker default,storms,dns}
        shift
        exec $celery worker -Q "$queues" -n "$(echo "$queues" | tr , -)@%h" -c "${WORKER_PROCESSES:-2}" $quiet "$@"
        ;;
    prober)
        name=${1:?which vantage point? For example: prober fra1, or prober fra1.1 for its second shard}
        shift
        exec $celery worker -Q "probe.$name" -n "probe-$name@%h" -P threads -c 2 $quiet "$@"
        ;;
    manage) exec python manage.py "$@" ;;
    healthy) exec python -c '
import os, sys, urllib.request
port = os.environ.get("WEB_BIND", "0.0.0.0:8080").rpartition(":")[2]
try:
    answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).read()
except OSError as error:
    sys.exit(f"/healthz: {error}")
sys.exit(answer.strip() != b"ok")
' ;;
    *)
        echo "“$role” is no role: web, beat, worker QUEUES, prober NAME, release, manage ARGUMENTS or healthy." >&2
        exit 64
        ;;
esac
