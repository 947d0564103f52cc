"""A policy by gradient: episodes of CartPole-v1, and REINFORCE on a network.

Needs Gymnasium (the extra `zoo`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

import gymnasium
import numpy as np
from numpy.typing import NDArray

from forwardpass.models.network import Network
from forwardpass.models.zoo import cartpole
from forwardpass.models.zoo.stored import HeldOut, Parameters, Stored, with_parameters
from forwardpass.models.zoo.training.backpropagation import Array, gradient, propagate
from forwardpass.models.zoo.training.fit import Adam

logger = logging.getLogger(__name__)

ENVIRONMENT = "CartPole-v1"

Choose = Callable[[Array], NDArray[np.intp]]
"""States (N, n) -> the number of the action in each."""


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How long and how fast a policy learns."""

    rounds: int
    episodes: int
    """Episodes of a round, after which the parameters change once."""
    rate: float
    """Initial step size of Adam; half a cosine takes it to 0."""
    discount: float
    """Factor of a reward for each step that it comes later."""
    seed: int = 0

    def __str__(self) -> str:
        return (
            f"REINFORCE: {self.rounds} steps of Adam over {self.episodes} episodes each, "
            f"rate {self.rate:g} falling by a cosine, discount {self.discount:g}, "
            "returns standardized, float64"
        )


SETTINGS = Rounds(rounds=60, episodes=16, rate=0.02, discount=0.99)

_TESTS, _FIRST_TEST = 100, 100_000
"""Episodes to test on, and Gymnasium's seed of the first: training uses those below."""
_RANDOM = 1000
"""Episodes of random pushes, for the scale of the states."""
_STORED = 200
"""States of the test's episodes that are stored."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """Episodes side by side, of one length; those that ended before are masked."""

    states: Array
    """(T, N, n)."""
    actions: NDArray[np.intp]
    """(T, N)."""
    alive: NDArray[np.bool_]
    """Whether the step was one of the episode (T, N)."""

    @property
    def visited(self) -> Array:
        """All states (M, n)."""
        visited: Array = self.states[self.alive]
        return visited

    @property
    def returns(self) -> Array:
        """The steps of each episode, each of which is rewarded by 1: (N,)."""
        steps: Array = self.alive.sum(axis=0, dtype=np.float64)
        return steps


def play(choose: Choose, count: int, seed: int) -> Episodes:
    """Play episodes that begin as Gymnasium's seeds `seed` to `seed + count - 1` say."""
    environments = gymnasium.make_vec(ENVIRONMENT, num_envs=count, vectorization_mode="sync")
    state, _ = environments.reset(seed=seed)
    running = np.ones(count, np.bool_)
    states, actions, alive = [], [], []
    while running.any():
        states.append(state.astype(np.float64))
        actions.append(choose(states[-1]))
        alive.append(running)
        state, _, fallen, over, _ = environments.step(actions[-1])
        running = running & ~(fallen | over)
    environments.close()
    return Episodes(np.stack(states), np.stack(actions), np.stack(alive))


def train_policy() -> Stored:
    """Train the policy; every call gives the same result."""
    draw = np.random.default_rng(SETTINGS.seed)
    chance = play(lambda states: draw.integers(2, size=len(states)), _RANDOM, 0)
    # Left and right are alike.
    mean = np.zeros(len(cartpole.FEATURES))
    scale = np.sqrt((chance.visited**2).mean(axis=0))
    network = cartpole.architecture(mean, scale)
    parameters, span = learn(network, SETTINGS)
    tests = play(greedy(with_parameters(network, parameters)), _TESTS, _FIRST_TEST)
    rows = draw.choice(len(tests.visited), _STORED, replace=False)
    returns, seeds = tests.returns, f"{_FIRST_TEST} to {_FIRST_TEST + _TESTS - 1}"
    return Stored(
        mean=mean,
        scale=scale,
        parameters=parameters,
        held_out=HeldOut(tests.visited[rows].astype(np.float32), {}),
        provenance={
            "split": f"Gymnasium's seeds 0 to {SETTINGS.rounds * SETTINGS.episodes - 1} to train "
            f"on, {seeds} held out; {_STORED} states of those are stored",
            "training": str(SETTINGS),
            "held-out action": f"mean return {returns.mean():.1f} of 500, least "
            f"{returns.min():.0f} ({_TESTS} episodes of seeds {seeds}, always the more probable "
            f"push; random pushes: {chance.returns.mean():.1f})",
        },
        span=span,
    )


def greedy(network: Network) -> Choose:
    """Return the choice of the most probable action."""
    (output,) = network.outputs
    return lambda states: network(states)[output.name].argmax(axis=1)


def learn(network: Network, settings: Rounds) -> tuple[Parameters, tuple[Array, Array]]:
    """Return trained parameters, from the network's own on, and the range of the states met.

    By REINFORCE, over the episodes' steps.

    Source: R. J. Williams, Simple statistical gradient-following algorithms for connectionist
    reinforcement learning, Machine Learning 8 (1992).
    """
    parameters = {
        layer.name: (layer.W.astype(np.float64), layer.b.astype(np.float64))
        for layer in network.layers
    }
    adam = Adam([array for pair in parameters.values() for array in pair])
    (output,) = network.outputs
    draw = np.random.default_rng(settings.seed)

    def sample(states: Array) -> NDArray[np.intp]:
        right = propagate(network, parameters, states).a[output.layer][:, 1]
        return (draw.random(len(states)) < right).astype(np.intp)

    low, high = np.full(network.input.size, np.inf), np.full(network.input.size, -np.inf)
    for number in range(settings.rounds):
        episodes = play(sample, settings.episodes, seed=number * settings.episodes)
        low, high = (
            np.minimum(low, episodes.visited.min(axis=0)),
            np.maximum(high, episodes.visited.max(axis=0)),
        )
        advantage = _advantage(episodes, settings.discount)
        states, actions = episodes.visited, episodes.actions[episodes.alive]
        if number % 10 == 0:
            logger.info("round %4d: mean return %.1f", number, episodes.returns.mean())
        p = propagate(network, parameters, states).a[output.layer]
        # The cost's derivative by z is p - y: with this y it is the advantage times p - taken.
        wanted = p - advantage[:, np.newaxis] * (p - np.eye(p.shape[1])[actions])
        slopes = gradient(network, parameters, states, {output.name: wanted})
        step = [slope for name in parameters for slope in slopes[name]]
        adam.step(step, settings.rate * (1 + cos(pi * number / settings.rounds)) / 2)
    return parameters, (low, high)


def _advantage(episodes: Episodes, discount: float) -> Array:
    """Return the discounted return from each step on, standardized over all steps."""
    togo = np.zeros(episodes.alive.shape)
    later = np.zeros(episodes.alive.shape[1])
    for step in reversed(range(len(togo))):
        later = np.where(episodes.alive[step], 1 + discount * later, 0.0)
        togo[step] = later
    values = togo[episodes.alive]
    return np.asarray((values - values.mean()) / values.std())
