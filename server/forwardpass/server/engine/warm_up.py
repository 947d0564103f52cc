"""Inputs that a model may be able to answer, for files without samples of their own.

A graph says little about the inputs it takes: an axis of any length may have to be 512 long, a
list of integers may be a shape, axes or sizes. So a bounded number of inputs is suggested, always
the same ones for a file, the most likely first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorSpec, check_shape
from forwardpass.server.onnx_messages import GraphProto, NodeProto

Feeds = dict[str, NDArray[Any]]

_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 28, 32, 64, 128)
"""Lengths to try for axes of any length: a Reshape in the graph may take only some."""
_LONG_SIZES = (256, 512, 576, 1024)
"""Longer lengths, only for a batch of one: windows of sound."""
_MAX_ELEMENTS = 2**20
"""Maximum elements of all inputs together, where lengths are chosen here."""
_LIST_TRIES = 4
"""Number of lengths with which lists of integers are tried."""
_LISTS = 24
"""Maximum number of lists that are tried with each."""
_LONGEST_LIST = 32
_LONGEST_BLOCK = 16

_Shapes = Mapping[str, Sequence[int]]
_Lists = Mapping[str, Sequence[int]]


def suggest(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], graph: GraphProto
) -> Iterator[Feeds]:
    """Yield inputs to try, the smallest first: zeros, ones, then lists that operators may take.

    Raises TensorError for a shape that no tensor has.
    """
    shapes = list(_shapes(inputs))
    # An integer cannot be divided by zero.
    for each, value in product(shapes, (0, 1)):
        yield {spec.name: _filled(spec, each[spec.name], value) for spec in inputs}
    counts = {spec.name: prod(spec.shape) for spec in inputs if _is_list(spec)}
    if not counts:
        return
    for each in shapes[:_LIST_TRIES]:
        zeros = {spec.name: _filled(spec, each[spec.name], 0) for spec in inputs}
        declared = {spec.name: spec.shape for spec in (*inputs, *outputs)}
        for lists in islice(_lists(counts, graph, declared), _LISTS):
            yield zeros | {
                name: np.array(lists[name], zeros[name].dtype).reshape(zeros[name].shape)
                for name in counts
                if len(lists.get(name, ())) == counts[name]
            }


def _shapes(inputs: Sequence[TensorSpec]) -> Iterator[_Shapes]:
    """Yield shapes of the inputs: equal axes, then a batch of one before longer axes."""
    batch = {spec.symbols[0] for spec in inputs if spec.symbols} - {None}
    seen: list[_Shapes] = []
    lengths = [(size, size) for size in _SIZES]
    lengths += [(1, size) for size in (*_SIZES, *_LONG_SIZES)]
    for first, others in lengths:
        shapes = {
            spec.name: [
                size if size >= 0 else first if axis == 0 or symbol in batch else others
                for axis, (size, symbol) in enumerate(zip(spec.shape, spec.symbols, strict=True))
            ]
            for spec in inputs
        }
        # Fixed lengths may be of any size, and are tried once.
        small = not seen or sum(map(prod, shapes.values())) <= _MAX_ELEMENTS
        if shapes not in seen and small:
            seen.append(shapes)
            yield shapes


def _filled(spec: TensorSpec, shape: Sequence[int], value: int) -> NDArray[Any]:
    check_shape(f"input {spec.name!r}", spec, shape)
    if spec.datatype == "BYTES":
        return np.full(shape, b"%d" % value, dtype=object)
    return np.full(shape, value, DATATYPES[spec.datatype].dtype)


def _is_list(spec: TensorSpec) -> bool:
    """Whether an input is a short list of integers, or a single one."""
    is_short = len(spec.shape) < 2 and 0 < prod(spec.shape) <= _LONGEST_LIST
    return is_short and spec.datatype in ("INT32", "INT64")


def _lists(counts: Mapping[str, int], graph: GraphProto, shapes: _Shapes) -> Iterator[_Lists]:
    """Yield values for inputs that are lists: what their readers take, then common lists."""
    named: dict[str, Sequence[int]] = {}
    for node in graph.node:
        reader = _READERS.get(node.op_type)
        if reader is not None and any(name in counts for name in node.input):
            for lists in reader(node, counts, shapes):
                named |= lists
                yield dict(named)
    for values in (
        # Axes, or an order.
        lambda count: range(count),
        # A shape with one free length.
        lambda count: [1] * (count - 1) + [-1],
        # Sizes.
        lambda count: range(2, count + 2),
        lambda count: [2] * count,
    ):
        yield {name: values(count) for name, count in counts.items()} | named


_Reader = Callable[[NodeProto, Mapping[str, int], _Shapes], Iterator[_Lists]]


def _slice(node: NodeProto, counts: Mapping[str, int], _: _Shapes) -> Iterator[_Lists]:
    values = (None, [0], [1], None, [1])
    yield {
        name: range(counts[name]) if value is None else value * counts[name]
        for name, value in zip(node.input, values, strict=False)
        if name in counts
    }


def _mel_weights(node: NodeProto, _: Mapping[str, int], __: _Shapes) -> Iterator[_Lists]:
    # Bins, the length of the transform, samples a second.
    yield dict(zip(node.input, ([8], [16], [8192]), strict=False))


def _split(node: NodeProto, _: Mapping[str, int], shapes: _Shapes) -> Iterator[_Lists]:
    """Yield parts as long as the outputs are declared."""
    parts = [shapes[name] for name in node.output if name in shapes]
    if len(node.input) > 1 and len({len(part) for part in parts}) == 1:
        for lengths in zip(*parts, strict=True):
            yield {node.input[1]: lengths}


def _columns_to_image(node: NodeProto, _: Mapping[str, int], shapes: _Shapes) -> Iterator[_Lists]:
    """Yield the declared output as the image, and the blocks that have a column's values."""
    if len(node.input) != 3 or len(node.output) != 1:
        return
    columns, image = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(columns) == 3 and 2 < len(image) < 6 and image[1] > 0:
        size = columns[1] // image[1]
        for block in product(range(1, min(size, _LONGEST_BLOCK) + 1), repeat=len(image) - 2):
            if prod(block) == size:
                yield {node.input[1]: image[2:], node.input[2]: block}


_READERS: Mapping[str, _Reader] = {
    "Col2Im": _columns_to_image,
    "MelWeightMatrix": _mel_weights,
    "Slice": _slice,
    "Split": _split,
}
"""Operators that read lists -> functions that suggest them."""
