"""Networks from policies of reinforcement learning: stable-baselines3, SBX and rsl_rl.

Only the actor is read, as the policy's deterministic `predict` computes it. Their libraries are in
the caller's process, or not needed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.agreement import Check, Reading
from forwardpass.models.importers.assembly import assemble
from forwardpass.models.importers.pickles import refuse_file
from forwardpass.models.importers.policies.actor import Actor
from forwardpass.models.importers.policies.on_jax import of_sbx
from forwardpass.models.importers.policies.on_torch import of_rsl_rl, of_stable_baselines
from forwardpass.models.importers.steps import (
    Activate,
    Head,
    Normalize,
    Operation,
    Select,
    Step,
    chain,
    clipping,
)
from forwardpass.models.network import Network
from forwardpass.models.ports import Input


def from_policy(
    policy: Any,
    *,
    normalize: Any = None,
    input: Input | None = None,  # noqa: A002 - the field's name
    output: str | None = None,
    labels: Sequence[str] = (),
    units: Sequence[str] = (),
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Network:
    """Return the network of a policy's actor, as its deterministic `predict` computes.

    policy is an algorithm or its policy: of stable-baselines3 PPO, A2C, SAC, TD3, DDPG, TQC or
    DQN, of SBX the same on JAX, of rsl_rl a runner or the MLPModel of an actor. Parameters that no
    action depends on, such as `log_std` and the critics, are left out.

    normalize is the VecNormalize that the policy was trained with; by default that of the
    algorithm's environment, if it has one. Its mean and variance become the input's scaling, its
    clip_obs a layer, so that callers send raw observations.

    Actions of a Box are one output, `action`, in its range: stretched to it after a tanh,
    otherwise clipped to it. Of Discrete actions it is `probabilities`, or `q` of DQN: the action
    is the largest. MultiDiscrete actions are outputs `probabilities.0` and so on; of MultiBinary
    actions those above 0.5 are taken. output is another name for it.

    The network is compared with the policy's own answers to a few observations, in float32. It is
    compared with check too: observations and the answers to them.

    Raises UnsupportedSourceError, which names the policy, for what a Network cannot represent,
    and, naming row and output, if the answers differ by more than rounding explains.
    """
    refuse_file(policy, "load it with its library, as in PPO.load(path), and pass that")
    actor = _actor(policy)
    if normalize is None and hasattr(policy, "get_vec_normalize_env"):
        normalize = policy.get_vec_normalize_env()
    width = math.prod(actor.shape)
    source = Input(width, "observation") if input is None else input
    if source.size != width:
        raise NetworkError(
            f"input {source.name!r}",
            expected=f"size {width}, that of an observation",
            got=str(source.size),
            fix="give both the same size",
        )
    before = chain(source.name, _normalized(actor.part, normalize))
    body, reads = actor.read(before[-1].name if before else source.name)
    steps = [*before, *body]
    heads = list(_heads(actor, steps, reads, output, tuple(labels), tuple(units)))
    network = assemble(
        source,
        steps,
        heads,
        name=name,
        provenance={"source": actor.source} | dict(provenance or {}),
    )
    reading = Reading(source, steps, heads)

    def ask(rows: NDArray[np.float64]) -> list[NDArray[Any]]:
        observations = rows.reshape(len(rows), *actor.shape)
        if normalize is not None:
            observations = normalize.normalize_obs(observations)
        widths = [network.layer(each.layer).units for each in network.outputs]
        return _answers(actor, observations.astype(np.float32), widths)

    reading.check_source(network, ask, actor.arithmetic)
    reading.check_rows(network, check)
    return network


def _actor(given: Any) -> Actor:
    libraries = {each.__module__.partition(".")[0] for each in type(given).__mro__}
    policy = getattr(given, "policy", given)
    part = f"policy ({type(policy).__name__})"
    if "rsl_rl" in libraries:
        model = getattr(getattr(given, "alg", given), "actor", given)
        return of_rsl_rl(model, f"policy ({type(model).__name__})")
    if "sbx" in libraries:
        return of_sbx(policy, part)
    if "stable_baselines3" in libraries:
        return of_stable_baselines(policy, part)
    raise UnsupportedSourceError(
        part,
        "of no library that is known",
        "expected an algorithm or a policy of stable-baselines3, SBX or rsl_rl; an actor that is "
        "an nn.Module goes through from_torch",
    )


def _normalized(part: str, normalize: Any) -> list[tuple[str, Operation, str]]:
    """Return the steps of a VecNormalize."""
    if normalize is None or not normalize.norm_obs:
        return []
    part = f"VecNormalize of {part}"
    statistics = normalize.obs_rms
    if isinstance(statistics, Mapping):
        raise UnsupportedSourceError(part, "of a dict of observations", "flatten them first")
    mean, variance = (
        np.asarray(each, np.float64).reshape(-1) for each in (statistics.mean, statistics.var)
    )
    bound = np.full(len(mean), float(normalize.clip_obs))
    operations: list[Operation] = [
        Normalize(mean=mean, scale=np.sqrt(variance + normalize.epsilon)),
        *clipping(part, -bound, bound),
    ]
    return [
        (f"observation.{number}", operation, part) for number, operation in enumerate(operations)
    ]


def _heads(
    actor: Actor,
    steps: list[Step],
    reads: tuple[str, ...],
    output: str | None,
    labels: tuple[str, ...],
    units: tuple[str, ...],
) -> Iterator[Head]:
    """Yield the outputs; add the steps that lead to them."""

    def add(name: str, operation: Operation, reads: tuple[str, ...]) -> tuple[str, ...]:
        steps.append(Step(name, operation, reads, actor.part))
        return (name,)

    kind = type(actor.actions).__name__
    if actor.values == "action":
        for number, operation in enumerate(_ranged(actor)):
            reads = add(f"action.{number}", operation, reads)
        name = "action"
    elif actor.values == "q":
        name = "q"
    elif kind in ("Discrete", "MultiBinary"):
        reads = add("chances", Activate("softmax" if kind == "Discrete" else "sigmoid"), reads)
        name = "probabilities"
    elif kind == "MultiDiscrete":
        counts = [int(count) for count in actor.actions.nvec.reshape(-1)]
        chosen = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
        for number, columns in enumerate(chosen):
            one = add(f"choice.{number}", Select(columns), reads)
            one = add(f"chances.{number}", Activate("softmax"), one)
            yield Head(name=f"{output or 'probabilities'}.{number}", reads=one)
        return
    else:
        raise UnsupportedSourceError(
            actor.part, f"actions {actor.actions}", "expected a Box or Discrete"
        )
    yield Head(name=output or name, reads=reads, labels=labels, units=units)


def _ranged(actor: Actor) -> list[Operation]:
    """Return what brings an action into its range."""
    if actor.actions is None:
        return []
    low, high = (
        np.asarray(each, np.float64).reshape(-1) for each in (actor.actions.low, actor.actions.high)
    )
    if not actor.squashed:
        return clipping(f"range of actions of {actor.part}", low, high)
    return [Normalize(factor=(high - low) / 2, offset=(high + low) / 2)]


def _answers(
    actor: Actor, observations: NDArray[np.float32], widths: Sequence[int]
) -> list[NDArray[Any]]:
    """Return a policy's own answers by output, after a look that its choices follow from them."""
    actions = actor.predict(observations).reshape(len(observations), -1)
    if actor.values == "action":
        return [actions]
    weights = np.split(actor.weigh(observations), np.cumsum(widths)[:-1], axis=1)
    if type(actor.actions).__name__ == "MultiBinary":
        chosen = weights[0] > 0.5
    else:
        chosen = np.stack([each.argmax(axis=1) for each in weights], axis=1)
    if (chosen != actions).any():
        raise UnsupportedSourceError(
            actor.part,
            "its predict does not choose the action of the largest value",
            "a Network has the values, as of the library's own policies",
        )
    return weights
