"""OpenTelemetry: a span for each ModelInfer call, with the phases of its time inside.

Spans are made after a call has ended, from times that are measured anyway.
"""

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from forwardpass.proto.version import __version__
from forwardpass.server.observe.observation import Observation
from forwardpass.server.observe.origin import Origin

_FLUSH_MS = 5000


class Tracing:
    """Turns observations into spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("forwardpass", __version__)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def start(cls) -> "Tracing":
        """Use the program's provider, or else export to the target of OTEL_EXPORTER_OTLP_*."""
        provider = trace.get_tracer_provider()
        if not isinstance(provider, TracerProvider):
            named = Resource({SERVICE_NAME: "forwardpass"})
            provider = TracerProvider(resource=named.merge(OTELResourceDetector().detect()))
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def observe(self, call: Observation) -> None:
        """Make the spans of a call, as children of its caller's span if it sent one."""
        span = self._tracer.start_span(
            "inference.GRPCInferenceService/ModelInfer",
            context=self._context(call.origin),
            kind=SpanKind.SERVER,
            start_time=call.started_ns,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": "inference.GRPCInferenceService",
                "rpc.method": "ModelInfer",
                "rpc.grpc.status_code": int(call.status),
                "network.peer.address": call.origin.peer,
                "forwardpass.request_id": call.origin.request_id,
                "forwardpass.model": call.model,
                "forwardpass.version": call.version,
                "forwardpass.rows": call.rows,
            },
        )
        if call.error is not None:
            # Not the error's text, which may quote what the caller sent.
            span.set_status(Status(StatusCode.ERROR, type(call.error).__name__))
        elif span.is_recording():
            self._add_phases(call, trace.set_span_in_context(span))
        span.end(call.started_ns + call.total_ns)

    def flush(self) -> None:
        """Export pending spans."""
        self._provider.force_flush(_FLUSH_MS)

    def _context(self, origin: Origin) -> Context:
        carrier = {"traceparent": origin.traceparent, "tracestate": origin.tracestate}
        return self._propagator.extract({key: value for key, value in carrier.items() if value})

    def _add_phases(self, call: Observation, parent: Context) -> None:
        phases = {
            "receive": call.receive_ns,
            "decode": call.decode_ns,
            "queue": call.queue_ns,
            "compute": call.compute_ns,
            "encode": call.encode_ns,
        }
        at = call.started_ns
        for name, ns in phases.items():
            self._tracer.start_span(name, context=parent, start_time=at).end(at + ns)
            at += ns
