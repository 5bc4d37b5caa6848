#!/usr/bin/env bash
# Builds the image without a container engine and sees it work: Debian's buildah (vfs storage, chroot isolation) on a base
# that debootstrap makes. As root, on Debian:
#
#     apt-get install --no-install-recommends buildah debootstrap
#     docs/deploy/try-image.sh
#
# It starts the project's own Postgres and Valkey on loopback, so the virtual environment (`make run` makes it) must be there.
# Settings, all optional: MIRROR and SUITE of debootstrap, WORK (a directory that is kept; a temporary one is removed),
# BASE_IMAGE (skips debootstrap), BUILD_FLAGS (more flags of `buildah build`), and pip's PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_CERT, which reach the build as its arguments.
set -euo pipefail
set -m  # each background job is a process group of its own, so that it can be ended whole
cd "$(dirname "$0")/../.."

work=${WORK:-$(mktemp -d)}
mkdir -p "$work"
python=$PWD/.venv/bin/python
port=${PORT:-18080}
pids=()
say() { printf '%s\n' "$*"; }
buildah() { command buildah --storage-driver vfs --root "$work/storage" --runroot "$work/runroot" "$@"; }
finish() {
    exec 2>/dev/null # the shell would tell of each group that ends
    local place pid
    for ((place = ${#pids[@]} - 1; place >= 0; place--)); do # the servers last
        pid=${pids[place]}
        kill -TERM -- "-$pid" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 -- "-$pid" 2>/dev/null || continue 2; sleep 0.1; done
        kill -KILL -- "-$pid" 2>/dev/null || true
    done
    buildah rm --all >/dev/null 2>&1 || true
    [ -n "${WORK:-}" ] || rm -rf "$work"
}
trap finish EXIT

# --- base and image ---------------------------------------------------------------------------------------------

if [ -z "${BASE_IMAGE:-}" ]; then
    BASE_IMAGE=localhost/tranche-base
    if [ ! -e "$work/base/usr/bin/python3" ]; then
        debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
            "${SUITE:-bookworm}" "$work/base" "${MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log"
    fi
    rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
    if ! buildah inspect --type image "$BASE_IMAGE" >/dev/null 2>&1; then
        scratch=$(buildah from scratch)
        buildah copy -q "$scratch" "$work/base" / >/dev/null
        buildah commit -q --rm "$scratch" "$BASE_IMAGE" >/dev/null
    fi
fi

arguments=()
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT; do
    [ -z "${!name:-}" ] || arguments+=(--build-arg "$name=${!name}")
done
began=$(date +%s)
# shellcheck disable=SC2086
buildah build --format docker --isolation chroot --build-arg "BASE_IMAGE=$BASE_IMAGE" "${arguments[@]}" \
    ${BUILD_FLAGS:-} -f docs/deploy/Dockerfile -t localhost/tranche . >"$work/build.log" 2>&1 ||
    { tail -20 "$work/build.log" >&2; exit 1; }
say "built in $(($(date +%s) - began)) s"
buildah images --format '{{.Name}} {{.Size}}'

# --- servers, and processes of the image ------------------------------------------------------------------------

home=$(mktemp -d -p "$work" servers.XXXX)
chmod 755 "$work" "$home"
"$python" docs/deploy/try_servers.py "$home" >"$work/servers.out" 2>&1 &
pids+=($!)
for _ in $(seq 300); do grep -q '^ready' "$work/servers.out" && break; sleep 0.1; done
grep -q '^ready' "$work/servers.out" || { cat "$work/servers.out" >&2; exit 1; }
database=$(sed -n 's/^DATABASE_URL=//p' "$work/servers.out")
redis=$(sed -n 's/^REDIS_URL=//p' "$work/servers.out")
key=$(head -c 32 /dev/urandom | base64 | tr -d '\n')

in_image() { # container, then the role; LOG_LEVEL=DEBUG has workers tell each task
    local container=$1
    shift
    buildah run --isolation chroot --user 10001:10001 --env "DATABASE_URL=$database" --env "REDIS_URL=$redis" \
        --env "SECRET_KEY=$key" --env "CREDENTIAL_KEYS=try:$key" --env "WEB_BIND=127.0.0.1:$port" \
        --env LOG_LEVEL=DEBUG --env ADMIN_PASSWORD=only-for-this-trial "$container" -- /app/docs/deploy/entrypoint.sh "$@"
}
container=$(buildah from localhost/tranche)
in_image "$container" release >"$work/release.out" 2>&1 || { cat "$work/release.out" >&2; exit 1; }
say "release: $(tail -1 "$work/release.out" | cut -c1-40)"
for role in web beat "worker default,storms,dns"; do
    # shellcheck disable=SC2086
    in_image "$container" $role >"$work/${role%% *}.out" 2>&1 &
    pids+=($!)
done

answer() { "$python" -c 'import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=3).read().decode().strip())
except urllib.error.HTTPError as error:
    print(error.read().decode().strip())
except OSError as error:
    print(error)' "http://127.0.0.1:$port$1"; }
for _ in $(seq 60); do [ "$(answer /healthz)" = ok ] && break; sleep 0.5; done
say "/healthz: $(answer /healthz)"
[ "$(answer /healthz)" = ok ] || { tail -20 "$work/web.out" >&2; exit 1; }
in_image "$container" healthy && say "health check of the image: ok"

# Workers speak for themselves in /readyz; then a task is sent by one process of the image and done by another.
for _ in $(seq 60); do case $(answer /readyz) in *'"worker": {"state": "ok"'*) break ;; esac; sleep 0.5; done
say "/readyz: $(answer /readyz)"
case $(answer /readyz) in *'"worker": {"state": "ok"'*) ;; *) tail -20 "$work/worker.out" >&2; exit 1 ;; esac
task=$(in_image "$container" manage shell -v 0 -c 'from tranche_site.celery import app
print("sent", app.send_task("tranche_site.react", queue="storms").id)' 2>/dev/null | sed -n 's/^sent //p')
done_line() { grep '"task_succeeded"' "$work/worker.out" | grep -F "${task:-no task was sent}"; }
for _ in $(seq 60); do done_line >/dev/null && break; sleep 0.5; done
done_line || { tail -20 "$work/worker.out" >&2; exit 1; }
say "the task $task was executed in the image"
