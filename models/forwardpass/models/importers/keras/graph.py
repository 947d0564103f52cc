"""Keras models as steps: Sequential and Functional ones, nested to any depth.

A model is read from a file's `config.json`, or from its objects in memory.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from forwardpass.models.categorical import Categorical
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.keras.categories import CategoryInputs, Column
from forwardpass.models.importers.keras.layers import (
    BEFORE,
    ENCODERS,
    LOOKUPS,
    MERGES,
    MODELS,
    History,
    KerasLayer,
    WeightStore,
    check_dtype,
    check_option,
    histories,
    operation_of,
)
from forwardpass.models.importers.steps import Head, Linear, Normalize, Operation, Step
from forwardpass.models.network import Inputs, as_inputs
from forwardpass.models.ports import Input


@dataclass(frozen=True, eq=False)
class _Tensor:
    """The output of a layer: the joined values of steps."""

    reads: tuple[str, ...]
    shape: tuple[int, ...]
    """The shape without the batch; of more than one axis only before it is flattened."""
    column: Column | None = None
    """The column of categories that it is, or may be, if it has one value a row."""


@dataclass(frozen=True, eq=False)
class _Source:
    """An input of a model."""

    layer: KerasLayer
    name: str
    """Its name in the network."""
    shape: tuple[int, ...]
    """The shape without the batch."""

    @property
    def tensor(self) -> _Tensor:
        """What layers read of it."""
        column, dtype = None, str(self.layer.config.get("dtype"))
        if math.prod(self.shape) == 1 and len(self.shape) < 2 and dtype != "bool":
            column = Column(self.name, dtype)
        return _Tensor((self.name,), self.shape, column)


@dataclass(frozen=True, eq=False)
class KerasGraph:
    """A model as steps."""

    source: Inputs
    steps: list[Step]
    heads: list[Head]


def read_graph(model: KerasLayer, store: WeightStore, source: Inputs | None) -> KerasGraph:
    """Return a model's steps; source replaces its inputs of numbers, in their order, if given.

    Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent.
    """
    own = _sources(model)
    reader = _Reader(own)
    heads = reader.heads(model, store)
    if source is None:
        inputs = [
            reader.categories.made.get(each.name) or Input(math.prod(each.shape), each.name)
            for each in own
        ]
        return KerasGraph(tuple(inputs), reader.steps, heads)
    numbers = [each for each in own if each.name not in reader.categories.made]
    given = as_inputs(source)
    if len(given) != len(numbers) or any(isinstance(each, Categorical) for each in given):
        names = ", ".join(repr(each.name) for each in numbers)
        raise NetworkError(
            "input",
            expected=f"one for each of {names}, in this order" if numbers else "none",
            got=", ".join(type(each).__name__ for each in given)
            if len(given) == len(numbers)
            else str(len(given)),
            fix="give a sequence of them" if numbers else "leave it out: it reads categories only",
        )
    new = dict(zip(numbers, given, strict=True))
    renamed = [replace(each, name=new[each].name) if each in new else each for each in own]
    reader = _Reader(renamed)
    heads = reader.heads(model, store)
    made = reader.categories.made
    by_name = {each.name: each for each in given} | made
    return KerasGraph(tuple(by_name[each.name] for each in renamed), reader.steps, heads)


@dataclass(frozen=True, eq=False)
class _Reader:
    sources: Sequence[_Source]
    steps: list[Step] = field(default_factory=list)
    categories: CategoryInputs = field(default_factory=CategoryInputs)
    numbers: set[str] = field(default_factory=set)
    """The names of the inputs of one column that are read as numbers."""

    def heads(self, model: KerasLayer, store: WeightStore) -> list[Head]:
        """Read a whole model; return its outputs."""
        for each in self.sources:
            if each.tensor.column is None:
                check_dtype(each.layer)
        outputs = self.model(model, store, "", [each.tensor for each in self.sources])
        heads = [
            Head(name=name, reads=self._numbers(model, tensor).reads) for name, tensor in outputs
        ]
        for each in self.sources:
            if each.name in self.numbers and each.name in self.categories.made:
                raise UnsupportedSourceError(
                    each.layer.part,
                    "read as a category and as a number",
                    "give the model the column twice, as two inputs",
                )
        return heads

    def model(
        self, model: KerasLayer, store: WeightStore, prefix: str, inputs: Sequence[_Tensor]
    ) -> list[tuple[str, _Tensor]]:
        """Read a model's layers; return its outputs with their names."""
        layers = model.layers
        for layer in layers:
            # An input has to hold real numbers only where it is read as numbers.
            if layer.kind not in {*MODELS, *LOOKUPS, *BEFORE, "InputLayer"}:
                check_dtype(layer)
        if model.kind == "Sequential":
            tensors, called = list(inputs), Counter[str]()
            for layer in layers:
                if layer.kind != "InputLayer":
                    name = prefix + _name((layer.name, called[layer.name], 0))
                    called[layer.name] += 1
                    tensors = self._call(layer, store, name, tensors)
            return [(layers[-1].name, tensors[0])]

        sources = [history for _, history in histories(model.config["input_layers"])]
        known = dict(zip(sources, inputs, strict=True))
        calls = [(layer, number) for layer in layers for number in range(len(layer.calls))]
        while calls:
            waiting = []
            for layer, number in calls:
                read = _arguments(layer, layer.calls[number])
                if not all(history in known for history in read):
                    waiting.append((layer, number))
                    continue
                # Each call of a layer becomes a layer, with the same weights.
                name = prefix + _name((layer.name, number, 0))
                results = self._call(layer, store, name, [known[history] for history in read])
                for index, tensor in enumerate(results):
                    known[layer.name, number, index] = tensor
            if len(waiting) == len(calls):
                raise UnsupportedSourceError(
                    waiting[0][0].part, "reads a tensor of no layer", "save the model again"
                )
            calls = waiting
        outputs = []
        functional = {layer.name for layer in layers if layer.kind == "Functional"}
        for key, (source, number, index) in histories(model.config["output_layers"]):
            # Only here, Keras counts the calls of a Functional model from 1.
            history = source, number - (source in functional), index
            outputs.append((key or _name(history), known[history]))
        return outputs

    def _call(
        self, layer: KerasLayer, store: WeightStore, name: str, inputs: Sequence[_Tensor]
    ) -> list[_Tensor]:
        """Read one call of a layer; return its outputs."""
        if layer.kind in MODELS:
            outputs = self.model(layer, store.inside(layer), f"{name}.", inputs)
            if isinstance(layer.config.get("output_layers"), Mapping):
                outputs.sort(key=lambda output: output[0])  # as Keras numbers them
            return [tensor for _, tensor in outputs]
        if layer.kind in ("Flatten", "Reshape"):
            return [self._flatten(layer, tensor) for tensor in inputs]
        if layer.kind in MERGES:
            return [self._joined(layer, name, [self._numbers(layer, each) for each in inputs])]
        if layer.kind in ENCODERS:
            (tensor,) = inputs
            return [self._encoded(layer, store, name, tensor)]
        operation = operation_of(layer, store)
        (tensor,) = inputs
        if operation is None:
            return [tensor]
        tensor = self._numbers(layer, tensor)
        if len(tensor.shape) != 1 and not _is_of_one_number(operation):
            raise _not_flat(layer, tensor)
        self.steps.append(Step(name, operation, tensor.reads, layer.part))
        shape = operation.W.shape[:1] if isinstance(operation, Linear) else tensor.shape
        return [_Tensor((name,), shape)]

    def _numbers(self, layer: KerasLayer, tensor: _Tensor) -> _Tensor:
        """Return a tensor that a layer reads as numbers."""
        column = tensor.column
        if column is None:
            return tensor
        if column.indices is not None:
            raise UnsupportedSourceError(
                layer.part,
                "reads the index of a category as a number",
                "encode it first: output_mode='one_hot', CategoryEncoding or Embedding",
            )
        (source,) = (each for each in self.sources if each.name == column.source)
        check_dtype(source.layer)
        if not tensor.shape:
            raise _unfit(source.layer, tensor.shape)
        self.numbers.add(column.source)
        return replace(tensor, column=None)

    def _encoded(
        self, layer: KerasLayer, store: WeightStore, name: str, tensor: _Tensor
    ) -> _Tensor:
        """Return what a layer makes of a column of categories."""
        if tensor.column is None:
            raise UnsupportedSourceError(
                layer.part,
                f"reads values of shape {tensor.shape}",
                "a Network has categories in inputs of one column, keras.Input((1,))",
            )
        if not tensor.shape and layer.config.get("output_mode") == "multi_hot":
            # To Keras all rows of a batch are one sample then.
            raise UnsupportedSourceError(
                layer.part, "reads rows without an axis of values", "give the input the shape (1,)"
            )
        column, operation, width = self.categories.read(layer, store, tensor.column)
        if not width:
            return replace(tensor, column=column)
        shape = (*tensor.shape, width) if layer.kind == "Embedding" else (width,)
        if operation is None:
            return _Tensor((column.source,), shape)
        self.steps.append(Step(name, operation, (column.source,), layer.part))
        return _Tensor((name,), shape)

    def _joined(self, layer: KerasLayer, name: str, inputs: Sequence[_Tensor]) -> _Tensor:
        """Return tensors joined, or their weighted sum."""
        for tensor in inputs:
            if math.prod(tensor.shape) != tensor.shape[-1]:
                raise _not_flat(layer, tensor)
        *others, _ = inputs[0].shape
        reads = tuple(read for tensor in inputs for read in tensor.reads)
        widths = [tensor.shape[-1] for tensor in inputs]
        if layer.kind == "Concatenate":
            check_option(layer, "axis", -1, len(others) + 1)
            return _Tensor(reads, (*others, sum(widths)))
        if len(set(widths)) != 1 or len(widths) == 1:
            raise UnsupportedSourceError(
                layer.part, f"of widths {widths}", "a Network adds layers of one width"
            )
        factors = np.ones(len(widths))
        if layer.kind == "Average":
            factors /= len(widths)
        elif layer.kind == "Subtract":
            factors[1:] = -1
        each = np.hstack([factor * np.eye(widths[0]) for factor in factors])
        self.steps.append(Step(name, Linear(each), reads, layer.part))
        return _Tensor((name,), (*others, widths[0]))

    def _flatten(self, layer: KerasLayer, tensor: _Tensor) -> _Tensor:
        check_option(layer, "data_format", "channels_last")
        size = math.prod(tensor.shape)
        if layer.kind == "Reshape" and tuple(layer.config["target_shape"]) not in ((-1,), (size,)):
            raise UnsupportedSourceError(
                layer.part,
                f"target_shape={tuple(layer.config['target_shape'])} of {size} values",
                f"a Network has rows: reshape them to ({size},)",
            )
        return replace(tensor, shape=(size,))


