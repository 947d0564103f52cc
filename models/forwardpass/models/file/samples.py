"""The sample rows that a model file carries, with the reference's answers to them."""

from typing import TYPE_CHECKING

import numpy as np

from forwardpass.models.activations import UNIT_ROUNDOFF
from forwardpass.models.forward import propagate
from forwardpass.models.rounding import bounds_of, rounded_up
from forwardpass.models.trial_rows import typical_feed
from forwardpass.proto.metadata import Samples

if TYPE_CHECKING:
    from forwardpass.models.network import Network

_COUNT = 4


def reference_samples(network: "Network") -> Samples | None:
    """Return some typical rows, their answers, and the tolerance of float32.

    Rows for which float32 may overflow are left out: no runtime can be compared with them.
    None if no row is left.
    """
    rows = typical_feed(network.inputs, _COUNT)
    values = propagate(network, rows)
    bounds = bounds_of(network, rows, values)
    sure = np.all([np.isfinite(bound).all(axis=1) for bound in bounds.values()], axis=0)
    if not sure.any():
        return None
    answers = {name: values[name][sure] for name in bounds}
    return Samples(
        inputs={name: values[sure] for name, values in rows.items()},
        outputs={name: answer.astype(np.float32) for name, answer in answers.items()},
        tolerance={
            # The answers are rounded to float32 as well.
            name: rounded_up(float((bounds[name][sure] + UNIT_ROUNDOFF * np.abs(answer)).max()))
            for name, answer in answers.items()
        },
    )
