#!/usr/bin/env bash
# prometheus-client 0.26.0 and opentelemetry-sdk 1.45.2 with numpy 2.4.6: one NumPy scalar makes a
# counter a float32, or a uint8, for good.
#
# Expected: the value of a counter is a float of 64 bits, whatever is added to it, and counts to
# 2**53. prometheus_client.Gauge.set calls float().
# What happens: inc, observe and add do `value += amount`. Since NumPy 2 a Python float plus an
# np.float32 is an np.float32, and it stays one: at 16777216 a counter stops, and the plain inc(1)
# of other code is lost as well; a float16 stops at 2048. The sums of Histogram and Summary and
# Gauge.inc are of the kind. In OpenTelemetry an integer of NumPy is kept too: three times
# np.uint8(200) is 88 (Prometheus starts at 0.0, which makes a float64 of it).
# Why it matters: tokens, bytes, rows and seconds come out of arrays (`x.sum()`, a latency in an
# array of float32). Everything is right in a test; after a day the rate falls to 0 while the
# server answers, and the mean latency with it. Give metrics `float(value)`.
#
# Output seen:
#     prometheus counter    16777216 + 1 (float32) + 1 + 1       = 16777216.0  float32
#     prometheus counter    2048 (float16) + 1 + 1               = 2048.0  float16
#     prometheus histogram  the sum of the same                  = 16777216.0  count 4
#     otel counter          16777216 + 1 (float32) + 1 + 1       = 16777216.0  float32
#     otel counter          three times 200 (uint8)              = 88  uint8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    numpy==2.4.6 prometheus-client==0.26.0 opentelemetry-sdk==1.45.2
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import warnings

import numpy as np
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Counter, Histogram

warnings.simplefilter("ignore")  # NumPy says once that a uint8 overflowed.
registry = CollectorRegistry()
reader = InMemoryMetricReader()
meter = MeterProvider([reader]).get_meter("finding")
amounts = [np.float32(2**24), np.float32(1), 1, 1]

tokens = Counter("tokens", "of float32", registry=registry)
halves = Counter("halves", "of float16", registry=registry)
sizes = Histogram("sizes", "of float32", registry=registry)
otel_tokens = meter.create_counter("tokens")
for amount in amounts:
    tokens.inc(amount)
    sizes.observe(amount)
    otel_tokens.add(amount)
for amount in (np.float16(2048), 1, 1):
    halves.inc(amount)
otel_bytes = meter.create_counter("bytes")
for _ in range(3):
    otel_bytes.add(np.uint8(200))


def kind(value):
    return type(value).__name__


scraped = registry.get_sample_value
data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
exported = {metric.name: metric.data.data_points[0].value for metric in data}
kept = [scraped("tokens_total"), scraped("halves_total"), scraped("sizes_sum")]
seen = [float(value) for value in kept]
print("prometheus counter    16777216 + 1 (float32) + 1 + 1       =", seen[0], "", kind(kept[0]))
print("prometheus counter    2048 (float16) + 1 + 1               =", seen[1], "", kind(kept[1]))
print("prometheus histogram  the sum of the same                  =", seen[2], end="  count ")
print(f"{scraped('sizes_count'):.0f}")
for name, what in (
    ("tokens", "16777216 + 1 (float32) + 1 + 1"),
    ("bytes", "three times 200 (uint8)"),
):
    value = exported[name]
    print(f"otel counter          {what:36} =", value.item(), "", kind(value))
assert seen == [2**24, 2048, 2**24]
assert kind(kept[0]) == "float32" and kind(kept[1]) == "float16"
assert exported["tokens"] == 2**24 and exported["bytes"] == 88
PROGRAM
