"""PyTorch modules with a forward of their own as steps: the graph that `torch.export` makes.

A tensor that depends on the input is an array of whole numbers that name its values: their row,
and their column among those of all steps. Operations that only move values, such as a `view` or a
`cat`, are run on it. So it is known, not assumed, which value is where, and that none left its row.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import (
    ActivationName,
    AnyActivation,
    Elu,
    GroupedSoftmax,
    LeakyRelu,
)
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.steps import (
    Activate,
    Linear,
    Normalize,
    Operation,
    Select,
    Step,
    Sum,
    clipping,
    layer_norm,
    parametrized,
    real,
    sloped,
)
from forwardpass.models.scaling import SMALLEST_NORMAL

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram
    from torch.fx import Node

_ROWS = 3
"""The rows that a graph is made and walked with; the graph itself is one of any number of rows."""
_BITS = 40
"""Bits of a value's number that are its column."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """A tensor that depends on the input."""

    values: "torch.Tensor"
    """int64: for each value its row and its column, `row << _BITS | column`."""


@dataclass(frozen=True)
class Place:
    """One tensor that a module returns."""

    path: str
    """Keys, fields and numbers, as in `risk` or `0.mean`; empty for a tensor alone."""
    reads: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TorchGraph:
    """A module as steps."""

    steps: list[Step]
    outputs: list[Place]


def exported(module: "nn.Module", example: "torch.Tensor") -> "ExportedProgram":
    """Return the graph of a module for any number of rows like those of an example.

    Raises UnsupportedSourceError, with torch's reason, for a module that has none.
    """
    import torch

    rows = example[[index % len(example) for index in range(_ROWS)]]
    try:
        # Those are of torch's own making.
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            program = torch.export.export(
                module, (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},), strict=False
            )
            # Without the operations in place, and not decomposed any further.
            return program.run_decompositions({})
    except Exception as error:
        raise UnsupportedSourceError(
            f"module ({type(module).__name__})",
            f"torch.export fails: {shorten(f'{type(error).__name__}: {error}', 400)}",
            "make forward compute tensors only, from one tensor of any number of rows",
        ) from error


def read_graph(program: "ExportedProgram", source: str) -> TorchGraph:
    """Return the steps of a graph; source is the name of the input.

    Raises UnsupportedSourceError, which names the operation, the module and the line, for what a
    Network cannot represent.
    """
    return _ExportReader(program, source).read()


