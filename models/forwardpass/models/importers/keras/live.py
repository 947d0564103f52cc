"""A Keras model in memory, read from its objects: its configuration may differ from them.

A configuration has a layer that is twice in a Sequential model once, a custom function named
`relu` as Keras' own, and not always the options that were set after a layer was made.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.agreement import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    TENSOR_FLOAT32,
    Arithmetic,
)
from forwardpass.models.importers.keras.layers import LOOKUPS, KerasLayer, histories
from forwardpass.models.importers.steps import real

if TYPE_CHECKING:
    import keras

# The options of layers on which their results depend.
_LOOKUP = ["invert", "mask_token", "max_tokens", "num_oov_indices", "oov_token", "output_mode"]
_OPTIONS: Mapping[str, Sequence[str]] = {
    "Activation": ["activation"],
    "BatchNormalization": ["axis", "center", "epsilon", "scale"],
    "CategoryEncoding": ["num_tokens", "output_mode"],
    "Concatenate": ["axis"],
    "Dense": ["activation"],
    "ELU": ["alpha"],
    "Embedding": ["input_dim"],
    "Flatten": ["data_format"],
    "IntegerLookup": [*_LOOKUP, "pad_to_max_tokens", "vocabulary_dtype"],
    "LayerNormalization": ["axis", "center", "epsilon", "rms_scaling", "scale"],
    "LeakyReLU": ["negative_slope"],
    "Normalization": ["axis", "invert"],
    "ReLU": ["max_value", "negative_slope", "threshold"],
    "Rescaling": ["offset", "scale"],
    "Reshape": ["target_shape"],
    "Softmax": ["axis"],
    "StringLookup": [*_LOOKUP, "pad_to_max_tokens", "encoding"],
}


_OPS: Mapping[str, str] = {
    **{name: name for name in ("relu", "sigmoid", "tanh", "softmax", "elu", "selu", "silu")},
    **{name: name for name in ("softplus", "softsign", "hard_sigmoid", "hard_silu")},
    **{name: name for name in ("leaky_relu", "log_softmax")},
    "gelu": "gelu_tanh",
}
"""Functions of keras.ops, with their defaults -> their names here."""


@dataclass(frozen=True, eq=False)
class LiveWeights:
    """The weights of a model in memory."""

    objects: dict[KerasLayer, Any]
    """The object of each layer."""

    def weights(self, layer: KerasLayer, names: Sequence[str]) -> list[NDArray[np.float64]]:
        """Return a layer's weights, which are attributes of these names."""
        own = self.objects[layer]
        return [real(layer.part, name, _array(getattr(own, name))) for name in names]

    def vocabulary(self, layer: KerasLayer) -> list[str | int]:
        """Return the tokens of a lookup."""
        tokens = self.objects[layer].get_vocabulary(include_special_tokens=False)
        # They are NumPy's scalars.
        return [str(each) if isinstance(each, str) else int(each) for each in tokens]

    def inside(self, _: KerasLayer) -> "LiveWeights":
        """Return the weights of a model that is a layer."""
        return self


def read_live(model: "keras.Model") -> tuple[KerasLayer, LiveWeights]:
    """Return a model in the form of Keras' files, read from its objects, and its weights.

    Raises UnsupportedSourceError for objects that are not of Keras' own classes, or that compute
    something else than these.
    """
    store = LiveWeights({})
    return _read(model, f"model ({type(model).__name__})", (), store.objects), store


def arithmetic_of(model: "keras.Model") -> Arithmetic:
    """Return the coarsest arithmetic that any part of a model computes in."""
    found = [_backends()]
    for dtype in _dtypes(model):
        if dtype == "float16":
            found.append(FLOAT16)
        elif dtype == "bfloat16":
            found.append(BFLOAT16)
    return Arithmetic(
        max(each.roundoff for each in found),
        max(each.sums for each in found),
        min(each.largest for each in found),
    )


def predicted(model: "keras.Model", rows: Any, written: KerasLayer) -> list[Any]:
    """Return a model's own answers in inference, in the order of its outputs.

    rows are those of its input, or of each by name, in the order of its inputs.
    """
    if written.kind == "Sequential" and isinstance(rows, Mapping):
        (rows,) = rows.values()
    if not isinstance(rows, Mapping):
        (source,) = model.inputs
        given: Any = rows.reshape(len(rows), *source.shape[1:])
    else:
        # Of a dict of inputs, Keras' own list is sorted by its keys.
        order = [name for _, (name, _, _) in histories(written.config["input_layers"])]
        sent = dict(zip(order, rows.values(), strict=True))
        given = {
            id(each): sent[each._keras_history.operation.name].reshape(-1, *each.shape[1:])
            for each in model.inputs
        }
        if isinstance(model.input, Mapping):
            given = {key: given[id(each)] for key, each in model.input.items()}
        else:
            given = list(given.values())
    answers = model(given, training=False)
    outputs = written.config.get("output_layers", [])
    return [_array(answer) for answer in _flat(outputs, answers)]


