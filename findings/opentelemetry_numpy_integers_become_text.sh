#!/usr/bin/env bash
# opentelemetry-sdk 1.45.2, numpy 2.4.6: a NumPy integer on a span is sent as text, a NumPy float as
# a number.
#
# Expected: an attribute that is no plain int, float, bool or str is dropped, as the SDK did for
# years; or NumPy's scalars are all taken for numbers.
# What happens: np.float64 is a float of Python's and goes out as double_value. np.int64, np.int32,
# np.float32 and np.bool_ go out as string_value "3", "0.25", "True", in a list too; Python's log
# has one line for it, the trace store none. A metric does otherwise: a counter that was given
# np.int64 is exported as a double.
# Why it matters: rows, batch sizes and shapes come out of NumPy (x.sum(), len by np.prod), so
# `batch.rows > 8` finds nothing, an average over the attribute is empty, and for some stores the
# first value fixes the type of the column, so that int() put in later is what gets refused. Call
# int() on each.
#
# Output seen:
#     int              int_value: 3
#     np.int64         string_value: "3"
#     np.float64       double_value: 3
#     np.float32       string_value: "0.25"
#     np.bool_         string_value: "True"
#     (np.int64, int)  string_value: "8" int_value: 4
#     counter          as_double: 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
    opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-common==1.45.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import logging

import numpy as np
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

logging.disable(logging.WARNING)
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
with provider.get_tracer("t").start_as_current_span("infer") as span:
    span.set_attribute("int", 3)
    span.set_attribute("np.int64", np.int64(3))
    span.set_attribute("np.float64", np.float64(3))
    span.set_attribute("np.float32", np.float32(0.25))
    span.set_attribute("np.bool_", np.bool_(True))
    span.set_attribute("(np.int64, int)", (np.int64(8), 4))
encoded = encode_spans(exporter.get_finished_spans())
sent = {}
for pair in encoded.resource_spans[0].scope_spans[0].spans[0].attributes:
    values = pair.value.array_value.values or [pair.value]
    sent[pair.key] = " ".join(str(value).strip() for value in values)
    print(f"{pair.key:16} {sent[pair.key]}")
reader = InMemoryMetricReader()
MeterProvider([reader]).get_meter("t").create_counter("rows").add(np.int64(3))
metrics = encode_metrics(reader.get_metrics_data())
point = metrics.resource_metrics[0].scope_metrics[0].metrics[0].sum.data_points[0]
print(f"{'counter':16} {point.WhichOneof('value')}: {point.as_double or point.as_int:g}")
assert sent["int"] == "int_value: 3" and sent["np.int64"] == 'string_value: "3"'
assert sent["np.float64"] == "double_value: 3" and sent["np.float32"] == 'string_value: "0.25"'
assert sent["np.bool_"] == 'string_value: "True"' and point.WhichOneof("value") == "as_double"
PROGRAM