def _sources(model: KerasLayer) -> list[_Source]:
    """Return a model's inputs, in its order."""
    layers = {layer.name: layer for layer in model.layers if layer.kind == "InputLayer"}
    if not layers:
        raise UnsupportedSourceError(
            model.part, "not built: no input and no weights", "begin with one keras.Input"
        )
    if model.kind != "Sequential":
        layers = {name: layers[name] for _, (name, _, _) in histories(model.config["input_layers"])}
    found = []
    for layer in layers.values():
        _, *shape = layer.config["batch_shape"]
        if None in shape:
            raise _unfit(layer, shape)
        found.append(_Source(layer, layer.name, tuple(shape)))
    return found


def _unfit(layer: KerasLayer, shape: Sequence[int | None]) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        layer.part, f"of shape {tuple(shape)}", "a Network's input has a fixed width"
    )


def _name(history: History) -> str:
    """Return a tensor's layer, with the numbers of call and output if these are not the first."""
    layer, *numbers = history
    return ".".join([layer, *(str(number) for number in numbers if number)])


def _is_of_one_number(operation: Operation) -> bool:
    """Whether an operation does the same to every value, in any shape."""
    if not isinstance(operation, Normalize):
        return False
    parameters = (operation.mean, operation.scale, operation.factor, operation.offset)
    return all(np.size(each) == 1 for each in parameters)


def _arguments(layer: KerasLayer, call: Mapping[str, Any]) -> list[History]:
    """Return the tensors that a call of a layer reads; options of the call are rejected."""
    for key, value in call["kwargs"].items():
        # With training=True a Dropout stays random, which a file cannot represent.
        if value not in (None, False):
            raise UnsupportedSourceError(
                layer.part, f"called with {key}={value!r}", "call it only with its input"
            )
    histories = []
    stack = list(reversed(call["args"]))
    while stack:
        value = stack.pop()
        if isinstance(value, list | tuple):
            stack += reversed(value)
        elif isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
            name, number, index = value["config"]["keras_history"]
            histories.append((name, number, index))
        else:
            raise UnsupportedSourceError(
                layer.part, f"called with {value!r}", "call it only with other layers' outputs"
            )
    return histories


def _not_flat(layer: KerasLayer, tensor: _Tensor) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        layer.part, f"reads values of shape {tensor.shape}", "a Network has rows: Flatten first"
    )
