"""From a network to its ONNX graph.

Sub and Div for the scaling, per layer one Gemm for each layer that it reads, chained through
the Gemm's third input, then the activation's node. A tensor that is an output has the output's
name; the others have the lecture's (`graph_names`).
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.samples import reference_samples
from forwardpass.proto import metadata
from forwardpass.proto.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

    from forwardpass.models.layers import Layer
    from forwardpass.models.network import Network
    from forwardpass.models.ports import Input
    from forwardpass.models.scaling import Scaling

OPSET = 17
IR_VERSION = 8
"""Of opset 17: what onnxruntime 1.12 and later, OpenVINO, TensorRT and onnxruntime-web read."""

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
        input=[_value(network.input.name, network.input.size)],
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

    def node(self, name: str, operator: str, inputs: list[str], output: str, **ints: int) -> str:
        from onnx import AttributeProto, NodeProto

        attributes = [
            AttributeProto(name=key, type=AttributeProto.INT, i=value)
            for key, value in ints.items()
        ]
        self.nodes.append(
            NodeProto(
                name=name, op_type=operator, input=inputs, output=[output], attribute=attributes
            )
        )
        return output

    def constant(self, name: str, values: NDArray[np.float32]) -> str:
        from onnx import TensorProto

        self.initializers.append(
            TensorProto(
                name=name,
                data_type=TensorProto.FLOAT,
                dims=values.shape,
                raw_data=values.astype("<f4", copy=False).tobytes(),
            )
        )
        return name


def _add_nodes(parts: _Parts, network: "Network") -> None:
    # The first output of a tensor names it; any other is a copy.
    shown: dict[tuple[str, str], str] = {}
    for output in network.outputs:
        shown.setdefault((output.layer, output.of), output.name)

    source = network.input
    tensors = {source.name: _add_scaling(parts, source.name, source, graph_names.a(1))}
    for scaling in source.scalings:
        result = graph_names.scaled(scaling.name)
        tensors[scaling.name] = _add_scaling(parts, source.name, scaling, result)
    for number, layer in enumerate(network.layers, start=2):
        operator = ACTIVATIONS[layer.activation].operator
        z = shown.get((layer.name, "z" if operator else "a"), graph_names.z(number))
        blocks = [(tensors[name], W) for name, W in network.blocks(layer.name).items()]
        _add_sum(parts, number, layer, blocks, z)
        if operator is None:
            tensors[layer.name] = z
            continue
        a = shown.get((layer.name, "a"), graph_names.a(number))
        axis = {"axis": 1} if operator == "Softmax" else {}
        tensors[layer.name] = parts.node(f"{layer.name}/{operator}", operator, [z], a, **axis)

    for output in network.outputs:
        tensor = shown[output.layer, output.of]
        if tensor != output.name:
            parts.node(f"{output.name}/Identity", "Identity", [tensor], output.name)


def _add_scaling(parts: _Parts, tensor: str, source: "Input | Scaling", result: str) -> str:
    """Add (x - mean) / scale, as far as there are any; return what layers read, else `result`."""
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
    """Add z = W a + b: one Gemm for each tensor read and its block of W, each on the last one."""
    count = len(blocks)
    nodes = [f"{layer.name}/Gemm" + (f"_{k}" if count > 1 else "") for k in range(1, count + 1)]
    weights = graph_names.weights(number - 1, count)
    sums = [*graph_names.sums(number, count)[:-1], z]
    total = parts.constant(graph_names.bias(number - 1), layer.b)
    for node, (tensor, W), name, result in zip(nodes, blocks, weights, sums, strict=True):
        inputs = [tensor, parts.constant(name, W), total]
        total = parts.node(node, "Gemm", inputs, result, transB=1)


def _value(name: str, width: int, description: str = "") -> "ValueInfoProto":
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, width], description)


def _numbers(array: NDArray[np.float32] | None) -> tuple[float, ...]:
    return () if array is None else tuple(array.tolist())


def _metadata(network: "Network") -> dict[str, str]:
    """Return the file contract's keys and their texts."""
    source = network.input
    texts = {
        metadata.FORMAT: metadata.FORMAT_VERSION,
        metadata.LAYERS: metadata.dump_json([layer.name for layer in network.layers]),
        metadata.INPUTS: metadata.dump_columns(
            {
                source.name: metadata.ColumnNames(
                    labels=source.features,
                    units=source.units,
                    low=_numbers(source.low),
                    high=_numbers(source.high),
                )
            }
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
