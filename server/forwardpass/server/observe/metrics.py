"""Metrics for Prometheus, read from counters that never make a call wait.

What a scrape costs grows with the versions that were called, and by six series for each other one.
While it is built and written the thread lets others run every few samples: a thread of calls that
waits for Python's lock would otherwise wait for five milliseconds.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from forwardpass.proto.runtime import import_onnxruntime
from forwardpass.proto.version import __version__
from forwardpass.server.engine.histogram import BOUNDS_NS
from forwardpass.server.engine.model import Model
from forwardpass.server.health import Health
from forwardpass.server.observe.load import Load
from forwardpass.server.observe.refusals import Refusals
from forwardpass.server.process.incidents import Incident, Incidents
from forwardpass.server.repository.catalog import Catalog, State
from forwardpass.server.repository.mirror_folder import MirrorFigures

_T = TypeVar("_T")

_MODEL = ("model", "version")
_AT_ONCE = 32
"""Samples that are made or written before other threads may run."""
_BATCH_BOUNDS = tuple(2**power for power in range(15))
"""Rows of a run: 1, 2, 4, ... 16384."""
_BOUNDS_S = tuple(f"{ns / 1e9:g}" for ns in BOUNDS_NS)
_go_string: Callable[[float], str] = floatToGoString


class Lines(Metric):
    """A family of metrics as the lines of a page.

    A page of many models has a hundred thousand. prometheus_client makes each of them out of an
    object and a dictionary, which takes many times as long.
    """

    def __init__(self, name: str, text: str, kind: str, labels: Sequence[str]) -> None:
        """Begin; kind: `gauge`, `counter` or `histogram`."""
        super().__init__(name, text, kind)
        self.lines: list[str] = []
        """One or several lines each."""
        self._order = sorted(range(len(labels)), key=labels.__getitem__)
        self._labels = ",".join(f'{labels[place]}="%s"' for place in self._order)
        self._start = f"{name}_total{{" if kind == "counter" else f"{name}{{"
        self._numbers: dict[float, str] = {}
        """Numbers as they are written: most of them are there many times."""

    def add(self, values: Sequence[str], number: float) -> None:
        """Add a line: label values, and the number."""
        self.lines.append(f"{self._start}{self._written(values)}}} {self._number(number)}")

    def _written(self, values: Sequence[str]) -> str:
        return self._labels % tuple(_escape(values[place]) for place in self._order)

    def _number(self, number: float) -> str:
        written = self._numbers.get(number)
        if written is None:
            written = self._numbers[number] = f"{_go_string(number)}\n"
        return written


class HistogramLines(Lines):
    """A family of histograms; their labels come behind `le` in the order of the alphabet."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[str]) -> None:
        super().__init__(name, text, "histogram", labels)
        self._starts = [f'{name}_bucket{{le="{bound}",' for bound in (*bounds, "+Inf")]

    def add_counts(self, values: Sequence[str], counts: Sequence[int], total: float) -> None:
        """Add a histogram: label values, counts between the bounds, and the sum of what it has."""
        end = f"{self._written(values)}}} "
        parts: list[str] = []
        written, count = "", -1
        for start, below in zip(self._starts, accumulate(counts), strict=True):
            if below != count:
                count, written = below, self._number(below)
            parts += (start, end, written)
        name = self.name
        parts.append(f"{name}_count{{{end}{written}{name}_sum{{{end}{self._number(total)}")
        self.lines.append("".join(parts))


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class MetricsCollector(Collector):
    """Builds every metric at each scrape."""

    def __init__(
        self,
        catalog: Catalog,
        health: Health,
        refusals: Refusals,
        *,
        load: Callable[[], Load],
        open_streams: Callable[[], int],
        incidents: Incidents,
        max_backlog: int,
        max_connections: int,
        mirror: Callable[[], MirrorFigures] | None = None,
    ) -> None:
        """Prepare; the maximums are those of the settings.

        mirror: Returns the state of an object store's mirror; None without one.
        """
        self._mirror = mirror
        self._catalog = catalog
        self._health = health
        self._refusals = refusals
        self._load = load
        self._open_streams = open_streams
        self._incidents = incidents
        self._max_backlog = max_backlog
        self._max_connections = max_connections

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        for family in self._families():
            family.samples = _Gently(family.samples)
            yield family

    def _families(self) -> Iterator[Metric]:
        models = [
            model
            for name in sorted(self._catalog)
            for model in self._catalog.get(name).answering.values()
        ]
        called = [model for model in _gently(models) if model.statistics.used]
        yield self._info()
        yield GaugeMetricFamily(
            "forwardpass_ready", "Whether the server as a whole is ready.", self._health.ready
        )
        yield GaugeMetricFamily(
            "forwardpass_streams", "Open streams (ModelStreamInfer).", self._open_streams()
        )
        yield from _of_incidents(self._incidents)
        if self._mirror is not None:
            yield from _of_mirror(self._mirror())
        yield from self._loads(called)
        yield from self._states()
        yield self._calls(models)
        yield self._shed()
        yield from _of_calls(called)
        yield from _of_models(models, called)
        yield from _of_inputs(called)
        yield from _of_features(called)

    def _loads(self, called: list[Model]) -> Iterator[Metric]:
        load = self._load()
        yield GaugeMetricFamily(
            "forwardpass_calls_in_flight",
            "Calls that have arrived and are not answered, of every method.",
            load.in_flight,
        )
        yield GaugeMetricFamily(
            "forwardpass_waiting_calls",
            "Calls that have arrived and not begun: they wait for a thread, a turn of the event "
            "loop, or a run of their model.",
            load.waiting + sum(model.waiting for model in called),
        )
        yield GaugeMetricFamily(
            "forwardpass_waiting_limit_calls",
            "Maximum calls of a class that may wait for a thread or a turn (--max-backlog).",
            self._max_backlog,
        )
        oldest_ns = max(load.oldest_ns, *(model.queue.oldest_ns for model in called), 0)
        yield GaugeMetricFamily(
            "forwardpass_oldest_wait_seconds",
            "How long the first of the calls that have not begun has waited.",
            oldest_ns / 1e9,
        )
        if load.connections is not None:
            yield GaugeMetricFamily(
                "forwardpass_connections", "Open connections.", load.connections
            )
        yield GaugeMetricFamily(
            "forwardpass_connections_limit",
            "Maximum connections (--max-connections).",
            self._max_connections,
        )
        if load.certificate_expires_s is not None:
            yield GaugeMetricFamily(
                "forwardpass_certificate_expiry_timestamp_seconds",
                "When the server's certificate expires, in seconds since the epoch.",
                load.certificate_expires_s,
            )

    def _shed(self) -> Metric:
        shed = CounterMetricFamily(
            "forwardpass_shed_calls",
            "Calls that were answered RESOURCE_EXHAUSTED for lack of room, by what was full.",
            labels=("reason",),
        )
        for reason, calls in self._refusals.read_shed().items():
            shed.add_metric((reason,), calls)
        return shed

    def _info(self) -> Metric:
        info = InfoMetricFamily("forwardpass_build", "Versions of the server and of onnxruntime.")
        info.add_metric(
            (), {"version": __version__, "onnxruntime": import_onnxruntime().__version__}
        )
        return info

    def _states(self) -> Iterator[Metric]:
        state = Lines(
            "forwardpass_model_state",
            "1 for the current state of a version.",
            "gauge",
            (*_MODEL, "state"),
        )
        refused = Lines(
            "forwardpass_model_refused",
            "1 if the latest file did not load; the previous one may still answer.",
            "gauge",
            _MODEL,
        )
        for entry in _gently(self._catalog.index()):
            version = entry.name, str(entry.version)
            for each in State:
                state.add((*version, each), entry.state is each)
            refused.add(version, bool(entry.reason))
        yield state
        yield refused

    def _calls(self, models: list[Model]) -> Metric:
        calls = Lines(
            "forwardpass_calls",
            "ModelInfer calls, and calls on streams, by gRPC code; without a version where a call "
            "ended before it had one.",
            "counter",
            (*_MODEL, "code"),
        )
        for model in _gently(models):
            # Once: a line of 0 lets the rate of the first calls be seen.
            sums, _ = model.statistics.read()
            calls.add((*_version(model), "OK"), sums.answered)
            for status, count in sums.failed_by.items():
                calls.add((*_version(model), status.name), count)
        for (name, status), count in self._refusals.read().items():
            calls.add((name, "", status.name), count)
        return calls


