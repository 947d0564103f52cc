"""From a network to its ONNX graph.

IsNaN and Where for missing values, LabelEncoder, Equal and Cast for categories, Sub and Div for the
scaling; for each layer one Gemm for each layer that it reads, chained through
the Gemm's third input, then the activation's node, or its nodes (`compositions`). A tensor that is
an output has the output's name; the others have the lecture's (`graph_names`).
"""

from functools import partial
from itertools import pairwise
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import (
    AnyActivation,
    GroupedSoftmax,
    LayerNorm,
    activation_of,
    slopes_of,
)
from forwardpass.models.categorical import REFUSE, Categorical
from forwardpass.models.file.compositions import COMPOSITIONS
from forwardpass.models.file.node import ML_DOMAIN
from forwardpass.models.file.samples import reference_samples
from forwardpass.proto import metadata
from forwardpass.proto.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

    from forwardpass.models.layers import Layer
    from forwardpass.models.network import Network
    from forwardpass.models.ports import Input
    from forwardpass.models.scaling import Scaling

OPSET = 17
ML_OPSET = 3
IR_VERSION = 8
"""The IR of opset 17, read by onnxruntime from 1.12 on, OpenVINO, TensorRT and onnxruntime-web."""

_FLOAT = 1
"""The number of float32 among ONNX' types."""

BATCH = "batch"
"""The name of the rows' axis."""


def to_onnx(network: "Network") -> "ModelProto":
    """Return the network as an ONNX model: float32, a batch axis of any length.

    Equal networks give equal bytes from `serialize`.
    """
    from onnx import GraphProto, ModelProto

    parts = _Parts()
    _add_nodes(parts, network)
    graph = GraphProto(
        name=network.name,
        node=parts.nodes,
        initializer=parts.initializers,
        input=[_input_value(source) for source in network.inputs],
        output=[
            _value(output.name, network.layer(output.layer).units, output.description)
            for output in network.outputs
        ],
    )
    model = ModelProto(
        ir_version=IR_VERSION,
        producer_name="forwardpass",
        producer_version=__version__,
        graph=graph,
    )
    model.opset_import.add(domain="", version=OPSET)
    if any(isinstance(source, Categorical) for source in network.inputs):
        model.opset_import.add(domain=ML_DOMAIN, version=ML_OPSET)
    for key, text in sorted(_metadata(network).items()):
        model.metadata_props.add(key=key, value=text)
    return model


def serialize(model: "ModelProto") -> bytes:
    """Return the bytes of a model file: the same for equal models."""
    return model.SerializeToString(deterministic=True)