class _ExportReader:
    def __init__(self, program: "ExportedProgram", source: str) -> None:
        self._program = program
        self._source = source
        self._steps: list[Step] = []
        self._names = {source}
        # The input, and its values after scaling.
        self._front = {source}
        self._places: list[tuple[str, int]] = []
        self._widths: dict[str, int] = {}
        self._values: dict[Node, Any] = {}
        self._parameters: dict[Node, str] = {}

    def read(self) -> TorchGraph:
        import torch
        from torch.export.graph_signature import OutputKind

        for spec in self._program.graph_signature.output_specs:
            if spec.kind == OutputKind.BUFFER_MUTATION:
                raise UnsupportedSourceError(
                    f"buffer {spec.target!r}",
                    "changed by each call: answers may depend on earlier calls",
                    "leave the change out in eval mode",
                )
        (output,) = self._program.graph.find_nodes(op="output")
        needed = self._needed(output)
        with torch.no_grad():
            for node in self._program.graph.nodes:
                if node.op == "placeholder":
                    self._placeholder(node)
                elif node in needed and node is not output:
                    self._values[node] = self._computed(node)
        return TorchGraph(self._steps, list(self._outputs(output)))

    def _needed(self, output: "Node") -> "set[Node]":
        """Return the nodes that the outputs depend on, without those inside a composed function."""
        needed, waiting = set(), [output]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                composed = _composed(node)
                waiting += node.all_input_nodes if composed is None else [composed[1]]
        return needed

    def _placeholder(self, node: "Node") -> None:
        from torch.export.graph_signature import InputKind

        program = self._program
        (spec,) = (
            each
            for each in program.graph_signature.input_specs
            if getattr(each.arg, "name", None) == node.name
        )
        if spec.kind == InputKind.USER_INPUT:
            shape = node.meta["val"].shape[1:]
            self._values[node] = self._fresh(self._source, shape)
        else:
            held = program.state_dict if spec.target in program.state_dict else program.constants
            self._values[node] = held[spec.target]
            self._parameters[node] = str(spec.target)

    def _fresh(self, name: str, shape: Sequence[int]) -> _Batch:
        """Return the values of a new step in the shape of a row."""
        import torch

        width = math.prod(shape)
        columns = torch.arange(len(self._places), len(self._places) + width)
        self._places += [(name, index) for index in range(width)]
        self._widths[name] = width
        rows = torch.arange(_ROWS).reshape(-1, 1) << _BITS
        return _Batch((rows | columns).reshape(_ROWS, *shape))

    def _computed(self, node: "Node") -> Any:
        import torch
        from torch.fx.node import map_arg
        from torch.utils import _pytree

        composed = _composed(node)
        if composed is not None:
            activation, read = composed
            return self.activate(node, self._rows(node, self._values[read]), activation)
        args, kwargs = (
            map_arg(each, self._values.__getitem__) for each in (node.args, node.kwargs)
        )
        operation, target = _operation(node), _target(node)
        if not any(isinstance(leaf, _Batch) for leaf in _pytree.tree_leaves((args, kwargs))):
            if torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()):
                raise self.refused(node, "random: its answers would be")
            (origin, *others) = node.all_input_nodes or [None]
            if origin in self._parameters and not others:
                self._parameters[node] = self._parameters[origin]
            return target(*args, **kwargs)
        if operation in _MOVES:
            return self._moved(node, target, args, kwargs)
        if operation not in _READERS:
            raise self.refused(node, "no part of a Network")
        names = [argument.name for argument in node.target._schema.arguments]
        defaults = {each.name: each.default_value for each in node.target._schema.arguments}
        given = defaults | dict(zip(names, args, strict=False)) | kwargs
        return _READERS[operation](self, node, given)

    def _moved(
        self, node: "Node", target: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Run an operation that moves values on their numbers."""
        import torch
        from torch.utils import _pytree

        def numbers(leaf: Any) -> Any:
            return leaf.values if isinstance(leaf, _Batch) else leaf

        if _operation(node) == "cat" and not all(isinstance(each, _Batch) for each in args[0]):
            raise self.refused(node, "of a constant", "join only what depends on the input")
        moved = target(*_pytree.tree_map(numbers, args), **_pytree.tree_map(numbers, kwargs))
        return _pytree.tree_map(
            lambda leaf: _Batch(leaf) if isinstance(leaf, torch.Tensor) else leaf, moved
        )

    def _outputs(self, output: "Node") -> Iterator[Place]:
        from torch.export.graph_signature import OutputKind
        from torch.utils import _pytree

        specs = self._program.graph_signature.output_specs
        (nodes,) = output.args
        returned = [
            node
            for node, spec in zip(nodes, specs, strict=True)
            if spec.kind == OutputKind.USER_OUTPUT
        ]
        places = _pytree.tree_unflatten(
            list(range(len(returned))), self._program.call_spec.out_spec
        )
        for place, index in named(places):
            node = returned[index]
            if node is None:
                continue
            read = self._values.get(node)
            if not isinstance(read, _Batch):
                raise UnsupportedSourceError(
                    f"output {place or 'of the module'}",
                    "not computed from the input",
                    "return only what depends on the input",
                )
            yield Place(place, self.reads(node, read))

    def _rows(self, node: "Node", value: Any) -> _Batch:
        if not isinstance(value, _Batch):
            raise self.refused(node, f"reads {type(value).__name__} where a Network has rows")
        return value

    def refused(
        self, node: "Node", why: str, fix: str = "compute it outside of the module"
    ) -> UnsupportedSourceError:
        """Return the error for an operation that a Network does not have."""
        return UnsupportedSourceError(_part(node), why, fix)

    def _columns(self, node: "Node", rows: _Batch) -> tuple[tuple[str, ...], NDArray[np.intp]]:
        """Return the steps whose values a row has, and its values' places among theirs."""
        numbers = rows.values.numpy()
        flat = numbers.reshape(len(numbers), -1) if numbers.ndim else numbers.reshape(1, -1)
        columns = flat[0] & ((1 << _BITS) - 1)
        expected = columns | (np.arange(_ROWS, dtype=np.int64).reshape(-1, 1) << _BITS)
        if flat.shape != expected.shape or (flat != expected).any():
            raise self.refused(node, "reads values of several rows, or not of all")
        places = [self._places[column] for column in columns]
        names = tuple(dict.fromkeys(name for name, _ in places))
        ends = np.cumsum([self._widths[name] for name in names])
        starts = dict(zip(names, [0, *ends[:-1]], strict=True))
        return names, np.array([starts[name] + index for name, index in places], np.intp)

    def reads(self, node: "Node", rows: _Batch) -> tuple[str, ...]:
        """Return steps that, joined, are a value: earlier ones, or a new one that chooses."""
        names, _ = self._columns(node, self._chosen(node, rows))
        return names

    def _chosen(self, node: "Node", rows: _Batch) -> _Batch:
        """Return values that are all of some steps, in their order."""
        names, places = self._columns(node, rows)
        width = sum(self._widths[name] for name in names)
        if np.array_equal(places, np.arange(width)):
            return rows
        shape = tuple(rows.values.shape[1:])
        return self._fresh(self._add(node, Select(places), names, shape), shape)

    def _add(
        self, node: "Node", operation: Operation, reads: tuple[str, ...], shape: Sequence[int]
    ) -> str:
        name = free = self._name(node, operation)
        count = 1
        while free in self._names:
            count += 1
            free = f"{name}.{count}"
        self._names.add(free)
        self._steps.append(Step(free, operation, reads, _part(node)))
        self._widths[free] = math.prod(shape)
        return free

    def _name(self, node: "Node", operation: Operation) -> str:
        """Return the name of a step: that of the module whose weights it has, or of the node."""
        if isinstance(operation, Linear):
            for each in node.all_input_nodes:
                path, _, parameter = self._parameters.get(each, "").rpartition(".")
                if path and "weight" in (parameter, path.rpartition(".")[2]):
                    return path.removesuffix(".parametrizations.weight")
        return str(node.name)

    def step(self, node: "Node", operation: Operation, *read: _Batch) -> _Batch:
        """Add a step on values; its own have the shape of the first, except after a Linear."""
        shape = tuple(read[0].values.shape[1:])
        if isinstance(operation, Linear):
            shape = (*shape[:-1], len(operation.W))
        names = tuple(name for each in read for name in self.reads(node, each))
        name = self._add(node, operation, names, shape)
        if isinstance(operation, Normalize) and names[0] in self._front and len(names) == 1:
            self._front.add(name)
        return self._fresh(name, shape)

    def activate(self, node: "Node", rows: _Batch, activation: AnyActivation) -> _Batch:
        """Add an activation function of each value."""
        return self.step(node, Activate(activation), rows)

    def one(self, node: "Node", rows: _Batch) -> _Batch:
        """Return values that belong to one step."""
        rows = self._chosen(node, rows)
        return rows if len(self.reads(node, rows)) == 1 else self.step(node, Normalize(), rows)

    def is_front(self, node: "Node", rows: _Batch) -> bool:
        """Whether a value is the input, scaled or not."""
        names, _ = self._columns(node, rows)
        return len(names) == 1 and names[0] in self._front

    def constant(self, node: "Node", value: Any, rows: _Batch) -> NDArray[np.float64]:
        """Return a constant that is combined with rows, one number for each of their values."""
        array = real(_part(node), "a constant", value)
        shape = tuple(rows.values.shape)
        if array.ndim == len(shape) and array.shape[0] != 1:
            raise self.refused(node, "a constant for each of several rows")
        return np.broadcast_to(array, (1, *shape[1:])).reshape(-1)


def named(places: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a module returns with its keys, fields and numbers, joined by dots."""
    if isinstance(places, Mapping):
        inside = [(str(key), value) for key, value in places.items()]
    elif hasattr(places, "_fields"):
        inside = list(zip(places._fields, places, strict=True))
    elif isinstance(places, list | tuple):
        inside = [(str(index), value) for index, value in enumerate(places)]
    else:
        yield prefix, places
        return
    for key, value in inside:
        yield from named(value, f"{prefix}.{key}" if prefix else key)


def _operation(node: "Node") -> str:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return str(schema.name).removeprefix("aten::")


def _composed(node: "Node") -> "tuple[AnyActivation, Node] | None":
    """Return the activation function that several nodes compute, and the node that it reads."""
    operation = _operation(node)
    if operation not in ("div", "mul") or len(node.args) != 2:
        return None
    for x, other in (node.args, node.args[::-1]) if operation == "mul" else (node.args,):
        if not hasattr(other, "op"):
            continue
        inner = _operation(other)
        # softsign, x / (|x| + 1); silu, x sigmoid(x); mish, x tanh(softplus(x)).
        if operation == "div" and inner == "add" and other.args[1:] == (1,) and not other.kwargs:
            (magnitude, _) = other.args
            if _is_of(magnitude, "abs", x):
                return "softsign", x
        elif operation == "mul" and _is_of(other, "sigmoid", x):
            return "silu", x
        elif operation == "mul" and inner == "tanh" and _is_of(other.args[0], "softplus", x):
            return "mish", x
    return None


def _is_of(value: Any, operation: str, x: "Node") -> bool:
    """Whether a value is an operation on x, with its defaults."""
    return hasattr(value, "op") and _operation(value) == operation and value.args == (x,)


def _target(node: "Node") -> Callable[..., Any]:
    return node.target  # type: ignore[no-any-return]


def _part(node: "Node") -> str:
    """Return a node's operation, module and line, as in `sin of module 'head' (Head), net.py:9`."""
    entered = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = entered[-1] if entered else ("", "")
    kind = getattr(kind, "__name__", str(kind).rpartition(".")[2])
    of = f" of module {path!r} ({kind})" if path else f" of module ({kind})" if kind else ""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [f"{Path(file).name}:{line}" for file, line in frames if "/torch/" not in file]
    return f"operation {_operation(node)}{of}" + (f", {own[-1]}" if own else "")


_Given: TypeAlias = Mapping[str, Any]
"""The arguments of an operation by name, with its defaults."""
_Read: TypeAlias = Callable[[_ExportReader, "Node", _Given], _Batch]


def _linear(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    return _product(graph, node, given["input"], given["weight"], given["bias"])


def _addmm(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    if (given["beta"], given["alpha"]) != (1, 1):
        raise graph.refused(node, f"beta={given['beta']}, alpha={given['alpha']}", "leave them out")
    if isinstance(given["self"], _Batch):
        product = _product(graph, node, given["mat1"], _transposed(given["mat2"]), None)
        return _sum(graph, node, given["self"], product)
    return _product(graph, node, given["mat1"], _transposed(given["mat2"]), given["self"])


def _matmul(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    left, right = (given[key] for key in ("self", "mat2" if "mat2" in given else "other"))
    return _product(graph, node, left, _transposed(right), None)


def _transposed(value: Any) -> Any:
    return value if isinstance(value, _Batch) or value.ndim != 2 else value.T


def _product(graph: _ExportReader, node: "Node", rows: Any, weight: Any, bias: Any) -> _Batch:
    """Return rows times weights (s_out, s_in), plus a bias."""
    if not isinstance(rows, _Batch) or isinstance(weight, _Batch) or isinstance(bias, _Batch):
        raise graph.refused(node, "a product of two values that depend on the input")
    shape = tuple(rows.values.shape)
    if math.prod(shape[1:]) != shape[-1] or weight.ndim != 2:
        raise graph.refused(
            node, f"reads values of shape {shape[1:]}", "a Network has rows: flatten them first"
        )
    W = real(_part(node), "weight", weight)
    b = None if bias is None else np.broadcast_to(real(_part(node), "bias", bias), W.shape[:1])
    return graph.step(node, Linear(W, b), rows)


def _add(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    return _weighted_sum(graph, node, given["self"], given["other"], given["alpha"])


def _sub(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    return _weighted_sum(graph, node, given["self"], given["other"], -given["alpha"])


def _rsub(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    negative = _scaled(graph, node, given["self"], -given["alpha"])
    return _weighted_sum(graph, node, negative, given["other"], 1)


def _weighted_sum(graph: _ExportReader, node: "Node", a: Any, b: Any, factor: float) -> _Batch:
    """Return a + factor b, of which one may be constant."""
    if not isinstance(b, _Batch):
        a = _widened(a, b)
        return graph.step(node, Normalize(mean=-factor * graph.constant(node, b, a)), a)
    if factor != 1:
        b = _scaled(graph, node, b, factor)
    if not isinstance(a, _Batch):
        b = _widened(b, a)
        return graph.step(node, Normalize(mean=-graph.constant(node, a, b)), b)
    return _sum(graph, node, a, b)


def _sum(graph: _ExportReader, node: "Node", a: _Batch, b: _Batch) -> _Batch:
    import torch

    wide = [_Batch(each) for each in torch.broadcast_tensors(a.values, b.values)]
    return graph.step(node, Sum(), *(graph.one(node, each) for each in wide))


def _widened(rows: _Batch, constant: Any) -> _Batch:
    """Return rows broadcast over a constant."""
    import torch

    shape = torch.broadcast_shapes(rows.values.shape, getattr(constant, "shape", ()))
    return _Batch(rows.values.expand(shape))


def _mul(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    a, b = given["self"], given["other"]
    if isinstance(a, _Batch) and isinstance(b, _Batch):
        raise graph.refused(node, "a product of two values that depend on the input")
    return _scaled(graph, node, a, b) if isinstance(a, _Batch) else _scaled(graph, node, b, a)


def _scaled(graph: _ExportReader, node: "Node", rows: _Batch, factor: Any) -> _Batch:
    rows = _widened(rows, factor)
    c = graph.constant(node, factor, rows)
    if graph.is_front(node, rows) and ((c >= SMALLEST_NORMAL) & (c <= 1 / SMALLEST_NORMAL)).all():
        return graph.step(node, Normalize(scale=1 / c), rows)
    return graph.step(node, Normalize(factor=c), rows)


def _div(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    a, b = given["self"], given["other"]
    if isinstance(b, _Batch) or given.get("rounding_mode") is not None:
        raise graph.refused(node, "a division by values that depend on the input, or rounded")
    a = _widened(a, b)
    c = graph.constant(node, b, a)
    if (c > 0).all():
        return graph.step(node, Normalize(scale=c), a)
    return graph.step(node, Normalize(factor=1 / c), a)


def _neg(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    return _scaled(graph, node, given["self"], -1.0)


def _over_values(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    """Read a sum or a mean of each row's values as the matrix of what it is on an identity."""
    import torch

    rows: _Batch = given["self"]
    shape = tuple(rows.values.shape[1:])
    axes = [axis % (len(shape) + 1) for axis in given.get("dim") or [0]]
    if 0 in axes or given.get("dtype") is not None:
        raise graph.refused(node, "over rows: an answer would depend on the others", "say dim=1")
    width = math.prod(shape)
    each = torch.eye(width, dtype=torch.float64).reshape(width, *shape)
    results = _target(node)(each, given["dim"], given["keepdim"])
    flat = _Batch(rows.values.reshape(_ROWS, -1))
    reduced = graph.step(node, Linear(results.reshape(width, -1).numpy().T), flat)
    return _Batch(reduced.values.reshape(_ROWS, *results.shape[1:]))


def _batch_norm(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    rows: _Batch = given["input"]
    mean, variance = given.get("running_mean"), given.get("running_var")
    if mean is None or variance is None or given.get("training"):
        raise graph.refused(
            node,
            "no running statistics, so that an answer depends on its batch",
            "train it with track_running_stats=True",
        )
    if rows.values.ndim != 2:
        raise graph.refused(node, "over values of several axes", "use BatchNorm1d on rows")
    part = _part(node)
    return graph.step(
        node,
        Normalize(
            mean=real(part, "running_mean", mean),
            scale=np.sqrt(real(part, "running_var", variance) + given["eps"]),
            factor=1.0 if given["weight"] is None else real(part, "weight", given["weight"]),
            offset=0.0 if given["bias"] is None else real(part, "bias", given["bias"]),
        ),
        rows,
    )


def _layer_norm(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    rows: _Batch = given["input"]
    if rows.values.ndim != 2 or len(given["normalized_shape"]) != 1:
        raise graph.refused(
            node,
            f"over values of shape {tuple(rows.values.shape[1:])}",
            "a Network's rows have one axis: normalize the last one",
        )
    weight, bias = (
        None if given[what] is None else real(_part(node), what, given[what])
        for what in ("weight", "bias")
    )
    return graph.step(node, layer_norm(_part(node), weight, bias, given["eps"]), rows)


def _layer_normalized_now(graph: _ExportReader, node: "Node", given: _Given) -> Any:
    return (_layer_norm(graph, node, given), None, None)


def _normalized_now(graph: _ExportReader, node: "Node", given: _Given) -> Any:
    return (_batch_norm(graph, node, given), None, None)


def _dropout(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    if given["train"]:
        raise graph.refused(node, "it stays in training: its answers are random", "call eval()")
    rows: _Batch = given["input"]
    return rows


def _cast(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    dtype = given.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        raise graph.refused(node, f"to {dtype}", "a Network has only real numbers")
    rows: _Batch = given["self"]
    return rows


def _plain(name: ActivationName) -> _Read:
    return lambda graph, node, given: graph.activate(node, given["self"], name)


def _over_rows(name: ActivationName) -> _Read:
    def read(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
        rows: _Batch = given["self"]
        last = rows.values.ndim - 1
        if name == "softmax" and last > 1 and given["dim"] in (last, -1):
            *parts, size = rows.values.shape[1:]
            return graph.activate(node, rows, GroupedSoftmax([size] * math.prod(parts)))
        if last != 1 or given["dim"] not in (1, -1):
            raise graph.refused(
                node,
                f"dim={given['dim']} of values of shape {tuple(rows.values.shape[1:])}, where a "
                f"Network's {name} is over each row",
                "say dim=1",
            )
        return graph.activate(node, rows, name)

    return read


def _leaky_relu(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    slope = parametrized(_part(node), LeakyRelu, given["negative_slope"])
    return graph.activate(node, given["self"], slope)


def _prelu(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    slopes = real(_part(node), "weight", given["weight"])
    return graph.activate(node, given["self"], sloped(_part(node), slopes))


def _elu(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    if given.get("scale", 1) != 1 or given.get("input_scale", 1) != 1:
        raise graph.refused(node, f"scale={given['scale']}, input_scale={given['input_scale']}")
    return graph.activate(node, given["self"], parametrized(_part(node), Elu, given["alpha"]))


def _celu(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    if given["alpha"] != 1:
        raise graph.refused(node, f"alpha={given['alpha']}", "a Network has elu")
    return graph.activate(node, given["self"], "elu")


def _gelu(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    is_tanh = given["approximate"] == "tanh"
    return graph.activate(node, given["self"], "gelu_tanh" if is_tanh else "gelu")


def _softplus(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    # Above the threshold torch's is z itself: the same in float32 from 20 on.
    if given["beta"] != 1 or given["threshold"] < 20:
        raise graph.refused(
            node, f"beta={given['beta']}, threshold={given['threshold']}", "use Softplus(1, 20)"
        )
    return graph.activate(node, given["self"], "softplus")


def _log_sigmoid(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    grown = graph.activate(node, _scaled(graph, node, given["self"], -1.0), "softplus")
    return _scaled(graph, node, grown, -1.0)


def _clamp(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    low, high = (given.get(key, given.get(f"{key}_val")) for key in ("min", "max"))
    return _clipped(graph, node, given["self"], low, high)


def _relu6(graph: _ExportReader, node: "Node", given: _Given) -> _Batch:
    return _clipped(graph, node, given["self"], 0, 6)


def _clipped(graph: _ExportReader, node: "Node", rows: _Batch, low: Any, high: Any) -> _Batch:
    ends = [
        np.full(math.prod(rows.values.shape[1:]), fallback)
        if end is None
        else graph.constant(node, end, rows)
        for end, fallback in ((low, -np.inf), (high, np.inf))
    ]
    for operation in clipping(_part(node), *ends):
        rows = graph.step(node, operation, rows)
    return rows


_PLAIN: tuple[tuple[str, ActivationName], ...] = (
    ("exp", "exp"),
    ("hardsigmoid", "hard_sigmoid"),
    ("hardswish", "hard_swish"),
    ("mish", "mish"),
    ("relu", "relu"),
    ("selu", "selu"),
    ("sigmoid", "sigmoid"),
    ("silu", "silu"),
    ("tanh", "tanh"),
)

_READERS: Mapping[str, _Read] = {
    **{operation: _plain(name) for operation, name in _PLAIN},
    "_log_softmax": _over_rows("log_softmax"),
    "_native_batch_norm_legit": _normalized_now,
    "_native_batch_norm_legit_no_training": _normalized_now,
    "_softmax": _over_rows("softmax"),
    "_to_copy": _cast,
    "add": _add,
    "addmm": _addmm,
    "alpha_dropout": _dropout,
    "batch_norm": _batch_norm,
    "celu": _celu,
    "clamp": _clamp,
    "clamp_max": _clamp,
    "clamp_min": _clamp,
    "div": _div,
    "dropout": _dropout,
    "elu": _elu,
    "feature_alpha_dropout": _dropout,
    "feature_dropout": _dropout,
    "gelu": _gelu,
    "hardtanh": _clamp,
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "log_sigmoid": _log_sigmoid,
    "log_softmax": _over_rows("log_softmax"),
    "matmul": _matmul,
    "mean": _over_values,
    "mm": _matmul,
    "mul": _mul,
    "native_dropout": _dropout,
    "native_layer_norm": _layer_normalized_now,
    "neg": _neg,
    "prelu": _prelu,
    "relu6": _relu6,
    "rsub": _rsub,
    "softmax": _over_rows("softmax"),
    "softplus": _softplus,
    "sub": _sub,
    "sum": _over_values,
    "to": _cast,
}

_MOVES = frozenset(
    {
        "_unsafe_view",
        "alias",
        "cat",
        "chunk",
        "clone",
        "contiguous",
        "detach",
        "expand",
        "expand_as",
        "flatten",
        "flip",
        "getitem",
        "index_select",
        "lift_fresh_copy",
        "movedim",
        "narrow",
        "permute",
        "repeat",
        "reshape",
        "roll",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "stack",
        "sym_size",
        "t",
        "tile",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
    }
)
"""Operations that only move values, and that read shapes."""
