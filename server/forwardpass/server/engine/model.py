"""A model version that answers: its session, its signature, its queue."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from types import MappingProxyType

from forwardpass.proto import metadata
from forwardpass.proto.explain import Target
from forwardpass.proto.metadata import MetadataError
from forwardpass.proto.spec import TensorError, TensorSpec
from forwardpass.proto.verdicts import is_two_class
from forwardpass.server.engine.batch_run import Computation
from forwardpass.server.engine.bounded import BoundedSession
from forwardpass.server.engine.drift import Drift
from forwardpass.server.engine.queue import BatchQueue, QueueLimits
from forwardpass.server.engine.replay import NoAnswerError, WrongAnswerError, loses_nan, prove
from forwardpass.server.engine.session import Session, SessionError
from forwardpass.server.engine.statistics import Statistics
from forwardpass.server.engine.terms import Reshape, Shape, TensorTerms, Terms, TermsError, apply
from forwardpass.server.engine.tuning import Batching, may_batch, tune
from forwardpass.server.errors import ModelFailedError
from forwardpass.server.guard.files import ModelBytes
from forwardpass.server.onnx_messages import GraphProto, TensorProto

_ITEM_BYTES: Mapping[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.INT8: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
}
"""Sizes of the elements of most models."""
_SHORT_S = 0.001
"""Seconds above which a run goes to a thread, whose turn costs some 50 us."""
_PIECE_S = 0.003
"""Seconds of a piece of a large call: other calls wait as long, and each piece costs some 30 us."""
_BESIDE_S = 0.0002
"""Seconds of a piece of a call of the class batch, and of its runs while interactive calls are
expected, which wait for its end; or of one row if that takes more."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about the bytes of a file when it was proven and run on this machine."""

    bounded: bool
    """Whether its runs need a maximum of memory, since they are not in pieces."""
    batching: Batching
    unproven: str
    """The reason why it answered no input that was tried; empty if it answered one."""
    takes_nan: bool
    """Whether inputs with NaN may be run: whether NaN never comes out as a number."""
    constant_bytes: int
    """Memory of the constants, in bytes."""


