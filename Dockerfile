# The server, CPU only: Python and what it loads, and nothing else. No compiler, no pip, no shell;
# nothing is written while it runs.
# No `# syntax=` line: it would be one more image to pull.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY deploy/image deploy/image
# Both secrets are optional, for an index of your own; they reach no layer.
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_bundle \
    --mount=type=cache,target=/pip-cache \
    export PIP_CACHE_DIR=/pip-cache PIP_CONFIG_FILE=/run/secrets/pip_conf; \
    if [ -f /run/secrets/ca_bundle ]; then export PIP_CERT=/run/secrets/ca_bundle; fi; \
    python3 -m venv /tools \
    && python3 -m venv --without-pip /opt/forwardpass \
    && /tools/bin/pip install --require-hashes --only-binary=:all: \
        -r deploy/image/requirements-build.lock \
    && /tools/bin/pip --python /opt/forwardpass/bin/python install \
        --require-hashes --only-binary=:all: --no-compile -r deploy/image/requirements.lock \
    && sh deploy/image/trim.sh /opt/forwardpass/lib/python3*/site-packages
COPY . .
# Byte code: unchecked, as no source changes any more, and now, as the root is read-only later.
RUN /tools/bin/pip wheel --no-index --no-deps --no-build-isolation -w /wheels . \
    && /tools/bin/pip --python /opt/forwardpass/bin/python install \
        --no-index --no-deps --no-compile /wheels/*.whl \
    && /opt/forwardpass/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        /opt/forwardpass/lib \
    && sh deploy/image/root.sh /opt/forwardpass /root-of-image \
    && python3 deploy/image/sbom.py /opt/forwardpass /root-of-image > /root-of-image/sbom.cdx.json

FROM scratch
COPY --from=build /root-of-image /
COPY --from=build /opt/forwardpass /opt/forwardpass
# ORT_DISABLE_TELEMETRY: onnxruntime sends some since 1.29.
ENV PATH=/opt/forwardpass/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /models
EXPOSE 8001
# The exec form throughout: the server is process 1 and gets the signals.
ENTRYPOINT ["forwardpass"]
CMD ["serve", "/models", "--host", "0.0.0.0"]
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["forwardpass", "health"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="forwardpass" \
    org.opencontainers.image.description="Feed-forward networks as ONNX files, served over gRPC" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.authors="The Forwardpass authors" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.base.name="${BASE_IMAGE}"
