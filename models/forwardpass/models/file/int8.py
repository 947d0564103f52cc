"""Static int8: weights and the inputs of layers as eight bits, and the loss of accuracy.

Every scale is a constant of the file, computed from calibration rows. Dynamic quantization takes
it from the rows of the call instead, so that an answer depends on the other rows of the batch.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import UNIT_ROUNDOFF
from forwardpass.models.errors import (
    ExportProofError,
    Int8LossError,
    MissingLibraryError,
    NetworkError,
)
from forwardpass.models.feeds import as_rows
from forwardpass.models.file.graph import serialize, to_onnx
from forwardpass.models.file.proof import OutputProof, Proof, prove
from forwardpass.models.file.runner import Runner, load_graph
from forwardpass.models.forward import filled, forward
from forwardpass.models.ports import Input
from forwardpass.models.rounding import rounded_up
from forwardpass.proto import metadata
from forwardpass.proto.runtime import import_onnxruntime
from forwardpass.proto.spec import TensorError
from forwardpass.proto.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

    from forwardpass.models.network import Network

_FEWEST_ROWS = 8
_HELD_OUT = 4
"""One of this many rows is only for the measurement."""
_CHUNK = 256
"""Rows of a calibration run, which keeps all its activations in memory."""
_SAMPLES = 4
_ZERO = "int8/zero"
"""Name of a tensor; no tensor of a Network has a slash in its name."""
_ZEROS, _UNKNOWN, _ROUNDED = "int8/zeros", "int8/unknown", "/int8"


@dataclass(frozen=True, slots=True)
class Quantized:
    """A network's int8 graph with its measured loss, to be exported or published."""

    network: "Network"
    content: bytes
    """The model file."""
    proof: Proof
    """The distance of its answers from float64 over the rows; its bounds are stated in the file."""

    @property
    def name(self) -> str:
        """The model's name in a repository, which is the network's."""
        return self.network.name

    @property
    def loss(self) -> float:
        """Largest error over the rows, relative to the largest answer of the same output."""
        return max(output.relative_error for output in self.proof.outputs.values())

    def check(self, max_loss: float) -> None:
        """Raise Int8LossError if the loss is above max_loss."""
        for name, output in self.proof.outputs.items():
            if not output.relative_error <= max_loss:
                raise Int8LossError(name, output.relative_error, max_loss)


def quantize(network: "Network", rows: ArrayLike, *, max_loss: float | None = None) -> Quantized:
    """Return the network in static int8, calibrated on typical rows (N, s_1), with its loss.

    Weights have a scale for each unit, the inputs of a layer have one; sums leave a layer as
    float32. Three of four rows calibrate, all are measured against float64. None of them is
    stored in the file: its samples are drawn around their mean. max_loss None accepts any loss.

    Raises Int8LossError if the loss is above max_loss, TensorError for rows that do not fit,
    are not finite or fewer than eight, MissingLibraryError without onnxruntime,
    NetworkError for other inputs than one of numbers, ExportProofError if the float32 graph is not
    proven to compute the network.
    """
    if not isinstance(network.inputs[0], Input) or len(network.inputs) > 1:
        raise NetworkError(
            f"network {network.name!r} in int8",
            expected="one input, of numbers",
            got=", ".join(repr(source.name) for source in network.inputs),
            fix="serve it in float32",
        )
    calibration = _checked(network, rows)
    model = to_onnx(network)
    prove(serialize(model), network)
    held_out = np.arange(len(calibration)) % _HELD_OUT == _HELD_OUT - 1
    quantized = _static(model, network.input, calibration[~held_out])
    quantized.producer_name, quantized.producer_version = "forwardpass", __version__
    graph = load_graph(serialize(quantized))
    samples = _samples(calibration)
    proof = _measured(network, graph, calibration, samples)
    _describe(quantized, network, samples, proof)
    result = Quantized(network, serialize(quantized), proof)
    if max_loss is not None:
        result.check(max_loss)
    return result


def _checked(network: "Network", rows: ArrayLike) -> NDArray[np.float32]:
    # Only NaN of features without a value in its place is an error.
    checked = filled(as_rows(network, rows), network.input)
    subject = f"calibration rows of input {network.input.name!r}"
    if len(checked) < _FEWEST_ROWS:
        raise TensorError(
            subject,
            expected=f"at least {_FEWEST_ROWS} rows",
            got=str(len(checked)),
            fix="give some hundred that are typical of what will be sent",
        )
    if not np.isfinite(checked).all():
        raise TensorError(
            subject, expected="finite numbers", got="NaN or infinity", fix="leave such rows out"
        )
    return checked


def _static(model: "ModelProto", source: Input, rows: NDArray[np.float32]) -> "ModelProto":
    """Return the graph with its Gemms between DequantizeLinear and QuantizeLinear."""
    import onnx

    try:
        import_onnxruntime()
        from onnxruntime.quantization import QuantType, quantize_static
    except ImportError as error:
        raise MissingLibraryError("int8", "onnxruntime", extra="server") from error

    constants = {tensor.name for tensor in model.graph.initializer}
    prepared = _without_relu(model)
    # As onnxruntime's own preparation would leave it: otherwise there are warnings.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            prepared,
            path,
            _Rows(source.name, rows),
            op_types_to_quantize=["Gemm"],
            # A sum that is added to another layer's cannot be computed in integers.
            nodes_to_exclude=[
                node.name
                for node in model.graph.node
                if node.op_type == "Gemm" and node.input[2] not in constants
            ],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Seven bits: with eight, x86 processors without VNNI clip the sum of two products,
            # and the loss measured here would not be that of the machine that serves.
            reduce_range=True,
            # Sums as float32: half the loss, and no slower (measured on 784-512-512-10).
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        quantized = onnx.load(path)
    part = graph_names.part(source.name, "filled")
    _pass_nan_on(quantized, source.name if source.fill is None else part)
    onnx.checker.check_model(quantized)
    return quantized


