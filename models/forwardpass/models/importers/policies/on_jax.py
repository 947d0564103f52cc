"""Policies of SBX, on JAX: their parameters, without importing JAX."""

import re
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import ActivationName
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.agreement import BFLOAT16, FLOAT32, TENSOR_FLOAT32, Arithmetic
from forwardpass.models.importers.policies.actor import Actor, shape_of
from forwardpass.models.importers.steps import Activate, Linear, chain, real

_ACTIVATIONS: dict[str, ActivationName] = {
    "elu": "elu",
    "gelu": "gelu_tanh",
    "leaky_relu": "leaky_relu",
    "relu": "relu",
    "selu": "selu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "softplus": "softplus",
    "swish": "silu",
    "tanh": "tanh",
}

# Classes of actors, with the layers that they have behind the one of their mean.
_ACTORS = {"Actor": 0, "QNetwork": 0, "SquashedGaussianActor": 1}


def of_sbx(policy: Any, part: str) -> Actor:
    """Return the actor of a policy of SBX: PPO, SAC, TQC, TD3, DDPG or DQN."""
    values: Literal["action", "logits", "q"] = "action"
    if hasattr(policy, "actor_state"):
        module, state = policy.actor, policy.actor_state
        if type(policy.action_space).__name__ != "Box":
            values = "logits"
    else:
        module, state, values = policy.qf, policy.qf_state, "q"
    kind = type(module).__name__
    if kind not in _ACTORS or getattr(module, "features_extractor", None) is not None:
        raise UnsupportedSourceError(
            part, f"an actor of class {kind}", "expected the MlpPolicy of PPO, SAC, TQC, TD3 or DQN"
        )
    if type(policy.action_space).__name__ not in ("Box", "Discrete"):
        raise UnsupportedSourceError(
            part, f"actions {policy.action_space}", "expected a Box or Discrete"
        )
    parameters = state.params.get("params", state.params)
    layers = sorted(
        (name for name in parameters if re.fullmatch(r"Dense_\d+", name)),
        key=lambda name: int(name.removeprefix("Dense_")),
    )
    unknown = sorted(set(parameters) - {*layers, "log_std"})
    if unknown:
        raise UnsupportedSourceError(
            part, f"parameters {', '.join(unknown)} of its actor", "a Network has only Dense layers"
        )
    function = getattr(policy.activation_fn, "__name__", str(policy.activation_fn))
    if function not in _ACTIVATIONS:
        raise UnsupportedSourceError(
            part, f"activation {function!r}", f"expected one of {', '.join(sorted(_ACTIVATIONS))}"
        )
    layers = layers[: len(layers) - _ACTORS[kind]]
    operations = []
    for name in layers:
        of = f"layer {name!r} of {part}"
        kernel, bias = (real(of, what, parameters[name][what]) for what in ("kernel", "bias"))
        activation = _ACTIVATIONS[function] if name != layers[-1] else "identity"
        operations.append((name, Linear(kernel.T, bias, activation), of))
    tanh = [("squashed", Activate("tanh"), part)] if policy.squash_output else []

    def predict(observations: NDArray[np.float32]) -> NDArray[Any]:
        actions, _ = policy.predict(observations, deterministic=True)
        return np.asarray(actions)

    def weigh(observations: NDArray[np.float32]) -> NDArray[Any]:
        answers = state.apply_fn(state.params, observations)
        return np.asarray(answers if values == "q" else answers.probs_parameter())

    return Actor(
        part=part,
        source=f"sbx {version('sbx-rl')}: {type(policy).__name__}",
        shape=shape_of(part, policy.observation_space),
        read=lambda source: (
            chain(source, [*operations, *tanh]),
            ("squashed" if tanh else layers[-1],),
        ),
        values=values,
        squashed=policy.squash_output,
        actions=policy.action_space,
        arithmetic=_arithmetic(parameters[layers[0]]["kernel"]),
        predict=predict,
        weigh=weigh,
    )


def _arithmetic(kernel: Any) -> Arithmetic:
    """Return the arithmetic of float32 on the device that has the parameters."""
    devices = kernel.devices() if hasattr(kernel, "devices") else ()
    platforms = {device.platform for device in devices}
    return FLOAT32 if platforms == {"cpu"} else BFLOAT16 if "tpu" in platforms else TENSOR_FLOAT32
