"""Keras layers as operations: each from only its options and its weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import AnyActivation, Elu, LeakyRelu
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.steps import (
    Activate,
    Linear,
    Normalize,
    Operation,
    layer_norm,
    parametrized,
    sloped,
)

_ACTIVATIONS: Mapping[str | None, AnyActivation] = {
    None: "identity",
    "linear": "identity",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
    "exponential": "exp",
    "elu": "elu",
    "selu": "selu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "leaky_relu": LeakyRelu(0.2),
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "softplus": "softplus",
    "softsign": "softsign",
    "hard_sigmoid": "hard_sigmoid",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
    "log_softmax": "log_softmax",
}

# The default of keras.backend.epsilon(), the least number by which Normalization divides.
_EPSILON = 1e-7

# `a + b` and keras.ops.concatenate are in keras.src.ops.numpy.
_MODULES = frozenset(
    {"keras", "keras.layers", "keras.src.models.functional", "keras.src.ops.numpy"}
)

MODELS = frozenset({"Functional", "Sequential"})
"""Classes of models, which contain layers."""

MERGES = frozenset({"Add", "Average", "Concatenate", "Subtract"})
"""Layers that read several tensors."""

LOOKUPS = frozenset({"IntegerLookup", "StringLookup"})
"""Layers that make indices, or one-hots of these, of texts and integers."""

ENCODERS = frozenset({*LOOKUPS, "CategoryEncoding", "Embedding"})
"""Layers that read one column of categories, or of their indices."""

BEFORE = frozenset({"Discretization", "HashedCrossing", "Hashing", "TextVectorization"})
"""Layers that no Network has: they hash, or jump from one value to another."""

# These have an effect only in training.
_DO_NOTHING = frozenset(
    {
        "ActivityRegularization",
        "AlphaDropout",
        "Dropout",
        "GaussianDropout",
        "GaussianNoise",
        "Identity",
    }
)


History: TypeAlias = tuple[str, int, int]
"""The origin of a tensor in Keras: layer, number of the call, number of the call's output."""


@dataclass(frozen=True, eq=False)
class KerasLayer:
    """One layer, or model, from a file or from memory."""

    name: str
    kind: str
    """The name of its class, one of Keras' own."""
    config: Mapping[str, Any]
    calls: Sequence[Mapping[str, Any]]
    """Keras' `inbound_nodes`: the arguments of each of its calls in a Functional model."""
    layers: "Sequence[KerasLayer]" = ()
    """The layers of a model; one added twice to a Sequential model is there twice."""

    @property
    def part(self) -> str:
        """The name of it in errors."""
        return f"layer {self.name!r} ({self.kind})"

    @classmethod
    def parse(cls, written: Mapping[str, Any]) -> "KerasLayer":
        """Read an entry of `layers` in a configuration, or all of `config.json`.

        Raises UnsupportedSourceError for a class that is not Keras' own.
        """
        config = written["config"]
        kind = str(written["class_name"])
        layer = cls(
            str(config["name"]),
            kind,
            config,
            written.get("inbound_nodes", ()),
            tuple(map(cls.parse, config["layers"])) if kind in MODELS else (),
        )
        # Classes of other packages are registered as `package>name`.
        module, registered = written["module"], written.get("registered_name")
        if module not in _MODULES or registered not in (None, layer.kind):
            raise UnsupportedSourceError(
                f"layer {layer.name!r} ({module}.{layer.kind})",
                "not one of Keras' own layers",
                "its code is not run: write it with Dense, Activation and Concatenate",
            )
        return layer


class WeightStore(Protocol):
    """The weights of the layers of one model."""

    def weights(self, layer: KerasLayer, names: Sequence[str]) -> list[NDArray[np.float64]]:
        """Return a layer's weights; names are those of its attributes, in Keras' order."""

    def vocabulary(self, layer: KerasLayer) -> Sequence[str | int]:
        """Return the tokens of a lookup; those of masks and unknown values may come first."""

    def inside(self, model: KerasLayer) -> "WeightStore":
        """Return the store of a model that is a layer."""


def histories(written: Any) -> Iterator[tuple[str, History]]:
    """Yield the tensors of a model's `input_layers` or `output_layers`, with keys or ''."""
    if isinstance(written, Mapping):
        for key, value in written.items():
            for inner, history in histories(value):
                yield f"{key}.{inner}" if inner else str(key), history
    elif written and isinstance(written[0], str):
        name, call, index = written
        yield "", (name, call, index)
    else:
        for value in written:
            yield from histories(value)


def operation_of(layer: KerasLayer, store: WeightStore) -> Operation | None:
    """Return the operation of a layer in inference; None if it returns its input.

    Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent.
    """
    if layer.kind in _DO_NOTHING:
        return None
    if layer.kind not in _READERS:
        known = sorted([*_READERS, *MERGES, *ENCODERS, *_DO_NOTHING])
        raise UnsupportedSourceError(
            layer.part,
            "no part of a Network",
            "call it before the network, and import what comes after it: "
            "keras.Model(LAYER.output, model.outputs)"
            if layer.kind in BEFORE
            else f"expected one of {', '.join(known)}, or Flatten or Reshape to rows",
        )
    return _READERS[layer.kind](layer, store)


