"""Policies of stable-baselines3, and those built on it, and of rsl_rl, on PyTorch."""

import copy
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.agreement import FLOAT32, TENSOR_FLOAT32, Arithmetic
from forwardpass.models.importers.policies.actor import Actor, shape_of
from forwardpass.models.importers.steps import Step
from forwardpass.models.importers.torch import read_forward

if TYPE_CHECKING:
    from torch import nn


def of_stable_baselines(policy: Any, part: str) -> Actor:
    """Return the actor of a policy of stable-baselines3 or of sb3_contrib."""
    values: Literal["action", "logits", "q"] = "action"
    squashes = False
    if hasattr(policy, "lstm_actor"):
        raise UnsupportedSourceError(
            part, "a recurrent actor (lstm_actor)", "a Network has no memory: train one without"
        )
    if hasattr(policy, "mlp_extractor"):
        module = _in_order(
            {
                "features_extractor": policy.pi_features_extractor,
                "mlp_extractor": policy.mlp_extractor,
                "action_net": policy.action_net,
            },
            "forward_actor",
        )
        values = "action" if type(policy.action_space).__name__ == "Box" else "logits"
        squashes = policy.squash_output
    elif hasattr(getattr(policy, "actor", None), "latent_pi"):
        module = _in_order(
            {
                name: getattr(policy.actor, name)
                for name in ("features_extractor", "latent_pi", "mu")
            }
        )
        squashes = True
    elif hasattr(getattr(policy, "actor", None), "mu"):
        module = _in_order(
            {name: getattr(policy.actor, name) for name in ("features_extractor", "mu")}
        )
    elif hasattr(getattr(policy, "q_net", None), "q_net"):
        module = _in_order(
            {name: getattr(policy.q_net, name) for name in ("features_extractor", "q_net")}
        )
        values = "q"
    else:
        raise UnsupportedSourceError(
            part,
            "no actor that is known",
            "expected the policy of PPO, A2C, SAC, TD3, DDPG, TQC or DQN",
        )
    if squashes:
        from torch import nn

        module = nn.Sequential(module, nn.Tanh())
    shape = shape_of(part, policy.observation_space)

    def predict(observations: NDArray[np.float32]) -> NDArray[Any]:
        trains = policy.training
        try:
            actions, _ = policy.predict(observations, deterministic=True)
        finally:
            policy.set_training_mode(trains)
        return np.asarray(actions)

    def weigh(observations: NDArray[np.float32]) -> NDArray[Any]:
        import torch

        rows = torch.from_numpy(observations).to(policy.device)
        trains = policy.training
        policy.set_training_mode(False)
        try:
            with torch.inference_mode():
                if values == "q":
                    return np.asarray(policy.q_net(rows).cpu().numpy())
                drawn = policy.get_distribution(rows).distribution
                every = drawn if isinstance(drawn, list) else [drawn]
                return np.concatenate([each.probs.cpu().numpy() for each in every], axis=1)
        finally:
            policy.set_training_mode(trains)

    return Actor(
        part=part,
        source=f"stable-baselines3 {version('stable-baselines3')}: {type(policy).__name__}",
        shape=shape,
        read=lambda source: _read(module, shape, source),
        values=values,
        squashed=policy.squash_output,
        actions=policy.action_space,
        arithmetic=_arithmetic(policy.device),
        predict=predict,
        weigh=weigh,
    )


def of_rsl_rl(model: Any, part: str) -> Actor:
    """Return the actor of rsl_rl: an MLPModel, of version 4 or later."""
    own = copy.deepcopy(model).cpu().eval()
    if own.is_recurrent or not hasattr(own, "mlp") or hasattr(own, "cnns"):
        raise UnsupportedSourceError(part, "not an MLPModel", "a Network has no memory and no CNN")
    module = own.as_jit()
    shape = (int(own.obs_dim),)

    def predict(observations: NDArray[np.float32]) -> NDArray[Any]:
        import torch

        # The model joins its groups in this order, whatever their widths.
        first, *others = own.obs_groups
        rows = torch.from_numpy(observations)
        groups = {first: rows} | dict.fromkeys(others, rows[:, :0])
        with torch.inference_mode():
            return np.asarray(own(groups).numpy())

    return Actor(
        part=part,
        source=f"rsl_rl {version('rsl-rl-lib')}: {type(model).__name__}",
        shape=shape,
        read=lambda source: _read(module, shape, source),
        values="action",
        squashed=False,
        actions=None,
        arithmetic=FLOAT32,
        predict=predict,
        weigh=predict,
    )


def _arithmetic(device: Any) -> Arithmetic:
    """Return the arithmetic of float32 on a device."""
    import torch

    plain = device.type == "cpu" or torch.get_float32_matmul_precision() == "highest"
    return FLOAT32 if plain else TENSOR_FLOAT32


def _read(
    module: "nn.Module", shape: tuple[int, ...], source: str
) -> tuple[Sequence[Step], tuple[str, ...]]:
    import torch

    graph, _, _ = read_forward(module, torch.zeros(1, *shape), source)
    (place,) = graph.outputs
    return graph.steps, place.reads


def _in_order(parts: "Mapping[str, nn.Module]", features: str = "__call__") -> "nn.Module":
    """Return a module that computes parts one after another, under their names.

    features is the method of an `mlp_extractor` that computes.
    """
    from torch import nn

    # To mypy torch is Any.
    class InOrder(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                self.add_module(name, part)

        def forward(self, x: Any) -> Any:
            for name in parts:
                method = features if name == "mlp_extractor" else "__call__"
                x = getattr(self._modules[name], method)(x)
            return x

    return InOrder()