def _of_incidents(incidents: Incidents) -> Iterator[Metric]:
    for kind, name, text in (
        (Incident.ACCEPT, "accept_errors", "Connections that could not be accepted."),
        (Incident.HANDSHAKE, "tls_handshake_errors", "TLS handshakes that failed."),
        (Incident.DROPPED_LINE, "log_dropped_lines", "Lines of the log that were dropped."),
    ):
        yield CounterMetricFamily(f"forwardpass_{name}", text, incidents.total(kind))
    refused = CounterMetricFamily(
        "forwardpass_refused_calls",
        "Calls of any RPC that were refused for want of credentials or of a permission, by code.",
        labels=("code",),
    )
    for kind in (Incident.UNAUTHENTICATED, Incident.PERMISSION_DENIED):
        refused.add_metric((kind.name,), incidents.total(kind))
    yield refused


def _of_calls(models: list[Model]) -> Iterator[Metric]:
    rows = Lines("forwardpass_rows", "Rows of answered calls.", "counter", _MODEL)
    phases = HistogramLines(
        "forwardpass_call_seconds",
        "Time of answered calls in the server by phase: receive, decode, queue, compute, encode, "
        "total.",
        (*_MODEL, "phase"),
        _BOUNDS_S,
    )
    batches = HistogramLines(
        "forwardpass_batch_rows",
        "Rows that ran together.",
        _MODEL,
        tuple(map(str, _BATCH_BOUNDS)),
    )
    for model in _gently(models, 1):
        sums, runs = model.statistics.read()
        rows.add(_version(model), sums.rows)
        times = (
            sums.receive_ns,
            sums.input_ns,
            sums.queue_ns,
            sums.infer_ns,
            sums.output_ns,
            sums.answered_ns,
        )
        for (phase, counts), ns in zip(model.statistics.phases().items(), times, strict=True):
            phases.add_counts((*_version(model), phase), counts, ns / 1e9)
        by_bound = [0] * (len(_BATCH_BOUNDS) + 1)
        for size, sums_of_runs in runs.items():
            by_bound[_batch_cell(size)] += sums_of_runs.count
        batches.add_counts(
            _version(model),
            by_bound,
            sum(size * sums_of_runs.count for size, sums_of_runs in runs.items()),
        )
    yield rows
    yield phases
    yield batches