def _pass_nan_on(model: "ModelProto", source: str) -> None:
    """Add x 0 to every output: zero for a row of finite numbers, NaN for any other.

    Rounded to integers, NaN would become a number, and infinity the end of the range; both would
    be answered as such. Costs 2 us of a run: measured on 20-32-16-1 and 784-512-512-10.
    """
    from onnx import NodeProto, TensorProto

    graph = model.graph
    width = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    shown = {output.name for output in graph.output}
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name in shown:
                    names[index] = name + _ROUNDED
    zeros = TensorProto(
        name=_ZEROS, data_type=TensorProto.FLOAT, dims=[width, 1], float_data=[0.0] * width
    )
    graph.initializer.append(zeros)
    product = NodeProto(name=_UNKNOWN, op_type="MatMul", input=[source, _ZEROS], output=[_UNKNOWN])
    graph.node.append(product)
    for output in graph.output:
        graph.node.append(
            NodeProto(
                name=f"{output.name}{_ROUNDED}",
                op_type="Add",
                input=[output.name + _ROUNDED, _UNKNOWN],
                output=[output.name],
            )
        )


def _without_relu(model: "ModelProto") -> "ModelProto":
    """Return the model with max(0, z) in place of every Relu.

    onnxruntime fuses a Relu with the Gemm before it, or with the rounding after it, before it
    looks for integer Gemms; one that is an output or ends a network would become a float32
    Gemm with weights that were integers: slow, and its bits depend on the number of rows.
    """
    from onnx import ModelProto, TensorProto

    copy = ModelProto.FromString(model.SerializeToString())
    rectifiers = [node for node in copy.graph.node if node.op_type == "Relu"]
    for node in rectifiers:
        node.op_type = "Max"
        node.input.append(_ZERO)
    if rectifiers:
        zero = TensorProto(name=_ZERO, data_type=TensorProto.FLOAT, float_data=[0.0])
        copy.graph.initializer.append(zero)
    return copy


class _Rows:
    """The calibration rows in the form that onnxruntime reads them."""

    def __init__(self, source: str, rows: NDArray[np.float32]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = (
            {source: rows[start : start + _CHUNK]} for start in range(0, len(rows), _CHUNK)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._feeds, None)


def _samples(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows like those given, but none of them: around their mean, within their range."""
    rng = np.random.default_rng(0)
    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    drawn = mean + deviation * rng.standard_normal((_SAMPLES, rows.shape[1]))
    return np.asarray(np.clip(drawn, rows.min(axis=0), rows.max(axis=0)), np.float32)


def _measured(
    network: "Network", graph: Runner, rows: NDArray[np.float32], samples: NDArray[np.float32]
) -> Proof:
    errors, expected = _errors(network, graph, rows)
    sampled, _ = _errors(network, graph, samples)
    outputs = {}
    for name, error in errors.items():
        largest, magnitude = float(error.max()), float(np.abs(expected[name]).max())
        if not np.isfinite([largest, magnitude, sampled[name].max()]).all():
            raise ExportProofError("expected finite answers, got NaN or infinity in int8", name)
        # The file's answers to its samples are rounded to float32.
        rounding = UNIT_ROUNDOFF * (magnitude + 1)
        bound = max(largest, float(sampled[name].max())) + rounding
        outputs[name] = OutputProof(
            largest, largest / magnitude if magnitude else 0.0, rounded_up(bound)
        )
    return Proof(graph.runtime, len(rows), MappingProxyType(outputs))


def _errors(
    network: "Network", graph: Runner, rows: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Return the absolute errors and the reference, by output."""
    expected = forward(network, rows)
    answers = graph.run(rows)
    with np.errstate(invalid="ignore"):
        return {name: np.abs(answers[name] - expected[name]) for name in expected}, expected


def _describe(
    model: "ModelProto", network: "Network", samples: NDArray[np.float32], proof: Proof
) -> None:
    """Replace the metadata of the float32 file by those of the int8 file."""
    answers = forward(network, samples)
    texts: dict[str, str] = {prop.key: prop.value for prop in model.metadata_props}
    texts[metadata.SAMPLES] = metadata.Samples(
        inputs={network.input.name: samples},
        outputs={name: answer.astype(np.float32) for name, answer in answers.items()},
        tolerance={name: output.largest_bound for name, output in proof.outputs.items()},
    ).dump()
    texts[metadata.PROVENANCE] = metadata.dump_json(
        {**network.provenance, "int8": _loss_text(proof.outputs, proof.rows)}
    )
    del model.metadata_props[:]
    for key, text in sorted(texts.items()):
        if key.startswith(metadata.PREFIX):
            model.metadata_props.add(key=key, value=text)


def _loss_text(outputs: Mapping[str, OutputProof], rows: int) -> str:
    losses = ", ".join(f"{name} {output.relative_error:.2g}" for name, output in outputs.items())
    return f"calibrated and measured on {rows} rows; largest error over largest answer: {losses}"
