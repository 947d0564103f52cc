#!/usr/bin/env bash
# Replace the servers one by one, each new one before an old one, without a failed call.
#
# `docker compose up -d` alone stops them all and then starts them. Give it the new image in
# FORWARDPASS_IMAGE, and in COMPOSE_FILE the files that the stack was brought up with, if those are
# not the ones that Compose reads by itself. Docker Swarm does the same by itself.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/compose.sh

running() { compose ps -q server 2>/dev/null; }
health() { docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null || true; }

mapfile -t old < <(running)

# A server made of other files would be another: without TLS and tokens, above all.
here=$(compose_files | tr : '\n' | sed 's|.*/||' | paste -sd :)
for container in "${old[@]}"; do
    made_of=$(compose_files_of "$container")
    [ "$made_of" = "$here" ] || {
        echo "${container:0:12} was made from $made_of, this would make servers from $here;" \
            "run: export COMPOSE_FILE=$made_of" >&2
        exit 2
    }
done

for container in "${old[@]}"; do
    before=$(running)
    compose up -d --no-build --no-deps --no-recreate --scale "server=$((${#old[@]} + 1))" server
    new=$(running | grep -vF "$before")
    for _ in $(seq 120); do
        [ "$(health "$new")" = healthy ] && break
        sleep 0.5
    done
    [ "$(health "$new")" = healthy ] || {
        echo "${new:0:12} did not become healthy; ${container:0:12} and the rest stay" >&2
        docker rm -f "$new" >/dev/null
        exit 1
    }
    # SIGTERM: it says that it is not ready, answers still, and ends when no call is left.
    docker stop --time 40 "$container" >/dev/null
    docker rm "$container" >/dev/null
    echo "${container:0:12} -> ${new:0:12}"
done