class _Parts:
    """The nodes and constants of a graph, in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._numbers: set[str] = set()

    def node(
        self,
        name: str,
        operator: str,
        inputs: list[str],
        output: str,
        **values: Any,
    ) -> str:
        from onnx import NodeProto, helper

        attributes = [helper.make_attribute(key, value) for key, value in values.items()]
        domain = ML_DOMAIN if operator == "LabelEncoder" else ""
        self.nodes.append(
            NodeProto(
                name=name,
                op_type=operator,
                domain=domain,
                input=inputs,
                output=[output],
                attribute=attributes,
            )
        )
        return output

    def constant(self, name: str, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        from onnx import TensorProto

        is_float = values.dtype.kind == "f"
        self.initializers.append(
            TensorProto(
                name=name,
                data_type=TensorProto.FLOAT if is_float else TensorProto.INT64,
                dims=values.shape,
                raw_data=values.astype("<f4" if is_float else "<i8", copy=False).tobytes(),
            )
        )
        return name

    def number(self, value: float) -> str:
        """Return the name of a constant, which is added once; no other tensor has a slash."""
        name = f"number/{value:.9g}"
        if name not in self._numbers:
            self._numbers.add(name)
            self.constant(name, np.array(value, np.float32))
        return name


def _add_nodes(parts: _Parts, network: "Network") -> None:
    # The first output of a tensor names it; any other is a copy.
    shown: dict[tuple[str, str], str] = {}
    for output in network.outputs:
        shown.setdefault((output.layer, output.of), output.name)

    tensors: dict[str, str] = {}
    for source in network.inputs:
        result = graph_names.of_input(source.name, len(network.inputs))
        if isinstance(source, Categorical):
            tensors[source.name] = _add_categories(parts, source, result)
            continue
        filled = _add_fill(parts, source)
        tensors[source.name] = _add_scaling(parts, filled, source, result)
        for scaling in source.scalings:
            result = graph_names.scaled(scaling.name)
            tensors[scaling.name] = _add_scaling(parts, filled, scaling, result)
    for number, layer in enumerate(network.layers, start=2):
        f = activation_of(layer.activation)
        z = shown.get((layer.name, "z" if f.operator else "a"), graph_names.z(number))
        blocks = [(tensors[name], W) for name, W in network.blocks(layer.name).items()]
        _add_sum(parts, number, layer, blocks, z)
        if f.operator is None:
            tensors[layer.name] = z
            continue
        a = shown.get((layer.name, "a"), graph_names.a(number))
        _add_activation(parts, number, layer, layer.activation, (z, a))
        tensors[layer.name] = a

    for output in network.outputs:
        tensor = shown[output.layer, output.of]
        if tensor != output.name:
            parts.node(f"{output.name}/Identity", "Identity", [tensor], output.name)


def _add_categories(parts: _Parts, source: Categorical, result: str) -> str:
    """Add the rows of an input's categories; return the tensor that layers read."""
    name, of_part = source.name, partial(graph_names.part, source.name)
    codes = source.codes
    keys = "keys_strings" if source.datatype == "BYTES" else "keys_int64s"
    index = parts.node(
        of_part("LabelEncoder"),
        "LabelEncoder",
        [name],
        of_part("index"),
        **{keys: [*codes], "values_int64s": [*codes.values()]},
        default_int64=source.default_code,
    )
    count = parts.constant(of_part("count"), np.arange(len(source.categories)))
    equal = parts.node(of_part("Equal"), "Equal", [index, count], of_part("equal"))
    refuses = source.unknown == REFUSE
    is_last = source.values is None and not refuses
    rows = result if is_last else of_part("rows")
    parts.node(of_part("Cast"), "Cast", [equal], rows, to=_FLOAT)
    if source.values is not None:
        values = parts.constant(of_part("values"), source.values)
        encoded = of_part("encoded") if refuses else result
        rows = parts.node(of_part("MatMul"), "MatMul", [rows, values], encoded)
    if refuses:
        # A constant NaN only where it is chosen: as a factor it would be a weight gone wrong.
        zero = parts.constant(of_part("0"), np.array(0))
        unknown = parts.node(of_part("Less"), "Less", [index, zero], of_part("unknown"))
        parts.node(of_part("Where"), "Where", [unknown, parts.number(np.nan), rows], result)
    return result


def _add_fill(parts: _Parts, source: "Input") -> str:
    """Add the values in place of missing ones, if there are any; return the tensor with them."""
    if source.fill is None:
        return source.name
    of_part = partial(graph_names.part, source.name)
    missing = parts.node(of_part("IsNaN"), "IsNaN", [source.name], of_part("missing"))
    fill = parts.constant(of_part("fill"), source.fill)
    return parts.node(of_part("Where"), "Where", [missing, fill, source.name], of_part("filled"))


def _add_scaling(parts: _Parts, tensor: str, source: "Input | Scaling", result: str) -> str:
    """Add (x - mean) / scale, if there are any; return the tensor that layers read."""
    if source.mean is not None:
        mean = parts.constant(graph_names.mean(source.name), source.mean)
        last = source.scale is None
        output = result if last else graph_names.centered(source.name)
        tensor = parts.node(f"{source.name}/Sub", "Sub", [tensor, mean], output)
    if source.scale is not None:
        scale = parts.constant(graph_names.scale(source.name), source.scale)
        tensor = parts.node(f"{source.name}/Div", "Div", [tensor, scale], result)
    return tensor


def _add_sum(
    parts: _Parts,
    number: int,
    layer: "Layer",
    blocks: list[tuple[str, NDArray[np.float32]]],
    z: str,
) -> None:
    """Add z = W a + b: a Gemm for each tensor read and its block of W, added to the one before."""
    count = len(blocks)
    nodes = [f"{layer.name}/Gemm" + (f"_{k}" if count > 1 else "") for k in range(1, count + 1)]
    weights = graph_names.weights(number - 1, count)
    sums = [*graph_names.sums(number, count)[:-1], z]
    total = parts.constant(graph_names.bias(number - 1), layer.b)
    for node, (tensor, W), name, result in zip(nodes, blocks, weights, sums, strict=True):
        inputs = [tensor, parts.constant(name, W), total]
        total = parts.node(node, "Gemm", inputs, result, transB=1)


