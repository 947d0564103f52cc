#!/usr/bin/env bash
# Build the image of the server, and print its size, and its digest once it is in a registry.
#
#   FORWARDPASS_IMAGE   its name; forwardpass:latest
#   BASE_IMAGE          a base with Python 3.11 other than the Dockerfile's
#   PIP_CONF, CA_BUNDLE files for a package index of your own; they reach no layer
#   BUILD_NETWORK       the network of the build, as `host`
#   PUSH                1 pushes it to the registry of its name
set -euo pipefail
cd "$(dirname "$0")/.."
image=${FORWARDPASS_IMAGE:-forwardpass:latest}
options=(--build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)")
# When the revision was made, not the image: a build of it again has the same labels.
options+=(--build-arg "CREATED=$(git log -1 --format=%cI 2>/dev/null || echo unknown)")
[ -z "${BASE_IMAGE:-}" ] || options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
[ -z "${BUILD_NETWORK:-}" ] || options+=(--network "$BUILD_NETWORK")
[ -z "${PIP_CONF:-}" ] || options+=(--secret "id=pip_conf,src=$PIP_CONF")
[ -z "${CA_BUNDLE:-}" ] || options+=(--secret "id=ca_bundle,src=$CA_BUNDLE")
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' proto/forwardpass/proto/version.py)
DOCKER_BUILDKIT=1 docker build -q -t "$image" \
    --build-arg "VERSION=$version" "${options[@]}" . >/dev/null
bytes=$(docker image inspect -f '{{.Size}}' "$image")
echo "image $image: $((bytes / 1000000)) MB"
[ -z "${PUSH:-}" ] || docker push -q "$image" >/dev/null
docker image inspect -f '{{range .RepoDigests}}{{println "by digest:" .}}{{end}}' "$image" | grep . || true