class Model:
    """One version of one model, loaded and proven."""

    def __init__(
        self,
        name: str,
        version: int,
        path: Path,
        content: ModelBytes,
        source: GraphProto | Findings,
        queue: QueueLimits = QueueLimits(),  # noqa: B008 - frozen
        *,
        watch_inputs: bool = False,
        by_feature: bool = False,
        terms: Terms = Terms(),  # noqa: B008 - frozen
        takes_none: bool = True,
        unproven: bool = False,
        max_run_bytes: int = 2**30,
        statistics: Statistics | None = None,
        row_wise: bool = False,
    ) -> None:
        """Load the file and run its own samples, or a warm-up row if it has none.

        path: The file. content: What was read from it. source: The graph in it; or what another
        process found out about the same bytes, which is taken over: nothing is run. watch_inputs:
        Whether to look at what callers send. by_feature: Whether to count that by column, too.
        terms: What the operator says of it. takes_none:
        Whether it may be asked about no rows. unproven: Whether it may answer none of the inputs
        that are tried; it is never batched then. max_run_bytes: Maximum memory of a run that is
        not in pieces. statistics: Where its runs are counted; None: on its own. row_wise: Whether
        its rows are known to be independent, without a proof.

        Raises ModelFailedError with the reason.
        """
        self.name = name
        self.version = version
        self.path = path
        self.limits = queue
        self.max_run_bytes = max_run_bytes
        self.explains: Target | None = None
        """The column whose attributions it answers as well; None: it is an ordinary model."""
        self.explanations: dict[tuple[Target, int], Model] = {}
        """Models that explain it, by column and steps; see `explanations`."""
        self.explaining = Lock()
        """Held while one is made."""
        try:
            bounded = (
                source.bounded
                if isinstance(source, Findings)
                else not (row_wise or may_batch(source))
            )
            self.session = (
                BoundedSession(path, content, max_run_bytes) if bounded else Session(path, content)
            )
            if not isinstance(source, Findings):
                _check_ranks(source)
            by_rows = terms.max_rows is not None
            inputs, self._reshaped_inputs = _as_served(
                "input", self.session.inputs, terms.inputs, by_rows=by_rows
            )
            outputs, self._reshaped_outputs = _as_served(
                "output", self.session.outputs, terms.outputs, by_rows=by_rows
            )
            self.terms = terms
            """The operator's configuration of it."""
            self.reshapes_inputs = bool(self._reshaped_inputs)
            """Whether callers send an input in another shape than the graph's."""
            self.reshapes_outputs = bool(self._reshaped_outputs)
            """Whether callers get an output in another shape than the graph's."""
            batching, self.unproven = (
                (source.batching, source.unproven)
                if isinstance(source, Findings)
                else _prove(self.session, source, unproven, row_wise=row_wise)
            )
            """The reason why it answered no input that was tried; empty if it answered one."""
            self.batching = batching.within(terms.max_rows)
            if not bounded and self.batching.max_rows == 1:
                # Nobody knew before it was run.
                bounded = True
                self.session = BoundedSession(path, content, max_run_bytes)
            self.short_rows = self.batching.rows_within(_SHORT_S)
            """Maximum rows of a run on a thread that has other things to do."""
            self.piece_rows = max(self.batching.max_rows, self.batching.rows_within(_PIECE_S))
            """Maximum rows of a piece; a call of more rows runs in pieces."""
            if terms.max_rows is not None:
                self.piece_rows = min(self.piece_rows, terms.max_rows)
            self.whole_rows = max([self.piece_rows, *self.batching.curve_us])
            """Rows that a run may have that is not in pieces, where others are."""
            self.columns = _output_columns(self.session)
            """Labels of the outputs' columns, where the operator or the file names them."""
            for output, labels in terms.labels.items():
                known = self.columns.get(output, metadata.ColumnNames())
                self.columns[output] = replace(known, labels=labels)
            one_row_s = self.batching.curve_us.get(1, 0.0) / 1e6
            beside_s = max(_BESIDE_S, one_row_s)
            self.batch_rows = max(1, min(self.piece_rows, self.batching.rows_within(beside_s)))
            """Maximum rows of a piece of a call of the class batch, and of any of its runs while
            interactive calls are expected."""
            columns = _input_columns(self.session)
        except (
            SessionError,
            MetadataError,
            TensorError,
            TermsError,
            WrongAnswerError,
        ) as error:
            raise ModelFailedError(name, version, str(error)) from error
        self.inputs: Mapping[str, TensorSpec] = MappingProxyType(inputs)
        """The inputs in the shapes that callers send."""
        self.outputs: Mapping[str, TensorSpec] = MappingProxyType(outputs)
        self.properties = {
            **metadata.published(self.session.metadata),
            **_named(self.session, outputs, terms.labels),
            metadata.BATCH_INVARIANT: self.batching.invariance,
            **({metadata.UNPROVEN: self.unproven} if self.unproven else {}),
        }
        """The properties in ModelMetadata: those of the file, and those found out here."""
        self.properties |= {
            metadata.SIGNATURE: metadata.signature(
                self.inputs.values(), self.outputs.values(), self.properties
            ),
            metadata.CONTENT: hashlib.sha256(content.view).hexdigest(),
        }
        self.statistics = Statistics() if statistics is None else statistics
        """Counters of its calls and runs, and of the time that they took."""
        self.drift = (
            Drift(self.session.inputs, columns, by_feature=by_feature) if watch_inputs else None
        )
        self.findings = (
            source
            if isinstance(source, Findings)
            else Findings(
                bounded,
                batching,
                self.unproven,
                takes_nan=not loses_nan(self.session, source),
                constant_bytes=sum(map(_bytes, source.initializer)),
            )
        )
        """What was found out about its bytes, for other processes that load them."""
        self.takes_none = takes_none
        """Whether it may be asked about no rows."""
        # The queue knows the computation and not the model: in a cycle the session's memory
        # would outlive its last call, until Python looks for garbage.
        computation = Computation(
            self.name,
            self.session,
            self.statistics,
            self.drift,
            takes_none=takes_none,
            takes_nan=self.findings.takes_nan,
        )
        self.queue = BatchQueue(
            self.name,
            computation.run,
            max_rows=self.batching.max_rows,
            batch_rows=self.batch_rows,
            limits=queue,
        )

    def in_graph(self, name: str, shape: Shape) -> Shape:
        """Return the shape in the graph for the shape in which an input was sent."""
        reshape = self._reshaped_inputs.get(name)
        return shape if reshape is None else reshape.to_graph(shape)

    def for_callers(self, name: str, shape: Shape) -> Shape:
        """Return the shape for callers for the shape of an output in the graph."""
        reshape = self._reshaped_outputs.get(name)
        return shape if reshape is None else reshape.to_caller(shape)

    @property
    def constant_bytes(self) -> int:
        """Memory of the constants, in bytes."""
        return self.findings.constant_bytes

    @property
    def waiting(self) -> int:
        """Number of jobs that wait for a run now."""
        explanations = list(self.explanations.values())
        return self.queue.waiting + sum(made.queue.waiting for made in explanations)

    @property
    def max_waiting(self) -> int:
        """Maximum number of jobs that wait."""
        return self.queue.max_waiting