def _read(
    own: Any, part: str, calls: Sequence[Mapping[str, Any]], objects: dict[KerasLayer, Any]
) -> KerasLayer:
    _check_class(own, part)
    import keras

    kind = type(own).__name__
    config: dict[str, Any] = {"dtype": _policy(own)}
    layers: list[KerasLayer] = []
    if kind == "Sequential":
        inputs = own.inputs if own.built and hasattr(own, "inputs") else []
        layers += [_input_layer(tensor) for tensor in inputs]
        layers += [_read(each, _part(each), (), objects) for each in own.layers]
    elif kind == "Functional":
        # In this order, so that no method of a custom class is called.
        for each in own.operations:
            _check_class(each, _part(each))
        written = type(own).get_config(own)
        config |= {key: written[key] for key in ("input_layers", "output_layers")}
        called = {each["name"]: each["inbound_nodes"] for each in written["layers"]}
        for each in own.operations:
            if isinstance(each, keras.layers.InputLayer):
                layers.append(_input_layer(each.output))
            else:
                layers.append(_read(each, _part(each), called[each.name], objects))
    else:
        config |= {key: _plain(getattr(own, key)) for key in _OPTIONS.get(kind, ())}
        if kind == "Dense":
            config["use_bias"] = getattr(own, "bias", None) is not None
        if kind in LOOKUPS:
            config["vocabulary_size"] = own._frozen_vocab_size
        if kind == "Normalization":
            config["epsilon"] = keras.config.epsilon()
    layer = KerasLayer(own.name, kind, config, calls, layers)
    objects[layer] = own
    return layer


def _input_layer(tensor: Any) -> KerasLayer:
    return KerasLayer(
        tensor._keras_history.operation.name,
        "InputLayer",
        {"batch_shape": tuple(tensor.shape), "dtype": tensor.dtype},
        (),
    )


def _check_class(own: Any, part: str) -> None:
    """Raise UnsupportedSourceError for an object that is not Keras' own, or has another `call`."""
    import keras
    from keras.src.models.functional import Functional
    from keras.src.ops import numpy as operations

    kind = type(own)
    ours = [getattr(place, kind.__name__, None) for place in (keras.layers, operations)]
    if kind not in (keras.Sequential, Functional, *ours):
        raise not_of_keras(part)
    if getattr(own.call, "__func__", None) is not kind.call or own.call.__self__ is not own:
        raise UnsupportedSourceError(
            part, "a call of its own, which may compute anything", "use Keras' own call"
        )


def not_of_keras(part: str) -> UnsupportedSourceError:
    """Return the error for an object of another class than Keras' own."""
    return UnsupportedSourceError(
        part,
        "not one of Keras' own classes",
        "expected a Sequential or Functional model of Keras' own layers",
    )


def _part(own: Any) -> str:
    return f"layer {own.name!r} ({type(own).__name__})"


def _policy(own: Any) -> Any:
    """Return the dtype of a layer in the form of Keras' files."""
    policy = getattr(own, "dtype_policy", None)
    if policy is None:
        return None
    return {"class_name": type(policy).__name__, "config": {"name": policy.name}}


def _plain(value: Any) -> Any:
    """Return an option in the form of Keras' files; functions are compared, not their names."""
    if callable(value):
        return _function(value)
    if isinstance(value, tuple | list):
        return list(value)
    return value if isinstance(value, str | bool | int | float | None) else _array(value)


def _function(function: Any) -> Any:
    import keras

    name = getattr(function, "__name__", type(function).__name__)
    if getattr(keras.activations, name, None) is function:
        return name
    # The same functions under other names, but for gelu.
    if name in _OPS and getattr(keras.ops, name) is function:
        return _OPS[name]
    module = getattr(function, "__module__", type(function).__module__)
    return {"config": f"{module}.{name}"}


def _array(values: Any) -> NDArray[Any]:
    from keras import ops

    array = np.asarray(ops.convert_to_numpy(values))
    # NumPy has no such dtype.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _flat(written: Any, answers: Any) -> Iterator[Any]:
    """Yield a model's answers in the order in which its outputs are written."""
    if isinstance(written, Mapping):
        for key, value in written.items():
            yield from _flat(value, answers[key])
    elif isinstance(answers, list | tuple):
        for value, answer in zip(written, answers, strict=True):
            yield from _flat(value, answer)
    else:
        yield answers


def _dtypes(model: Any) -> Iterator[str]:
    yield from (tensor.dtype for tensor in model.inputs)
    for layer in model.layers:
        yield layer.compute_dtype
        if hasattr(layer, "layers"):
            yield from _dtypes(layer)


def _backends() -> Arithmetic:
    """Return the backend's arithmetic of float32; for float64 most have no better."""
    import keras

    backend = keras.config.backend()
    if backend == "torch":
        import torch

        precision = torch.get_float32_matmul_precision()
        return {"high": TENSOR_FLOAT32, "medium": BFLOAT16}.get(precision, FLOAT32)
    if backend in ("jax", "tensorflow"):
        devices = {device.split(":")[0] for device in keras.distribution.list_devices()}
        return BFLOAT16 if "tpu" in devices else TENSOR_FLOAT32 if "gpu" in devices else FLOAT32
    return BFLOAT16 if backend == "openvino" else FLOAT32
