"""OpenTelemetry: the spans of real calls."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.command import serving
from support.rpc import Stub
from support.versions import put
from support.wire import infer_request

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport

pytestmark = pytest.mark.usefixtures("transport")

ROW = {"x": np.ones((3, 2), np.float32)}
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
PARENT_ID = 0xB7AD6B7169203331
PARENT = [("traceparent", f"00-{TRACE_ID:032x}-{PARENT_ID:016x}-01")]
NOT_SAMPLED = [("traceparent", f"00-{TRACE_ID:032x}-{PARENT_ID:016x}-00")]


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    # Of the program, as one that embeds the server would have it; it can be set but once.
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture(scope="module")
def port(
    exporter: InMemorySpanExporter, tmp_path_factory: pytest.TempPathFactory, transport: Transport
) -> Iterator[int]:
    root = tmp_path_factory.mktemp("traced")
    put(root, "m", 1, 1)
    with Server(Config(models=root, port=0, traces=True)) as server:
        yield server.port


@pytest.fixture
def stub(port: int, exporter: InMemorySpanExporter) -> Iterator[Stub]:
    exporter.clear()
    with Stub(port) as stub:
        yield stub


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    finished = exporter.get_finished_spans()
    assert len({span.name for span in finished}) == len(finished)
    return {span.name.rpartition("/")[2]: span for span in finished}


def test_a_call_is_a_span_of_its_callers_trace(stub: Stub, exporter: InMemorySpanExporter) -> None:
    stub.infer(infer_request("m", ROW), metadata=[*PARENT, ("x-request-id", "abc-1")])

    call = spans(exporter)["ModelInfer"]
    assert call.kind is SpanKind.SERVER
    assert call.context.trace_id == TRACE_ID
    assert call.parent is not None
    assert call.parent.span_id == PARENT_ID
    attributes = dict(call.attributes or {})
    assert attributes["rpc.grpc.status_code"] == 0
    assert attributes["forwardpass.model"] == "m"
    assert attributes["forwardpass.version"] == "1"
    assert attributes["forwardpass.rows"] == 3
    assert attributes["forwardpass.request_id"] == "abc-1"
    assert call.status.status_code is not StatusCode.ERROR


def test_its_phases_are_spans_inside_it_one_after_the_other(
    stub: Stub, exporter: InMemorySpanExporter
) -> None:
    stub.infer(infer_request("m", ROW), metadata=PARENT)

    found = spans(exporter)
    call = found.pop("ModelInfer")
    assert list(found) == ["receive", "decode", "queue", "compute", "encode"]
    at = call.start_time
    for phase in found.values():
        assert phase.context.trace_id == TRACE_ID
        assert phase.parent is not None
        assert phase.parent.span_id == call.context.span_id
        assert phase.start_time == at
        at = phase.end_time
    assert at == call.end_time


def test_a_call_without_a_parent_begins_a_trace(stub: Stub, exporter: InMemorySpanExporter) -> None:
    stub.infer(infer_request("m", ROW))

    call = spans(exporter)["ModelInfer"]
    assert call.parent is None
    assert call.context.trace_id != 0


def test_a_parent_that_is_not_sampled_leaves_no_spans(
    stub: Stub, exporter: InMemorySpanExporter
) -> None:
    stub.infer(infer_request("m", ROW), metadata=NOT_SAMPLED)

    assert not exporter.get_finished_spans()


def test_a_call_that_fails_says_so_without_a_word_of_what_it_sent(
    stub: Stub, exporter: InMemorySpanExporter
) -> None:
    stub.refusal("ModelInfer", infer_request("m", {"marked": ROW["x"]}), metadata=PARENT)
    call = spans(exporter)["ModelInfer"]

    assert call.status.status_code is StatusCode.ERROR
    assert (call.attributes or {})["rpc.grpc.status_code"] == 3
    assert call.status.description == "InvalidTensorError"
    assert "marked" not in call.to_json()


@pytest.mark.parametrize("sent", ["", "garbage", "00-0-0-00", "ff" * 1000])
def test_a_traceparent_that_is_none_does_no_harm(
    stub: Stub, exporter: InMemorySpanExporter, sent: str
) -> None:
    stub.infer(infer_request("m", ROW), metadata=[("traceparent", sent)])

    assert spans(exporter)["ModelInfer"].parent is None


def test_spans_reach_a_collector_before_the_server_ends(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, 1)
    received: SimpleQueue[ExportTraceServiceRequest] = SimpleQueue()

    def export(
        request: ExportTraceServiceRequest, _: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        received.put(request)
        return ExportTraceServiceResponse()

    collector = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    collector.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Export": handler}),)
    )
    endpoint = f"http://127.0.0.1:{collector.add_insecure_port('127.0.0.1:0')}"
    collector.start()
    try:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with serving(
            tmp_path, "--port", "0", "--traces", "--drain-s", "0", env=environment
        ) as server:
            with Stub(server.target) as stub:
                stub.infer(infer_request("m", ROW), metadata=PARENT)
            server.process.terminate()
            assert server.process.wait(30) == 0
        request = received.get(timeout=20)
    finally:
        collector.stop(None)

    (resource,) = request.resource_spans
    names = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert "inference.GRPCInferenceService/ModelInfer" in names
    assert any(
        attribute.key == "service.name" and attribute.value.string_value == "forwardpass"
        for attribute in resource.resource.attributes
    )


WITHOUT = """
import sys
from pathlib import Path
sys.modules["opentelemetry"] = None
from forwardpass.server.app import Server, TracingUnavailableError
from forwardpass.server.config import Config
try:
    Server(Config(models=Path(sys.argv[1]), port=0, traces=True))
except TracingUnavailableError as error:
    print(error)
"""


def test_without_opentelemetry_the_server_says_what_to_install(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, root],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "forwardpass[tracing]" in done.stdout, done.stderr