def _prove(
    session: Session, graph: GraphProto, unproven: bool, *, row_wise: bool
) -> tuple[Batching, str]:
    try:
        prove(session, graph)
    except NoAnswerError as error:
        if not unproven:
            raise
        return Batching(1, "no input is known that it answers", {}), str(error)
    return tune(session, graph, row_wise=row_wise), ""


def _check_ranks(graph: GraphProto) -> None:
    # onnxruntime describes an input of any rank and a scalar alike. Inputs with an initializer are
    # constants here.
    constants = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in constants and not value.type.tensor_type.HasField("shape"):
            raise SessionError(f"input {value.name!r} has no rank; export it with a shape")


def _bytes(constant: TensorProto) -> int:
    size = _ITEM_BYTES.get(constant.data_type)
    if size is None:
        # Imported here, for it takes long.
        from onnx.helper import tensor_dtype_to_np_dtype

        size = int(tensor_dtype_to_np_dtype(constant.data_type).itemsize)
    return math.prod(constant.dims) * size


def _input_columns(session: Session) -> dict[str, metadata.ColumnNames]:
    columns = metadata.load_columns(metadata.INPUTS, session.metadata.get(metadata.INPUTS, "{}"))
    for spec in session.inputs:
        column = columns.get(spec.name, metadata.ColumnNames())
        width = spec.shape[-1] if spec.shape else 1
        for what, entries in (("a range", column.low), ("a fill", column.fill)):
            if entries and width != len(entries):
                raise MetadataError(
                    metadata.INPUTS,
                    f"{what} for {len(entries)} of the {width} columns of {spec.name!r}",
                )
    return columns


def _output_columns(session: Session) -> dict[str, metadata.ColumnNames]:
    text = session.metadata.get(metadata.OUTPUTS, "{}")
    columns = metadata.load_columns(metadata.OUTPUTS, text)
    for spec in session.outputs:
        column = columns.get(spec.name, metadata.ColumnNames())
        width = spec.shape[-1] if spec.shape else 1
        for what, entries in (("labels", column.labels), ("thresholds", column.thresholds)):
            two_class = what == "labels" and is_two_class(column.labels, width)
            if entries and width not in (-1, len(entries)) and not two_class:
                raise MetadataError(
                    metadata.OUTPUTS,
                    f"{len(entries)} {what} for the {width} columns of {spec.name!r}",
                )
    return columns


def _as_served(
    kind: str, specs: Sequence[TensorSpec], terms: Mapping[str, TensorTerms], *, by_rows: bool
) -> tuple[dict[str, TensorSpec], dict[str, Reshape]]:
    """Return the specs of inputs or outputs for callers, and the reshapes among them."""
    if not terms and not by_rows:
        return {spec.name: spec for spec in specs}, {}
    return apply(kind, specs, terms, by_rows=by_rows)


def _fits(labels: Sequence[str], output: TensorSpec) -> bool:
    width = output.shape[-1] if output.shape else 1
    return len(output.shape) <= 2 and (width in (-1, len(labels)) or is_two_class(labels, width))


def _named(
    session: Session, outputs: Mapping[str, TensorSpec], labels: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return the properties of the operator's labels, where they fit an output's columns."""
    fitting = {name: texts for name, texts in labels.items() if _fits(texts, outputs[name])}
    if not fitting:
        return {}
    columns = metadata.load_columns(metadata.OUTPUTS, session.metadata.get(metadata.OUTPUTS, "{}"))
    for name, texts in fitting.items():
        columns[name] = replace(columns.get(name, metadata.ColumnNames()), labels=texts)
    return {metadata.OUTPUTS: metadata.dump_columns(columns)}
