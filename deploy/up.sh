#!/usr/bin/env bash
# From a clean checkout: build the image, bring the stack up, print a prediction made through Envoy.
#
#   deploy/up.sh                images are pulled
#   deploy/up.sh --stand-ins    where none can be: those of tests/containers/setup.sh, as root
#
# `docker compose down` ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
services=()
if [ "${1:-}" = --stand-ins ]; then
    set -a
    eval "$(tests/containers/setup.sh)"
    set +a
    # For Grafana there is none.
    services=(server envoy prometheus)
fi
export FORWARDPASS_IMAGE=${FORWARDPASS_IMAGE:-forwardpass:latest}
deploy/build.sh
. deploy/compose.sh
compose up -d --no-build "${services[@]}"

client() { # ARGUMENT...: in a container of the image, beside Envoy
    docker run --rm --network "$(compose_project)_outside" --read-only "$@"
}

for _ in $(seq 60); do
    client "$FORWARDPASS_IMAGE" health envoy:8001 2>/dev/null && break
    sleep 1
done
client --entrypoint python "$FORWARDPASS_IMAGE" -c '
from forwardpass.client import Client
from forwardpass.models.zoo import ZOO

held_out = ZOO["linnerud"].held_out()
with Client("envoy:8001") as client:
    print(client.predict("linnerud", held_out.x[:3]))
'
echo "ready on 127.0.0.1:${PORT:-8001}; metrics on http://127.0.0.1:${PROMETHEUS_PORT:-9090}" \
    "and http://127.0.0.1:${GRAFANA_PORT:-3000}"
