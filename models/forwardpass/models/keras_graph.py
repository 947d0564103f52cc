"""Keras models as steps: Sequential and Functional ones, nested as they may be.

A model is read as Keras writes it down, in a file's `config.json` or by `get_config`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.keras_layers import KerasLayer, WeightStore, check_option, operation_of
from forwardpass.models.ports import Input
from forwardpass.models.steps import Head, Linear, Normalize, Operation, Step

_History: TypeAlias = tuple[str, int, int]
"""Where Keras has a tensor from: the layer, which call of it, which of the call's outputs."""


@dataclass(frozen=True, eq=False)
class _Tensor:
    """What comes out of a layer: what steps give, side by side."""

    reads: tuple[str, ...]
    shape: tuple[int, ...]
    """Without the batch; of more than one axis only before an input is flattened."""


@dataclass(frozen=True, eq=False)
class KerasGraph:
    """A model as steps."""

    source: Input
    steps: list[Step]
    heads: list[Head]


def read_graph(model: KerasLayer, store: WeightStore, source: Input | None) -> KerasGraph:
    """Return a model's steps. Its input is the model's own unless source is given.

    Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent.
    """
    name, shape = _input(model)
    if source is None:
        source = Input(math.prod(shape), name)
    reader = _Reader([])
    outputs = reader.model(model, store, "", [_Tensor((source.name,), shape)])
    heads = [Head(name=name, reads=tensor.reads) for name, tensor in outputs]
    return KerasGraph(source, reader.steps, heads)


@dataclass(frozen=True, eq=False)
class _Reader:
    steps: list[Step]

    def model(
        self, model: KerasLayer, store: WeightStore, prefix: str, inputs: Sequence[_Tensor]
    ) -> list[tuple[str, _Tensor]]:
        """Take in a model's layers; return its outputs with their names."""
        layers = [KerasLayer.parse(written) for written in model.config["layers"]]
        if model.kind == "Sequential":
            tensors = list(inputs)
            for layer in layers:
                if layer.kind != "InputLayer":
                    tensors = self._call(layer, store, prefix + layer.name, tensors)
            return [(layers[-1].name, tensors[0])]

        sources = [history for _, history in _histories(model.config["input_layers"])]
        known = dict(zip(sources, inputs, strict=True))
        calls = [(layer, number) for layer in layers for number in range(len(layer.calls))]
        while calls:
            waiting = []
            for layer, number in calls:
                read = _arguments(layer, layer.calls[number])
                if not all(history in known for history in read):
                    waiting.append((layer, number))
                    continue
                # A layer that is called again is a layer again, with the same weights.
                name = prefix + _name((layer.name, number, 0))
                results = self._call(layer, store, name, [known[history] for history in read])
                for index, tensor in enumerate(results):
                    known[layer.name, number, index] = tensor
            if len(waiting) == len(calls):
                raise UnsupportedSourceError(
                    waiting[0][0].part, "reads what no layer gives", "save the model anew"
                )
            calls = waiting
        outputs = []
        functional = {layer.name for layer in layers if layer.kind == "Functional"}
        for key, (source, number, index) in _histories(model.config["output_layers"]):
            # Here, and nowhere else, Keras counts the calls of a Functional model from 1.
            history = source, number - (source in functional), index
            outputs.append((key or _name(history), known[history]))
        return outputs

    def _call(
        self, layer: KerasLayer, store: WeightStore, name: str, inputs: Sequence[_Tensor]
    ) -> list[_Tensor]:
        """Take in one call of a layer; return what comes out."""
        if layer.kind in ("Sequential", "Functional"):
            outputs = self.model(layer, store.inside(layer), f"{name}.", inputs)
            if isinstance(layer.config.get("output_layers"), Mapping):
                outputs.sort(key=lambda output: output[0])  # as Keras numbers them
            return [tensor for _, tensor in outputs]
        if layer.kind == "Flatten":
            return [self._flatten(layer, tensor) for tensor in inputs]
        if layer.kind in ("Concatenate", "Add"):
            return [self._joined(layer, name, inputs)]
        (tensor,) = inputs
        operation = operation_of(layer, store)
        if operation is None:
            return [tensor]
        if len(tensor.shape) != 1 and not _is_of_one_number(operation):
            raise _not_flat(layer, tensor)
        self.steps.append(Step(name, operation, tensor.reads, layer.part))
        shape = operation.W.shape[:1] if isinstance(operation, Linear) else tensor.shape
        return [_Tensor((name,), shape)]

    def _joined(self, layer: KerasLayer, name: str, inputs: Sequence[_Tensor]) -> _Tensor:
        """Return tensors side by side, or their sum."""
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
        each = np.tile(np.eye(widths[0]), len(widths))
        self.steps.append(Step(name, Linear(each), reads, layer.part))
        return _Tensor((name,), (widths[0],))

    def _flatten(self, layer: KerasLayer, tensor: _Tensor) -> _Tensor:
        check_option(layer, "data_format", "channels_last")
        return replace(tensor, shape=(math.prod(tensor.shape),))


def _input(model: KerasLayer) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape, without the batch, of a model's one input."""
    inputs = [
        layer
        for layer in map(KerasLayer.parse, model.config["layers"])
        if layer.kind == "InputLayer"
    ]
    if len(inputs) != 1:
        names = ", ".join(layer.name for layer in inputs)
        raise UnsupportedSourceError(
            model.part,
            f"{len(inputs)} inputs ({names})" if inputs else "not built: no input and no weights",
            "a Network has one input: begin with one keras.Input",
        )
    _, *shape = inputs[0].config["batch_shape"]
    if not shape or None in shape:
        raise UnsupportedSourceError(
            inputs[0].part, f"of shape {tuple(shape)}", "a Network's input has a fixed width"
        )
    return inputs[0].name, tuple(shape)


def _histories(written: Any) -> Iterator[tuple[str, _History]]:
    """Yield the tensors of a model's `input_layers` or `output_layers`, with keys or ''."""
    if isinstance(written, Mapping):
        for key, value in written.items():
            for inner, history in _histories(value):
                yield f"{key}.{inner}" if inner else str(key), history
    elif written and isinstance(written[0], str):
        name, call, index = written
        yield "", (name, call, index)
    else:
        for value in written:
            yield from _histories(value)


def _name(history: _History) -> str:
    """Return a tensor's layer, with the numbers of the call and of the output if not the first."""
    layer, *numbers = history
    return ".".join([layer, *(str(number) for number in numbers if number)])


def _is_of_one_number(operation: Operation) -> bool:
    """Whether an operation does to every value the same, however they are arranged."""
    if not isinstance(operation, Normalize):
        return False
    parameters = (operation.mean, operation.scale, operation.factor, operation.offset)
    return all(np.size(each) == 1 for each in parameters)


def _arguments(layer: KerasLayer, call: Mapping[str, Any]) -> list[_History]:
    """Return the tensors that a call of a layer reads; options of the call are refused."""
    for key, value in call["kwargs"].items():
        # training=True is a Dropout that stays random: nothing that a file could answer for.
        if value not in (None, False):
            raise UnsupportedSourceError(
                layer.part, f"called with {key}={value!r}", "call it with its input alone"
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
                layer.part, f"called with {value!r}", "call it with other layers' outputs alone"
            )
    return histories


def _not_flat(layer: KerasLayer, tensor: _Tensor) -> UnsupportedSourceError:
    return UnsupportedSourceError(
        layer.part, f"reads values of shape {tensor.shape}", "a Network has rows: Flatten first"
    )
