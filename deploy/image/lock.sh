#!/usr/bin/env bash
# Write the lock files of the image anew: exact versions with hashes, and no address in them, so
# that they install from whichever index pip is told of. For Python 3.11, that of the image.
#
#   deploy/image/lock.sh [EXTRA...]   with the packages of further extras, as `tracing`
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3.11 -m venv "$tools/venv"
"$tools/venv/bin/pip" install -q 'pip-tools>=7.4'
compile=("$tools/venv/bin/pip-compile" --quiet --upgrade --generate-hashes --allow-unsafe
    --strip-extras --no-header --no-annotate --no-emit-options)
extras=()
for extra in server cli "$@"; do extras+=(--extra "$extra"); done
"${compile[@]}" "${extras[@]}" -o deploy/image/requirements.lock pyproject.toml
"${compile[@]}" --only-build-deps --build-deps-for wheel \
    -o deploy/image/requirements-build.lock pyproject.toml
