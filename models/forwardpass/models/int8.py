"""Static int8: weights and what layers read as eight bits, and what that costs in accuracy.

Every scale is a constant of the file, taken from calibration rows. Dynamic quantization takes
it from the rows of the call instead, so that an answer depends on what else is in the batch.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import UNIT_ROUNDOFF
from forwardpass.models.errors import ExportProofError, Int8LossError, MissingLibraryError
from forwardpass.models.evaluate import Runner, load_graph
from forwardpass.models.forward import as_rows, forward
from forwardpass.models.graph import serialize, to_onnx
from forwardpass.models.proof import OutputProof, Proof, prove
from forwardpass.models.rounding import rounded_up
from forwardpass.proto import metadata
from forwardpass.proto.spec import TensorError
from forwardpass.proto.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

    from forwardpass.models.network import Network

_FEWEST_ROWS = 8
_HELD_OUT = 4
"""Every so many rows one is for the measurement alone."""
_CHUNK = 256
"""Rows of a run: the calibration keeps every activation of it."""
_SAMPLES = 4
_ZERO = "int8/zero"
"""No tensor of a Network has a slash in its name."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """A network's int8 graph with its measured loss, to be exported or published."""

    network: "Network"
    content: bytes
    """The model file."""
    proof: Proof
    """How far its answers were from float64 over the rows; a bound is what the file states."""

    @property
    def name(self) -> str:
        """The model's name in a repository: the network's."""
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

    Weights have an integer scale a unit, what a layer reads one scale; sums leave a layer as
    float32. Three of four rows calibrate, all are measured against float64. No row of them is
    kept in the file: its samples are drawn around their mean. max_loss None accepts any loss.

    Raises Int8LossError if the loss is above max_loss, TensorError for rows that do not fit,
    are not finite or fewer than eight, MissingLibraryError without onnxruntime,
    ExportProofError if the float32 graph is not shown to compute the network.
    """
    calibration = _checked(network, rows)
    model = to_onnx(network)
    prove(serialize(model), network)
    held_out = np.arange(len(calibration)) % _HELD_OUT == _HELD_OUT - 1
    quantized = _static(model, network.input.name, calibration[~held_out])
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
    checked = as_rows(network, rows)
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


def _static(model: "ModelProto", source: str, rows: NDArray[np.float32]) -> "ModelProto":
    """Return the graph with its Gemms between DequantizeLinear and QuantizeLinear."""
    # onnxruntime 1.29 and later report to their maker unless told not to before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnx

    try:
        from onnxruntime.quantization import QuantType, quantize_static
    except ImportError as error:
        raise MissingLibraryError("int8", "onnxruntime", extra="server") from error

    constants = {tensor.name for tensor in model.graph.initializer}
    prepared = _without_relu(model)
    # What onnxruntime's own preparation would leave: without it there are warnings.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            prepared,
            path,
            _Rows(source, rows),
            op_types_to_quantize=["Gemm"],
            # A sum on top of another layer's part cannot be an integer one.
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
    onnx.checker.check_model(quantized)
    return quantized


def _without_relu(model: "ModelProto") -> "ModelProto":
    """Return the model with max(0, z) in the place of every Relu.

    onnxruntime makes a Relu part of the Gemm before it, or of the rounding after it, before it
    looks for integer Gemms; what is left of one that is shown or ends a network is a float32
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
    """Return rows like those given and none of them: around their mean, within their range."""
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
    """Put what holds for the int8 file in the place of what held for the float32 one."""
    answers = forward(network, samples)
    texts: dict[str, str] = {prop.key: prop.value for prop in model.metadata_props}
    texts[metadata.SAMPLES] = metadata.Samples(
        inputs={network.input.name: samples},
        outputs={name: answer.astype(np.float32) for name, answer in answers.items()},
        tolerance={name: output.largest_bound for name, output in proof.outputs.items()},
    ).dump()
    texts[metadata.PROVENANCE] = metadata.dump_json(
        {**network.provenance, "int8": _told(proof.outputs, proof.rows)}
    )
    del model.metadata_props[:]
    for key, text in sorted(texts.items()):
        if key.startswith(metadata.PREFIX):
            model.metadata_props.add(key=key, value=text)


def _told(outputs: Mapping[str, OutputProof], rows: int) -> str:
    losses = ", ".join(f"{name} {output.relative_error:.2g}" for name, output in outputs.items())
    return f"calibrated and measured on {rows} rows; largest error over largest answer: {losses}"
