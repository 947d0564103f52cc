"""Keras layers as operations: each from its configuration and its weights alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.steps import Activate, Linear, Normalize, Operation

_ACTIVATIONS = {
    None: "identity",
    "linear": "identity",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
    "exponential": "exp",
}

# What keras.backend.epsilon() is unless somebody sets it; Normalization divides by no less.
_EPSILON = 1e-7

# `a + b` and keras.ops.concatenate are in keras.src.ops.numpy.
_MODULES = frozenset(
    {"keras", "keras.layers", "keras.src.models.functional", "keras.src.ops.numpy"}
)

# They matter in training alone.
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


@dataclass(frozen=True, eq=False)
class KerasLayer:
    """One layer, or model, as Keras writes it down."""

    name: str
    kind: str
    """Its class, one of Keras' own."""
    config: Mapping[str, Any]
    calls: Sequence[Mapping[str, Any]]
    """Keras' `inbound_nodes`: the arguments, each time that it is called in a Functional model."""

    @property
    def part(self) -> str:
        """What it is called in errors."""
        return f"layer {self.name!r} ({self.kind})"

    @classmethod
    def parse(cls, written: Mapping[str, Any]) -> "KerasLayer":
        """Read an entry of `layers` in a configuration, or all of `config.json`.

        Raises UnsupportedSourceError for a class that is not Keras' own.
        """
        config = written["config"]
        layer = cls(
            str(config["name"]),
            str(written["class_name"]),
            config,
            written.get("inbound_nodes", ()),
        )
        # Others' classes are registered as `package>name`.
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

    def inside(self, model: KerasLayer) -> "WeightStore":
        """Return the store of a model that is a layer."""


def operation_of(layer: KerasLayer, store: WeightStore) -> Operation | None:
    """Return what a layer computes in inference; None if that is what it is given.

    Raises UnsupportedSourceError, which names the layer, for what a Network cannot represent.
    """
    if layer.kind in _DO_NOTHING:
        return None
    if layer.kind not in _READERS:
        raise UnsupportedSourceError(
            layer.part,
            "no part of a Network",
            f"expected one of {', '.join(sorted([*_READERS, *_DO_NOTHING]))}, or Add, "
            "Concatenate and Flatten of the input",
        )
    policy = layer.config.get("dtype")
    if isinstance(policy, Mapping) and policy["class_name"] != "DTypePolicy":
        raise UnsupportedSourceError(layer.part, "quantized weights", "import it before that")
    return _READERS[layer.kind](layer, store)


def check_option(layer: KerasLayer, key: str, *allowed: object) -> None:
    """Raise UnsupportedSourceError unless an option of a layer is among those allowed."""
    value = layer.config.get(key, allowed[0])
    if value not in allowed:
        raise UnsupportedSourceError(
            layer.part, f"{key}={value!r}", f"a Network has {key}={allowed[0]!r} alone"
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


def _activation(layer: KerasLayer) -> str:
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
    check_option(layer, "negative_slope", 0)
    check_option(layer, "threshold", 0)
    return Activate("relu")


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


def _normalization(layer: KerasLayer, store: WeightStore) -> Operation:
    check_option(layer, "axis", -1, 1, [-1], [1], [], None)
    check_option(layer, "invert", False)
    given = layer.config["mean"], layer.config["variance"]
    if None in given:
        mean, variance = store.weights(layer, ["mean", "variance"])
    else:
        mean, variance = (np.asarray(values, np.float64) for values in given)
    return Normalize(mean=_column(mean), scale=np.maximum(np.sqrt(_column(variance)), _EPSILON))


def _rescaling(layer: KerasLayer, _: WeightStore) -> Operation:
    scale, offset = (
        _column(np.asarray(layer.config[key], np.float64)) for key in ("scale", "offset")
    )
    if (scale > 0).all():
        # In this form an input's rescaling becomes the network's own.
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
    "Normalization": _normalization,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Softmax": _softmax,
}
