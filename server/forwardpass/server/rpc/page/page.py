"""What the page asks for: the overview, a model, a run of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto import metadata
from forwardpass.proto.explain import PARAMETER, names
from forwardpass.proto.metadata import ColumnNames, MetadataError, Samples, load_columns
from forwardpass.proto.spec import TensorSpec, quote
from forwardpass.proto.tensors import decode_raw
from forwardpass.server.access.caller import Action, Caller
from forwardpass.server.engine.batch_run import Computation
from forwardpass.server.engine.model import Model
from forwardpass.server.engine.queue import Job
from forwardpass.server.engine.session import SessionError
from forwardpass.server.engine.statistics import Statistics
from forwardpass.server.errors import InvalidRequestError, RunError, ServingError
from forwardpass.server.observe.load import Load
from forwardpass.server.repository.catalog import Catalog
from forwardpass.server.repository.loader import Files
from forwardpass.server.rpc.batches import pieces
from forwardpass.server.rpc.explain import explained
from forwardpass.server.rpc.method import as_seen, parse
from forwardpass.server.rpc.page.lately import Inside, Lately
from forwardpass.server.rpc.page.numbers import listed, read, written
from forwardpass.server.rpc.page.overview import Overview
from forwardpass.server.rpc.peers import Peers
from forwardpass.server.rpc.plan import Plan
from forwardpass.server.rpc.regions import Regions
from forwardpass.server.rpc.request import ValidRequest, validate
from forwardpass.server.rpc.rest.decimals import Number, TextNeededError
from forwardpass.server.rpc.rest.infer_replies import dumps
from forwardpass.server.rpc.rest.infer_requests import InferRequests
from forwardpass.server.rpc.rest.infer_requests import load_json as load_body
from forwardpass.server.rpc.rest.predictions import explained_features, once, verdicts
from forwardpass.server.rpc.scan import Most, scan
from forwardpass.server.rpc.service import Service

MAX_ROWS = 64
"""Maximum rows of a run."""
_MAX_NUMBERS = 2**17
"""Maximum numbers of the outputs of a run, and of its inner tensors."""
_MAX_SAMPLES = 2**22
"""Maximum length of the samples in a file that are shown."""
_InTurn = Callable[[Callable[[], None]], None]
"""Calls a function in a turn of the model's queue."""
_ROWS = 2
"""Axes of a tensor of rows."""


class Page:
    """Answers the page's calls, each in the thread that makes it."""

    def __init__(
        self,
        service: Service,
        catalog: Catalog,
        peers: Peers,
        files: Files,
        load: Callable[[], Load],
        *,
        started: float,
        max_run_bytes: int,
        max_message_bytes: int,
        grpc_port: int | None,
    ) -> None:
        """Prepare.

        files: Read again to draw models. load: Returns what the transport has to do. started: When
        the server did, on the clock of time.monotonic. max_run_bytes: See `Model`.
        max_message_bytes: Maximum size of a request. grpc_port: Where gRPC is; None: at no port.
        """
        self._catalog = catalog
        self._grpc_port = grpc_port
        self._overview = Overview(service, catalog, peers, load, started)
        self._lately = Lately(files, max_run_bytes)
        self._requests = InferRequests(max_message_bytes)
        self._runs = 0
        self._counting = Lock()

    def overview(self, caller: Caller) -> bytes:
        """Return the figures of the server, as JSON."""
        return _answer(
            "the overview",
            caller,
            lambda: dumps(self._overview.read(caller, self._runs)),
        )

    def model(self, message: bytes, caller: Caller) -> bytes:
        """Return what there is to know of a model, as JSON; message: A ModelMetadataRequest."""

        def read() -> str:
            request = parse(pb.ModelMetadataRequest, message)
            caller.check(Action.READ, request.name)
            model = self._catalog.find(request.name, request.version)
            drawing = self._lately.drawing(model)
            known = _described(model, self._catalog.versions(model.name))
            known |= {"grpc_port": self._grpc_port, "tensors_error": drawing.why}
            return f"{written(known)[:-1]},{drawing.json}}}"

        return _answer("a model's drawing", caller, read)

    def run(self, message: bytes, caller: Caller) -> bytes:
        """Run rows through a model and its inner tensors, and return both as JSON.

        message: A ModelInferRequest whose raw_input_contents are the body.
        """

        def run() -> str:
            request = parse(pb.ModelInferRequest, message)
            caller.check(Action.INFER, request.model_name)
            model = self._catalog.find(request.model_name, request.model_version)
            with self._counting:
                self._runs += 1
            (body,) = request.raw_input_contents
            return written(self._run(model, body, caller))

        return _answer("a page's run", caller, run)

    def stop(self) -> None:
        """Drop all that is kept."""
        self._lately.stop()

    def _run(self, model: Model, body: bytes, caller: Caller) -> dict[str, Any]:
        valid, plan = self._read(model, body)
        run = partial(model.queue.run_errand, batch=caller.batch)
        answers = _outputs(
            plan.model, valid, plan, partial(plan.model.queue.run_errand, batch=caller.batch)
        )
        layers: dict[str, Any] = {}
        why = "they are shown to callers with the permission 'read'"
        if caller.may(Action.READ, model.name):
            anatomy, inside = self._lately.inside(model)
            sizes = {tensor.name: tensor.size for tensor in anatomy.tensors}
            layers, why = _layers(model, valid, sizes, inside, run)
        return {
            "version": str(model.version),
            "content": model.properties[metadata.CONTENT],
            **_explanation(plan.model, answers),
            "outputs": {name: listed(array) for name, array in answers.items()},
            "verdicts": {
                name: _verdicts(name, array, model.columns.get(name, ColumnNames()))
                for name, array in answers.items()
            },
            "layers": layers,
            "layers_error": why,
        }

    def _read(self, model: Model, body: bytes) -> tuple[ValidRequest, Plan]:
        """Read a body as ModelInfer reads the request that says the same; raises ServingError."""
        try:
            return self._valid(model, load_body(body, once), body)
        except TextNeededError:
            return self._valid(model, load_body(body, once, Number), None)

    def _valid(self, model: Model, sent: Any, text: bytes | None) -> tuple[ValidRequest, Plan]:
        """Return what `_read` does; text: See `InferRequests.write`."""
        inputs = sent.get("inputs") if type(sent) is dict else None
        if type(inputs) is not dict:
            raise InvalidRequestError(
                "body", 'expected {"inputs": {NAME: [ROW, ...], ...}}, got something else'
            )
        if "explain" in sent:
            if type(sent["explain"]) is not str:
                raise InvalidRequestError("explain", "expected a text, OUTPUT or OUTPUT:COLUMN")
            asked = {PARAMETER: pb.InferParameter(string_param=sent["explain"])}
            model = explained(model, asked, waits=True)
        tensors = [
            {
                "name": name,
                "datatype": spec.datatype,
                "shape": _shape(name, rows, len(spec.shape)),
                "data": rows,
            }
            for name, rows in inputs.items()
            for spec in [model.inputs.get(name, TensorSpec(name, "FP32", (-1, -1)))]
        ]
        message, _ = self._requests.write(
            model.name, str(model.version), {"inputs": tensors}, text=text
        )
        scanned = scan(message, Most.of([model]))
        valid = validate(model, scanned, Regions(), MAX_ROWS)
        return valid, Plan.of(model, valid, list(valid.inputs), timed=False)