def _of_models(models: list[Model], called: list[Model]) -> Iterator[Metric]:
    waiting = Lines("forwardpass_queue_calls", "Calls that wait for a run now.", "gauge", _MODEL)
    limit = Lines(
        "forwardpass_queue_limit_calls",
        "Maximum calls of a class that may wait for a run (--max-queue).",
        "gauge",
        _MODEL,
    )
    memory = Lines(
        "forwardpass_model_memory_bytes", "Memory of a model's constants.", "gauge", _MODEL
    )
    for model in called:
        waiting.add(_version(model), model.waiting)
        limit.add(_version(model), model.max_waiting)
    for model in _gently(models):
        memory.add(_version(model), model.constant_bytes)
    yield waiting
    yield limit
    yield memory


def _of_mirror(figures: MirrorFigures) -> Iterator[Metric]:
    for name, text, value in (
        (
            "store_reachable",
            "Whether the latest look at the object store worked.",
            figures.reachable,
        ),
        (
            "store_listed_timestamp_seconds",
            "When the object store was listed last, in seconds since the epoch; 0 if never.",
            figures.listed_s,
        ),
        (
            "mirror_models_behind",
            "Models whose files in the store could not be mirrored.",
            figures.behind,
        ),
        ("mirror_bytes", "Size of the mirror of the object store.", figures.size),
    ):
        yield GaugeMetricFamily(f"forwardpass_{name}", text, value)
    yield CounterMetricFamily(
        "forwardpass_store_failures",
        "Looks at the object store, and models in it, that failed.",
        figures.failures,
    )
    yield CounterMetricFamily(
        "forwardpass_store_read_bytes", "Bytes read from the object store.", figures.fetched
    )


def _of_inputs(models: list[Model]) -> Iterator[Metric]:
    labels = (*_MODEL, "input")
    seen = Lines("forwardpass_input_values", "Input values that were checked.", "counter", labels)
    outside = Lines(
        "forwardpass_input_out_of_range_values",
        "Checked values outside the range that the model's file gives for their column.",
        "counter",
        labels,
    )
    nan = Lines("forwardpass_input_nan_values", "Checked values that are NaN.", "counter", labels)
    for model in models:
        for name, values in ({} if model.drift is None else model.drift.read()).items():
            seen.add((*_version(model), name), values.seen)
            outside.add((*_version(model), name), values.outside)
            nan.add((*_version(model), name), values.nan)
    yield seen
    yield outside
    yield nan


def _of_features(models: list[Model]) -> Iterator[Metric]:
    labels = (*_MODEL, "input", "feature")
    outside = Lines(
        "forwardpass_feature_out_of_range_values",
        "Checked values outside the range of their column, by column (--drift-by-feature).",
        "counter",
        labels,
    )
    nan = Lines(
        "forwardpass_feature_nan_values",
        "Checked values that are NaN, by column (--drift-by-feature).",
        "counter",
        labels,
    )
    for model in models:
        for name, columns in ({} if model.drift is None else model.drift.read_columns()).items():
            for feature, values in _gently(columns.items()):
                outside.add((*_version(model), name, feature), values.outside)
                nan.add((*_version(model), name, feature), values.nan)
    if outside.lines:
        yield outside
        yield nan


class _Gently(list[_T]):
    """A list whose reader lets other threads run."""

    def __iter__(self) -> Iterator[_T]:
        return _gently(super().__iter__())


def _gently(items: Iterable[_T], at_once: int = _AT_ONCE) -> Iterator[_T]:
    for index, item in enumerate(items, 1):
        yield item
        if index % at_once == 0:
            # Gives up Python's lock to whoever waits for it.
            time.sleep(0)


def _version(model: Model) -> tuple[str, str]:
    return model.name, str(model.version)


def _batch_cell(rows: int) -> int:
    """Return the index of the smallest bound that is at least `rows`."""
    return min((rows - 1).bit_length(), len(_BATCH_BOUNDS))