def check_dtype(layer: KerasLayer) -> None:
    """Raise UnsupportedSourceError unless a layer computes with real numbers, as a Network does."""
    policy = layer.config.get("dtype")
    if isinstance(policy, Mapping):
        if policy["class_name"] != "DTypePolicy":
            raise UnsupportedSourceError(layer.part, "quantized weights", "import it before that")
        policy = policy["config"]["name"]
    if policy is not None and "float" not in policy:
        raise UnsupportedSourceError(
            layer.part,
            f"of dtype {policy}, to which it rounds numbers",
            "a Network computes in float32: make it float32",
        )


def check_option(layer: KerasLayer, key: str, *allowed: object) -> None:
    """Raise UnsupportedSourceError unless an option of a layer is among those allowed."""
    value = layer.config.get(key, allowed[0])
    if value not in allowed:
        raise UnsupportedSourceError(
            layer.part, f"{key}={value!r}", f"a Network has only {key}={allowed[0]!r}"
        )


def _dense(layer: KerasLayer, store: WeightStore) -> Operation:
    activation = _activation(layer)
    if not layer.config["use_bias"]:
        (kernel,) = store.weights(layer, ["kernel"])
        return Linear(kernel.T, None, activation)
    kernel, bias = store.weights(layer, ["kernel", "bias"])
    return Linear(kernel.T, bias, activation)


def _activate(layer: KerasLayer, _: WeightStore) -> Operation:
    return Activate(_activation(layer))


def _activation(layer: KerasLayer) -> AnyActivation:
    written = layer.config["activation"]
    if isinstance(written, str | None) and written in _ACTIVATIONS:
        return _ACTIVATIONS[written]
    name = written["config"] if isinstance(written, Mapping) else written
    raise UnsupportedSourceError(
        layer.part,
        f"activation {name!r}",
        f"expected one of {', '.join(each for each in _ACTIVATIONS if each is not None)}",
    )


def _relu(layer: KerasLayer, _: WeightStore) -> Operation:
    check_option(layer, "max_value", None)
    check_option(layer, "threshold", 0)
    slope = layer.config.get("negative_slope", 0)
    return Activate(parametrized(layer.part, LeakyRelu, slope) if slope else "relu")


def _leaky_relu(layer: KerasLayer, _: WeightStore) -> Operation:
    return Activate(parametrized(layer.part, LeakyRelu, layer.config["negative_slope"]))


def _elu(layer: KerasLayer, _: WeightStore) -> Operation:
    return Activate(parametrized(layer.part, Elu, layer.config["alpha"]))


def _prelu(layer: KerasLayer, store: WeightStore) -> Operation:
    (alpha,) = store.weights(layer, ["alpha"])
    return Activate(sloped(layer.part, alpha))


def _softmax(layer: KerasLayer, _: WeightStore) -> Operation:
    check_option(layer, "axis", -1, 1, [-1], [1])
    return Activate("softmax")


def _batch_normalization(layer: KerasLayer, store: WeightStore) -> Operation:
    check_option(layer, "axis", -1, 1, [-1], [1])
    names = ["gamma"] if layer.config["scale"] else []
    names += ["beta"] if layer.config["center"] else []
    names += ["moving_mean", "moving_variance"]
    values = dict(zip(names, store.weights(layer, names), strict=True))
    return Normalize(
        mean=values["moving_mean"],
        scale=np.sqrt(values["moving_variance"] + layer.config["epsilon"]),
        factor=values.get("gamma", 1.0),
        offset=values.get("beta", 0.0),
    )


def _layer_normalization(layer: KerasLayer, store: WeightStore) -> Operation:
    check_option(layer, "axis", -1, 1, [-1], [1])
    check_option(layer, "rms_scaling", False)
    names = ["gamma"] if layer.config["scale"] else []
    names += ["beta"] if layer.config["center"] else []
    values = dict(zip(names, store.weights(layer, names), strict=True)) if names else {}
    scale, bias = values.get("gamma"), values.get("beta")
    return layer_norm(layer.part, scale, bias, layer.config["epsilon"])


def _normalization(layer: KerasLayer, store: WeightStore) -> Operation:
    check_option(layer, "axis", -1, 1, [-1], [1], [], None)
    check_option(layer, "invert", False)
    given = layer.config.get("mean"), layer.config.get("variance")
    if None in given:
        mean, variance = store.weights(layer, ["mean", "variance"])
    else:
        mean, variance = (np.asarray(values, np.float64) for values in given)
    smallest = layer.config.get("epsilon", _EPSILON)
    return Normalize(mean=_column(mean), scale=np.maximum(np.sqrt(_column(variance)), smallest))


def _rescaling(layer: KerasLayer, _: WeightStore) -> Operation:
    scale, offset = (
        _column(np.asarray(layer.config[key], np.float64)) for key in ("scale", "offset")
    )
    if (scale > 0).all():
        # In this form the rescaling of an input becomes the network's scaling.
        return Normalize(mean=-offset / scale, scale=1 / scale)
    return Normalize(factor=scale, offset=offset)


def _column(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values that may have axes of length 1 as (n,), or as one number."""
    return values.reshape(-1) if values.size > 1 else values.reshape(())


_Reader: TypeAlias = Callable[[KerasLayer, WeightStore], Operation]
_READERS: Mapping[str, _Reader] = {
    "Activation": _activate,
    "BatchNormalization": _batch_normalization,
    "Dense": _dense,
    "ELU": _elu,
    "LayerNormalization": _layer_normalization,
    "LeakyReLU": _leaky_relu,
    "Normalization": _normalization,
    "PReLU": _prelu,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Softmax": _softmax,
}
