"""Networks from ONNX files of any producer, as far as they are feed-forward networks.

`load` reads the files of this package bit for bit; this module reads those of others.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from forwardpass.models.errors import NetworkError, UnsupportedModelError, UnsupportedSourceError
from forwardpass.models.file.compositions import recognized
from forwardpass.models.file.load import parse
from forwardpass.models.file.node import DOMAINS, refused
from forwardpass.models.importers.agreement import Check, Reading
from forwardpass.models.importers.assembly import assemble
from forwardpass.models.importers.onnx.constants import Constants
from forwardpass.models.importers.onnx.graph import OnnxGraph, cleaned
from forwardpass.models.importers.onnx.inputs import OnnxInput, read_input
from forwardpass.models.importers.steps import Head, needed
from forwardpass.models.network import Network
from forwardpass.models.ports import Input
from forwardpass.proto import metadata

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_OLDEST = 7
"""The oldest opset: since then operators broadcast as now, and Dropout is for inference."""


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
    check: Check | None = None,
) -> Network:
    """Return the network of an ONNX model: a path, bytes or a message, opset 7 or later.

    outputs chooses among the model's outputs, all if it is None; a mapping renames them: the
    file's names to the network's. Nodes that lead to none of them are ignored. Input, outputs and,
    if they can be found, layers have the file's names, with slashes replaced by dots; labels,
    units, thresholds and descriptions that the file has under the keys of `metadata` are kept.
    labels and units are by output. The scaling of a given input comes before the model.

    float32 weights keep their bits, unless something is folded into them; float16 and
    bfloat16 convert to float32 exactly. float64 values that float32 cannot represent are rejected
    unless round_float64. Casts are left out: a Network computes in float32.

    A file is read and never run, so it has no prediction with which the network could be
    compared; pass one as check: rows and the answers to them, by output if there are several.

    Raises UnsupportedModelError, which names the node, for what a Network cannot represent,
    and UnsupportedSourceError for files that have to be written in another way, such as those
    with weights in a second file, which is never read; and for answers that differ from check's
    by more than rounding explains.
    """
    message = parse(model)
    graph, opset = message.graph, _opset(message)
    texts = {prop.key: prop.value for prop in message.metadata_props}
    names = _chosen(graph, outputs)
    nodes = _leading_to(graph, names)
    constants = Constants(graph.initializer, nodes, round_float64=round_float64)
    size = message.ByteSize()
    source = read_input(
        [value for value in graph.input if value.name not in constants],
        nodes,
        max_size=size,
        round_float64=round_float64,
    )
    ours = _input(source, texts) if input is None else _checked(input, source)
    reader = OnnxGraph(replace(source, name=ours.name), constants, size)
    _read(reader, constants, nodes, graph, names)
    heads = _heads(reader, names, texts, labels or {}, units or {})
    steps = needed(reader.steps, heads)
    producer = " ".join(filter(None, (message.producer_name, message.producer_version)))
    made_from = {"source": f"ONNX opset {opset}" + (f" of {producer}" if producer else "")}
    origin = metadata.load_provenance(texts) or made_from
    try:
        network = assemble(
            ours, steps, heads, name=name, provenance=origin | dict(provenance or {})
        )
    except UnsupportedSourceError as error:
        raise UnsupportedModelError(error.part, error.why) from error
    Reading(ours, steps, heads).check_rows(network, check)
    return network


def _opset(model: "ModelProto") -> int:
    """Return the version of ONNX's own operators; raises for one that is not supported."""
    from onnx import defs

    newest = defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    version = versions[0] if versions else 1
    if not _OLDEST <= version <= newest:
        raise UnsupportedSourceError(
            f"opset {version}",
            f"operators of opsets {_OLDEST} to {newest} are supported",
            "export the file again, or convert it with onnx.version_converter"
            if version < _OLDEST
            else "install a newer onnx",
        )
    return version


def _chosen(
    graph: "GraphProto", outputs: Sequence[str] | Mapping[str, str] | None
) -> dict[str, str]:
    """Return the requested outputs: the file's names -> the network's."""
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
    """Return the nodes that outputs depend on, each after those that it reads.

    Else in the graph's order. Raises UnsupportedModelError for a cycle of nodes.
    """
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in makers:
                raise refused(node, f"computes {name!r}, which another node computes as well")
            makers[name] = index
    waiting, found = list(outputs), set[int]()
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker not in found:
            found.add(maker)
            waiting.extend(graph.node[maker].input)
    waits = {
        index: {makers[name] for name in graph.node[index].input if name in makers}
        for index in found
    }
    readers: dict[int, list[int]] = {}
    for index, sources in waits.items():
        for source in sources:
            readers.setdefault(source, []).append(index)
    missing = {index: len(sources) for index, sources in waits.items()}
    free = sorted(index for index, count in missing.items() if not count)
    order = []
    while free:
        index = heappop(free)
        order.append(graph.node[index])
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heappush(free, reader)
    if len(order) < len(found):
        stuck = min(index for index, count in missing.items() if count)
        raise refused(graph.node[stuck], "depends on a cycle of nodes")
    return order


def _input(source: OnnxInput, texts: Mapping[str, str]) -> Input:
    columns = _columns(metadata.INPUTS, texts).get(source.name, metadata.ColumnNames())
    return Input(
        source.size,
        cleaned(source.name),
        columns.labels or source.features,
        columns.units,
        low=np.array(columns.low) if columns.low else None,
        high=np.array(columns.high) if columns.high else None,
        baseline=np.array(columns.baseline) if columns.baseline else None,
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
    reader: OnnxGraph,
    constants: Constants,
    nodes: "Sequence[NodeProto]",
    graph: "GraphProto",
    names: Mapping[str, str],
) -> None:
    for node in recognized(nodes, constants.scalar, names):
        try:
            reader.read(node)
        except UnsupportedModelError as error:
            others = [each for each in names if not _leads_to(graph, node, each)]
            if not others:
                raise
            raise UnsupportedModelError(
                error.part, f"{error.why}; outputs that do not need it: {', '.join(others)}"
            ) from error


def _leads_to(graph: "GraphProto", node: "NodeProto", output: str) -> bool:
    # By what it computes: a composition is one node here, and several in the graph.
    nodes = _leading_to(graph, {output: output})
    return any(node.output[:1] == each.output[:1] for each in nodes)


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
