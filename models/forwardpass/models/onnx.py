"""Networks from ONNX files of any producer, as far as they are feed-forward networks.

`load` reads the files of this package to the bit; this reads what others write.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from forwardpass.models.assembly import assemble
from forwardpass.models.errors import NetworkError, UnsupportedModelError, UnsupportedSourceError
from forwardpass.models.network import Network
from forwardpass.models.onnx_constants import Constants
from forwardpass.models.onnx_graph import OnnxGraph, cleaned
from forwardpass.models.onnx_import import parse, provenance_of
from forwardpass.models.onnx_inputs import OnnxInput, read_input
from forwardpass.models.onnx_node import DOMAINS, refused
from forwardpass.models.ports import Input
from forwardpass.models.steps import Head
from forwardpass.proto import metadata

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_OLDEST = 7
"""Of the opsets: since then operators broadcast as they do, and Dropout is inference's."""


def from_onnx(
    model: "str | os.PathLike[str] | bytes | ModelProto",
    *,
    outputs: Sequence[str] | Mapping[str, str] | None = None,
    round_float64: bool = False,
    input: Input | None = None,  # noqa: A002 - the field's name
    labels: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, Sequence[str]] | None = None,
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
) -> Network:
    """Return the network of an ONNX model: a path, bytes or a message, opset 7 or later.

    outputs chooses among the model's outputs, all if it is None; a mapping gives them names
    too, ours by theirs. What leads to none of them is left aside. Input, outputs and, as far
    as they can be known, layers have the file's names, slashes replaced by dots; labels, units,
    thresholds and descriptions that the file has under the keys of `metadata` are kept. labels
    and units are by output. The scaling that a given input brings comes before the model.

    float32 weights keep their bits, unless something is folded into them; float16 and
    bfloat16 are float32 too. float64 that float32 does not have is refused unless
    round_float64. Casts are left out: a Network computes in float32.

    Raises UnsupportedModelError, which names the node, for what a Network cannot represent,
    and UnsupportedSourceError for files to be written in another way, as with weights in a
    file of their own: nothing but the file itself is ever read.
    """
    message = parse(model)
    graph, opset = message.graph, _opset(message)
    texts = {prop.key: prop.value for prop in message.metadata_props}
    names = _chosen(graph, outputs)
    nodes = _leading_to(graph, names)
    constants = Constants(graph.initializer, round_float64=round_float64)
    size = message.ByteSize()
    source = read_input(
        [value for value in graph.input if value.name not in constants],
        nodes,
        max_size=size,
        round_float64=round_float64,
    )
    ours = _input(source, texts) if input is None else _checked(input, source)
    reader = OnnxGraph(replace(source, name=ours.name), constants, size)
    _read(reader, nodes, graph, names)
    heads = _heads(reader, names, texts, labels or {}, units or {})
    producer = " ".join(filter(None, (message.producer_name, message.producer_version)))
    made_from = {"source": f"ONNX opset {opset}" + (f" of {producer}" if producer else "")}
    origin = provenance_of(texts) or made_from
    try:
        return assemble(
            ours, reader.steps, heads, name=name, provenance=origin | dict(provenance or {})
        )
    except UnsupportedSourceError as error:
        raise UnsupportedModelError(error.part, error.why) from error


def _opset(model: "ModelProto") -> int:
    """Return the version of ONNX' own operators; raises for one that is not read here."""
    from onnx import defs

    newest = defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    version = versions[0] if versions else 1
    if not _OLDEST <= version <= newest:
        raise UnsupportedSourceError(
            f"opset {version}",
            f"operators of opsets {_OLDEST} to {newest} are read here",
            "write the file anew, or convert it with onnx.version_converter"
            if version < _OLDEST
            else "install a newer onnx",
        )
    return version


def _chosen(
    graph: "GraphProto", outputs: Sequence[str] | Mapping[str, str] | None
) -> dict[str, str]:
    """Return the outputs that are wanted, the network's names for them by the file's."""
    there = [value.name for value in graph.output]
    wanted = there if outputs is None else outputs
    names = (
        dict(wanted) if isinstance(wanted, Mapping) else {each: cleaned(each) for each in wanted}
    )
    for output in names:
        if output not in there:
            raise NetworkError(
                "outputs",
                expected=f"some of the file's outputs {', '.join(there)}",
                got=repr(output),
                fix="name them as the file does",
            )
    return names


def _leading_to(graph: "GraphProto", outputs: Mapping[str, str]) -> "list[NodeProto]":
    """Return the nodes that outputs depend on, in the graph's order."""
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers:
                raise refused(node, f"gives {name!r}, which another node gives as well")
            makers[name] = index
    waiting, found = list(outputs), set[int]()
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            waiting.extend(graph.node[maker].input)
    return [graph.node[index] for index in sorted(found)]


def _input(source: OnnxInput, texts: Mapping[str, str]) -> Input:
    columns = _columns(metadata.INPUTS, texts).get(source.name, metadata.ColumnNames())
    return Input(
        source.size,
        cleaned(source.name),
        columns.labels or source.features,
        columns.units,
        low=np.array(columns.low) if columns.low else None,
        high=np.array(columns.high) if columns.high else None,
    )


def _checked(given: Input, source: OnnxInput) -> Input:
    if given.size != source.size:
        raise NetworkError(
            f"input {given.name!r}",
            expected=f"size {source.size}, that of the file's input {source.tensor!r}",
            got=str(given.size),
            fix="give both the same size",
        )
    return given


def _read(
    reader: OnnxGraph, nodes: "Sequence[NodeProto]", graph: "GraphProto", names: Mapping[str, str]
) -> None:
    for node in nodes:
        try:
            reader.read(node)
        except UnsupportedModelError as error:
            others = [each for each in names if node not in _leading_to(graph, {each: each})]
            if not others:
                raise
            raise UnsupportedModelError(
                error.part, f"{error.why}; the outputs that do without it: {', '.join(others)}"
            ) from error


def _heads(
    reader: OnnxGraph,
    names: Mapping[str, str],
    texts: Mapping[str, str],
    labels: Mapping[str, Sequence[str]],
    units: Mapping[str, Sequence[str]],
) -> list[Head]:
    for what, given in (("labels", labels), ("units", units)):
        for output in given:
            if output not in names.values():
                raise NetworkError(
                    what,
                    expected=f"those of the outputs {', '.join(names.values())}",
                    got=f"some of {output!r}",
                    fix="name outputs as the network does",
                )
    columns = _columns(metadata.OUTPUTS, texts)
    heads = []
    for theirs, ours in names.items():
        if theirs not in reader.values:
            raise UnsupportedModelError(
                f"output {theirs!r}", "a constant: it does not depend on the input"
            )
        shown = columns.get(theirs, metadata.ColumnNames())
        heads.append(
            Head(
                name=ours,
                reads=reader.values[theirs].reads,
                labels=tuple(labels.get(ours, shown.labels)),
                units=tuple(units.get(ours, shown.units)),
                description=shown.description,
                thresholds=shown.thresholds,
            )
        )
    return heads


def _columns(key: str, texts: Mapping[str, str]) -> Mapping[str, metadata.ColumnNames]:
    return metadata.load_columns(key, texts[key]) if key in texts else {}