def _add_activation(
    parts: _Parts,
    number: int,
    layer: "Layer",
    activation: AnyActivation,
    tensors: tuple[str, str],
) -> None:
    """Add a = f(z); tensors are the names of z and a."""
    z, a = tensors
    if isinstance(activation, LayerNorm):
        is_last = activation.then == "identity"
        n = a if is_last else f"{graph_names.a(number)}/normalized"
        _add_norm(parts, number, layer, activation, (z, n))
        if not is_last:
            _add_activation(parts, number, layer, activation.then, (n, a))
        return
    f = activation_of(activation)
    operator = f.operator or "Identity"
    if f.name in COMPOSITIONS:
        names = {"z": z, "a": a}
        for step, each, reads in COMPOSITIONS[f.name]:
            names.setdefault(step, f"{graph_names.a(number)}/{step}")
            inputs = [parts.number(x) if isinstance(x, float) else names[x] for x in reads]
            name = f"{layer.name}/{operator}" + ("" if step == "a" else f"/{step}")
            parts.node(name, each, inputs, names[step])
        return
    if isinstance(activation, GroupedSoftmax):
        _add_groups(parts, number, layer.name, activation, (z, a))
        return
    inputs = [z]
    if f.name == "prelu":
        slopes = np.array(slopes_of(activation, layer.units), np.float32)
        inputs.append(parts.constant(graph_names.slopes(number), slopes))
    along = {"axis": 1} if f.name in ("softmax", "log_softmax") else {}
    parts.node(f"{layer.name}/{operator}", operator, inputs, a, **f.attributes, **along)


def _add_norm(
    parts: _Parts, number: int, layer: "Layer", f: LayerNorm, tensors: tuple[str, str]
) -> None:
    """Add the normalization of a layer's sums; tensors are the names of both."""
    z, n = tensors
    of_a = graph_names.a(number)
    scale, bias = (each.astype(np.float32) for each in f.parameters(layer.units))
    inputs = [z, parts.constant(f"{of_a}/scale", scale), parts.constant(f"{of_a}/bias", bias)]
    operator = "LayerNormalization"
    parts.node(f"{layer.name}/{operator}", operator, inputs, n, axis=1, epsilon=f.epsilon)


def _add_groups(
    parts: _Parts, number: int, layer: str, f: GroupedSoftmax, tensors: tuple[str, str]
) -> None:
    """Add a softmax over each group: each cut out of z, and put beside the others."""
    z, a = tensors
    of_a = graph_names.a(number)
    ends = np.cumsum([0, *f.groups])
    at = [parts.constant(f"{of_a}/{end}", np.array([end], np.int64)) for end in ends]
    axis = parts.constant(f"{of_a}/axis", np.array([1], np.int64))
    shares = []
    for k, (start, end) in enumerate(pairwise(at), start=1):
        inputs = [z, start, end, axis]
        group = parts.node(f"{layer}/Slice_{k}", "Slice", inputs, f"{of_a}/group_{k}")
        name = f"{layer}/Softmax_{k}"
        shares.append(parts.node(name, "Softmax", [group], f"{of_a}/shares_{k}", axis=1))
    parts.node(f"{layer}/Concat", "Concat", shares, a, axis=1)


def _input_value(source: "Input | Categorical") -> "ValueInfoProto":
    from onnx import TensorProto, helper

    if not isinstance(source, Categorical):
        return _value(source.name, source.size)
    kind = TensorProto.STRING if source.datatype == "BYTES" else TensorProto.INT64
    return helper.make_tensor_value_info(source.name, kind, [BATCH, 1])


def _value(name: str, width: int, description: str = "") -> "ValueInfoProto":
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, width], description)


def _numbers(array: NDArray[np.float32] | None) -> tuple[float, ...]:
    return () if array is None else tuple(array.tolist())


def _columns(source: "Input | Categorical") -> metadata.ColumnNames:
    if isinstance(source, Categorical):
        return metadata.ColumnNames(
            categories=source.categories,
            unknown=source.unknown,
            missing=source.missing,
            baseline=() if source.baseline is None else (source.baseline,),
        )
    return metadata.ColumnNames(
        labels=source.features,
        units=source.units,
        low=_numbers(source.low),
        high=_numbers(source.high),
        fill=tuple(None if isnan(value) else value for value in _numbers(source.fill)),
        baseline=_numbers(source.baseline),
    )


def _metadata(network: "Network") -> dict[str, str]:
    """Return the file contract's keys and their texts."""
    texts = {
        metadata.FORMAT: metadata.FORMAT_VERSION,
        metadata.LAYERS: metadata.dump_json([layer.name for layer in network.layers]),
        metadata.INPUTS: metadata.dump_columns(
            {source.name: _columns(source) for source in network.inputs}
        ),
        metadata.OUTPUTS: metadata.dump_columns(
            {
                output.name: metadata.ColumnNames(
                    labels=output.labels,
                    units=output.units,
                    description=output.description,
                    thresholds=output.thresholds,
                )
                for output in network.outputs
            }
        ),
        metadata.PROVENANCE: metadata.dump_json(dict(network.provenance)),
    }
    samples = reference_samples(network)
    if samples is not None:
        texts[metadata.SAMPLES] = samples.dump()
    return texts
