"""What a policy has in common with those of other libraries: its actor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.agreement import Arithmetic
from forwardpass.models.importers.steps import Step

Ask: TypeAlias = Callable[[NDArray[np.float32]], NDArray[Any]]
"""A function of observations (n, ...), as the policy takes them."""


@dataclass(frozen=True, eq=False)
class Actor:
    """The part of a policy that its deterministic `predict` computes."""

    part: str
    """The policy in errors, as in `policy (SACPolicy)`."""
    source: str
    """The library, its version and the class, for the provenance."""
    shape: tuple[int, ...]
    """The shape of an observation."""
    read: Callable[[str], tuple[Sequence[Step], tuple[str, ...]]]
    """Returns the steps on a named value, and what the actor's values are among them."""
    values: Literal["action", "logits", "q"]
    """What they are: an action, the logarithms of probabilities, or a value of each action."""
    squashed: bool
    """Whether an action is within -1 and 1, to be stretched to the range of actions."""
    actions: Any
    """The space of actions, of gymnasium; None if nothing limits them."""
    arithmetic: Arithmetic
    predict: Ask
    """Returns the policy's own deterministic actions, (n, ...)."""
    weigh: Ask
    """Returns its own probabilities or values of the actions, (n, number of actions)."""


def shape_of(part: str, observations: Any) -> tuple[int, ...]:
    """Return the shape of a space of observations.

    Raises UnsupportedSourceError for those that a policy does not pass to its network as they are.
    """
    kind = type(observations).__name__
    if kind != "Box" or (observations.dtype == np.uint8 and len(observations.shape) == 3):
        raise UnsupportedSourceError(
            part,
            f"observations {observations}, which it changes first",
            "a Network reads a Box of numbers; flatten dicts and make one-hots in the environment",
        )
    return tuple(observations.shape)
