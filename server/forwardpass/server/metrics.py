"""What the server tells Prometheus, read from counters that calls do not wait for."""

from collections.abc import Callable, Iterator

import onnxruntime
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from forwardpass.proto.version import __version__
from forwardpass.server.catalog import Catalog, State
from forwardpass.server.health import Health
from forwardpass.server.histogram import BOUNDS_NS
from forwardpass.server.model import Model
from forwardpass.server.refusals import Refusals

_MODEL = ("model", "version")
_BATCH_BOUNDS = tuple(2**power for power in range(15))
"""Rows of a run: 1, 2, 4, ... 16384."""
_BOUNDS_S = tuple(f"{ns / 1e9:g}" for ns in BOUNDS_NS)


class MetricsCollector(Collector):
    """Builds every metric when Prometheus asks."""

    def __init__(
        self,
        catalog: Catalog,
        health: Health,
        refusals: Refusals,
        open_streams: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._health = health
        self._refusals = refusals
        self._open_streams = open_streams

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        models = [
            model
            for name in sorted(self._catalog)
            for model in self._catalog.get(name).answering.values()
        ]
        yield self._info()
        yield GaugeMetricFamily(
            "forwardpass_ready", "Whether the server as a whole takes calls.", self._health.ready
        )
        yield GaugeMetricFamily(
            "forwardpass_streams", "Open streams (ModelStreamInfer).", self._open_streams()
        )
        yield from self._states()
        yield self._calls(models)
        yield from _of_calls(models)
        yield from _of_models(models)
        yield from _of_inputs(models)

    def _info(self) -> Metric:
        info = InfoMetricFamily("forwardpass_build", "What runs here.")
        info.add_metric((), {"version": __version__, "onnxruntime": onnxruntime.__version__})
        return info

    def _states(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "forwardpass_model_state",
            "1 for the state that a version is in.",
            labels=(*_MODEL, "state"),
        )
        refused = GaugeMetricFamily(
            "forwardpass_model_refused",
            "1 if the file found last did not load; what was there before may still answer.",
            labels=_MODEL,
        )
        for entry in self._catalog.index():
            version = entry.name, str(entry.version)
            for each in State:
                state.add_metric((*version, each), entry.state is each)
            refused.add_metric(version, bool(entry.reason))
        yield state
        yield refused

    def _calls(self, models: list[Model]) -> Metric:
        calls = CounterMetricFamily(
            "forwardpass_calls",
            "ModelInfer calls, and calls on streams, by gRPC code; without a version where a call "
            "ended before it had one.",
            labels=(*_MODEL, "code"),
        )
        for model in models:
            sums, _ = model.statistics.read()
            calls.add_metric((*_version(model), "OK"), sums.answered)
            for status, count in sums.failed_by.items():
                calls.add_metric((*_version(model), status.name), count)
        for (name, status), count in self._refusals.read().items():
            calls.add_metric((name, "", status.name), count)
        return calls


def _of_calls(models: list[Model]) -> Iterator[Metric]:
    rows = CounterMetricFamily("forwardpass_rows", "Rows of answered calls.", labels=_MODEL)
    phases = HistogramMetricFamily(
        "forwardpass_call_seconds",
        "Time of answered calls in the server by phase: decode, queue, compute, encode, total.",
        labels=(*_MODEL, "phase"),
    )
    batches = HistogramMetricFamily(
        "forwardpass_batch_rows", "Rows that ran together.", labels=_MODEL
    )
    for model in models:
        sums, runs = model.statistics.read()
        rows.add_metric(_version(model), sums.rows)
        times = (sums.input_ns, sums.queue_ns, sums.infer_ns, sums.output_ns, sums.answered_ns)
        for (phase, counts), ns in zip(model.statistics.phases().items(), times, strict=True):
            phases.add_metric((*_version(model), phase), _cumulative(_BOUNDS_S, counts), ns / 1e9)
        by_bound = [0] * (len(_BATCH_BOUNDS) + 1)
        for size, sums_of_runs in runs.items():
            by_bound[_batch_cell(size)] += sums_of_runs.count
        batches.add_metric(
            _version(model),
            _cumulative(tuple(map(str, _BATCH_BOUNDS)), by_bound),
            sum(size * sums_of_runs.count for size, sums_of_runs in runs.items()),
        )
    yield rows
    yield phases
    yield batches


def _of_models(models: list[Model]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "forwardpass_queue_calls", "Calls that wait for a run now.", labels=_MODEL
    )
    limit = GaugeMetricFamily(
        "forwardpass_queue_limit_calls", "Most calls that may wait (--max-queue).", labels=_MODEL
    )
    memory = GaugeMetricFamily(
        "forwardpass_model_memory_bytes", "Memory of a model's constants.", labels=_MODEL
    )
    for model in models:
        waiting.add_metric(_version(model), model.waiting)
        limit.add_metric(_version(model), model.max_waiting)
        memory.add_metric(_version(model), model.constant_bytes)
    yield waiting
    yield limit
    yield memory


def _of_inputs(models: list[Model]) -> Iterator[Metric]:
    labels = (*_MODEL, "input")
    seen = CounterMetricFamily(
        "forwardpass_input_values", "Input values that were looked at.", labels=labels
    )
    outside = CounterMetricFamily(
        "forwardpass_input_out_of_range_values",
        "Those outside the range that the model's file gives for their column.",
        labels=labels,
    )
    nan = CounterMetricFamily(
        "forwardpass_input_nan_values", "Those that are no number.", labels=labels
    )
    for model in models:
        for name, values in ({} if model.drift is None else model.drift.read()).items():
            seen.add_metric((*_version(model), name), values.seen)
            outside.add_metric((*_version(model), name), values.outside)
            nan.add_metric((*_version(model), name), values.nan)
    yield seen
    yield outside
    yield nan


def _version(model: Model) -> tuple[str, str]:
    return model.name, str(model.version)


def _batch_cell(rows: int) -> int:
    """Return the place of the least bound that is not below."""
    return min((rows - 1).bit_length(), len(_BATCH_BOUNDS))


def _cumulative(bounds: tuple[str, ...], counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