def _explanation(model: Model, answers: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the explanation in answers, out of which it is taken; empty if there is none."""
    if model.explains is None:
        return {}
    attributions, error = (listed(answers.pop(name)) for name in names(model.explains.output))
    features = explained_features(model)
    return {"explanation": {"features": features, "attributions": attributions, "error": error}}


def _answer(what: str, caller: Caller, make: Callable[[], str]) -> bytes:
    try:
        return make().encode()
    except Exception as error:
        # Not `from error`, which may be the same: it would keep itself alive.
        raise as_seen(error, caller, what) from None


def _described(model: Model, versions: Sequence[int]) -> dict[str, Any]:
    """Return what is known of a model without its file."""
    columns = load_columns(metadata.INPUTS, model.properties.get(metadata.INPUTS, "{}"))
    provenance = read(metadata.PROVENANCE, model.properties.get(metadata.PROVENANCE, "{}"))
    return {
        "name": model.name,
        "version": str(model.version),
        "versions": list(map(str, versions)),
        "inputs": [
            _input(spec, columns.get(name, ColumnNames())) for name, spec in model.inputs.items()
        ],
        "outputs": [
            _tensor(spec, model.columns.get(name, ColumnNames()), ("thresholds",))
            for name, spec in model.outputs.items()
        ],
        "samples": _samples(model),
        "provenance": {
            key: value
            for key, value in (provenance.items() if type(provenance) is dict else ())
            if type(value) is str
        },
        "properties": model.properties,
        "content": model.properties[metadata.CONTENT],
        "batch_invariant": model.properties[metadata.BATCH_INVARIANT],
        "unproven": model.unproven,
        "drift": _drift(model),
    }


def _input(spec: TensorSpec, names: ColumnNames) -> dict[str, Any]:
    return _tensor(spec, names, ("low", "high")) | {
        "fill": [None if value is None else _short([value])[0] for value in names.fill],
        # A browser's numbers end at 2**53: beyond, a field that says so is shown, no choice.
        "categories": []
        if any(isinstance(each, int) and abs(each) >= 2**53 for each in names.categories)
        else list(names.categories),
        "unknown": names.unknown,
        "missing": names.missing,
    }


def _tensor(spec: TensorSpec, names: ColumnNames, numbers: Sequence[str]) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": list(spec.shape),
        "labels": list(names.labels),
        "units": list(names.units),
        "description": names.description,
        **{each: _short(getattr(names, each)) for each in numbers},
    }


def _short(numbers: Sequence[float]) -> list[float]:
    """Return numbers, in the short form of float32 where they are such."""
    exact = np.array(numbers, np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    same = bool((rounded.astype(np.float64) == exact).all())
    short: list[float] = listed(rounded if same else exact)
    return short


def _samples(model: Model) -> list[dict[str, Any]]:
    """Return the rows that the file carries, one by one; none where they are no rows."""
    text = model.session.metadata.get(metadata.SAMPLES)
    if text is None or len(text) > _MAX_SAMPLES or model.reshapes_inputs or model.reshapes_outputs:
        return []
    try:
        samples = Samples.load(text)
    except MetadataError:
        return []
    arrays = [*samples.inputs.values(), *samples.outputs.values()]
    if any(not array.ndim for array in arrays) or len({len(array) for array in arrays}) != 1:
        return []
    width = sum(math.prod(array.shape[1:]) for array in arrays)
    return [
        {
            "name": f"sample {row + 1}",
            "inputs": {name: listed(array[row]) for name, array in samples.inputs.items()},
            "outputs": {name: listed(array[row]) for name, array in samples.outputs.items()},
        }
        for row in range(min(MAX_ROWS, len(arrays[0]), _MAX_NUMBERS // max(1, width)))
    ]


def _drift(model: Model) -> list[dict[str, Any]]:
    if model.drift is None:
        return []
    columns = model.drift.read_columns()
    widths = {
        spec.name: math.prod(max(1, size) for size in spec.shape[1:])
        for spec in model.session.inputs
    }
    return [
        {
            "input": name,
            "rows": values.seen // widths.get(name, 1),
            "outside": values.outside,
            "by_feature": [each.outside for each in columns[name].values()]
            if name in columns
            else None,
        }
        for name, values in model.drift.read().items()
    ]


def _shape(name: str, rows: Any, rank: int) -> list[int]:
    """Return the shape of nested lists, by their first elements; others are compared later."""
    if type(rows) is not list or not 1 <= len(rows) <= MAX_ROWS:
        got = f"{len(rows)} rows" if type(rows) is list else "something else"
        raise InvalidRequestError(
            f"input {quote(name)}", f"expected a list of 1 to {MAX_ROWS} rows, got {got}"
        )
    shape: list[int] = []
    part: Any = rows
    while type(part) is list and len(shape) < rank:
        shape.append(len(part))
        part = part[0] if part else None
    return shape


def _outputs(
    model: Model, valid: ValidRequest, plan: Plan, in_turn: _InTurn
) -> dict[str, NDArray[Any]]:
    """Run the served session as ModelInfer does, in the model's queue, counted nowhere."""
    computation = Computation(
        model.name,
        model.session,
        Statistics(),
        takes_none=model.takes_none,
        takes_nan=model.findings.takes_nan,
    )
    job = Job(plan.kind, plan.tensors(valid), plan.rows)
    if plan.kind.by_rows:
        # Before they are computed, where the file says how many there are.
        axes = [spec.shape[1:] for spec in model.outputs.values()]
        _check_numbers(
            plan.rows * sum(math.prod(sizes) for sizes in axes if min(sizes, default=1) > 0)
        )
    numbers = 0
    for piece in pieces(job, model.piece_rows) if plan.rows > model.piece_rows else [job]:
        in_turn(partial(computation.run, [piece]))
        numbers += sum(map(math.prod, piece.shapes))
        _check_numbers(numbers)
    (message,) = plan.replies([b""], job)
    reply = pb.ModelInferResponse.FromString(message)
    arrays: dict[str, NDArray[Any]] = {}
    for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        array = decode_raw(output.name, raw, output.datatype, tuple(output.shape))
        arrays[output.name] = array
    return arrays


def _check_numbers(numbers: int) -> None:
    if numbers > _MAX_NUMBERS:
        raise InvalidRequestError(
            "inputs",
            f"expected rows that have at most {_MAX_NUMBERS} numbers as answers, got {numbers}; "
            "send fewer rows, or send them to infer",
        )


def _verdicts(name: str, array: NDArray[Any], columns: ColumnNames) -> list[Any]:
    decided = verdicts(name, array, columns)
    return [None] * (len(array) if array.ndim else 1) if decided is None else decided[1]


def _layers(
    model: Model,
    valid: ValidRequest,
    sizes: Mapping[str, int],
    inside: Inside,
    in_turn: _InTurn,
) -> tuple[dict[str, Any], str]:
    """Return the drawn tensors of a run, or why there are none."""
    session = inside.session
    if session is None:
        return {}, inside.why
    feeds = {
        name: np.require(array.reshape(model.in_graph(name, array.shape)), requirements="A")
        for name, array in valid.inputs.items()
    }
    rows = max((len(array) for array in feeds.values() if array.ndim), default=1)
    numbers = rows * sum(sizes.values())
    if numbers > _MAX_NUMBERS:
        return {}, f"they are {numbers} numbers, more than {_MAX_NUMBERS}; send fewer rows"
    found: list[NDArray[Any]] = []

    def run() -> None:
        try:
            found.extend(session.run(feeds, list(sizes)))
        except SessionError as error:
            raise RunError(model.name, str(error)) from error

    try:
        in_turn(run)
    except ServingError as error:
        return {}, str(error)
    return {
        name: listed(array) for name, array in zip(sizes, found, strict=True) if array.ndim == _ROWS
    }, ""
