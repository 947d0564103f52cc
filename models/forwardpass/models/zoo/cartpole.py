"""A policy that balances a pole on a cart: push left or right, from four measurements.

Environment: CartPole-v1 of Gymnasium, after A. G. Barto, R. S. Sutton, C. W. Anderson, Neuronlike
adaptive elements that can solve difficult learning control problems, IEEE SMC 13 (1983).
"""

from typing import Any, Final

from numpy.typing import NDArray

from forwardpass.models.layers import Dense
from forwardpass.models.network import Input, Network, Output
from forwardpass.models.zoo.stored import HeldOut, load

NAME: Final = "cartpole_policy"
FEATURES: Final = ("cart position", "cart velocity", "pole angle", "pole angular velocity")
UNITS: Final = ("m", "m/s", "rad", "rad/s")
ACTIONS: Final = ("push left", "push right")


def architecture(mean: NDArray[Any], scale: NDArray[Any]) -> Network:
    """Return the network before training; mean, scale (4,) of states that a random policy meets."""
    return Network.define(
        Input(len(FEATURES), features=FEATURES, units=UNITS, mean=mean, scale=scale),
        [Dense("hidden", 16, "tanh"), Dense("action", len(ACTIONS), "softmax")],
        [Output("action", "action", labels=ACTIONS, description="probability of each push")],
        name=NAME,
        provenance={
            "data": "CartPole-v1 of Gymnasium, a simulation: 0.02 s a step, a push of 10 N; "
            "A. G. Barto, R. S. Sutton, C. W. Anderson (1983)",
            "intended use": "an example of a policy: the push for a state, 50 times a second",
            "limits": "the simulation's pole, cart and pushes; states near upright alone",
        },
    )


def network() -> Network:
    """Return the trained policy."""
    return load(NAME).restore(architecture)


def held_out() -> HeldOut:
    """Return states of episodes that training never saw: x (200, 4), without a truth."""
    return load(NAME).held_out
