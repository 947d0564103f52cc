"""Keras models as steps: Sequential and Functional ones, nested to any depth.

A model is read from a file's `config.json`, or from its objects in memory.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.keras.layers import (
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
    """The shape without the batch; of more than one axis only before an input is flattened."""


@dataclass(frozen=True, eq=False)
class KerasGraph:
    """A model as steps."""

    source: Inputs
    steps: list[Step]
    heads: list[Head]


def read_graph(model: KerasLayer, store: WeightStore, source: Inputs | None) -> KerasGraph:
    """Return a model's steps; source replaces the model's own inputs, in their order, if given.

    Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent.
    """
    own = _inputs(model)
    if source is None:
        source = tuple(Input(math.prod(shape), name) for name, shape in own)
    given = as_inputs(source)
    if len(given) != len(own):
        raise NetworkError(
            "input",
            expected=f"one for each of {', '.join(repr(name) for name, _ in own)}, in this order",
            got=str(len(given)),
            fix="give a sequence of them",
        )
    reader = _Reader([])
    tensors = [_Tensor((each.name,), shape) for each, (_, shape) in zip(given, own, strict=True)]
    outputs = reader.model(model, store, "", tensors)
    heads = [Head(name=name, reads=tensor.reads) for name, tensor in outputs]
    return KerasGraph(source, reader.steps, heads)


@dataclass(frozen=True, eq=False)
class _Reader:
    steps: list[Step]

    def model(
        self, model: KerasLayer, store: WeightStore, prefix: str, inputs: Sequence[_Tensor]
    ) -> list[tuple[str, _Tensor]]:
        """Read a model's layers; return its outputs with their names."""
        layers = model.layers
        for layer in layers:
            if layer.kind not in MODELS:
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
        if layer.kind == "Flatten":
            return [self._flatten(layer, tensor) for tensor in inputs]
        if layer.kind in MERGES:
            return [self._joined(layer, name, inputs)]
        operation = operation_of(layer, store)
        (tensor,) = inputs
        if operation is None:
            return [tensor]
        if len(tensor.shape) != 1 and not _is_of_one_number(operation):
            raise _not_flat(layer, tensor)
        self.steps.append(Step(name, operation, tensor.reads, layer.part))
        shape = operation.W.shape[:1] if isinstance(operation, Linear) else tensor.shape
        return [_Tensor((name,), shape)]

    def _joined(self, layer: KerasLayer, name: str, inputs: Sequence[_Tensor]) -> _Tensor:
        """Return tensors joined, or their weighted sum."""
        for tensor in inputs:
            if len(tensor.shape) != 1:
                raise _not_flat(layer, tensor)
        reads = tuple(read for tensor in inputs for read in tensor.reads)
        widths = [tensor.shape[0] for tensor in inputs]
        if layer.kind == "Concatenate":
            check_option(layer, "axis", -1, 1)
            return _Tensor(reads, (sum(widths),))
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
        return _Tensor((name,), (widths[0],))

    def _flatten(self, layer: KerasLayer, tensor: _Tensor) -> _Tensor:
        check_option(layer, "data_format", "channels_last")
        return replace(tensor, shape=(math.prod(tensor.shape),))


def _inputs(model: KerasLayer) -> list[tuple[str, tuple[int, ...]]]:
    """Return the names and the shapes, without the batch, of a model's inputs, in its order."""
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
        if not shape or None in shape:
            raise UnsupportedSourceError(
                layer.part, f"of shape {tuple(shape)}", "a Network's input has a fixed width"
            )
        found.append((layer.name, tuple(shape)))
    return found


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
