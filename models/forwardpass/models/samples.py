"""The sample rows that a model file carries, with the reference's answers to them."""

from typing import TYPE_CHECKING

import numpy as np

from forwardpass.models.activations import UNIT_ROUNDOFF
from forwardpass.models.forward import propagate
from forwardpass.models.rounding import bounds_of, rounded_up
from forwardpass.models.rows import typical_rows
from forwardpass.proto.metadata import Samples

if TYPE_CHECKING:
    from forwardpass.models.network import Network

_COUNT = 4


def reference_samples(network: "Network") -> Samples | None:
    """Return a handful of typical rows, their answers, and how far float32 may be from these.

    Rows for which float32 may overflow are left out: there is no answer to hold a runtime to.
    None if that leaves no row.
    """
    rows = typical_rows(network.input, _COUNT)
    values = propagate(network, rows)
    bounds = bounds_of(network, rows, values)
    sure = np.all([np.isfinite(bound).all(axis=1) for bound in bounds.values()], axis=0)
    if not sure.any():
        return None
    answers = {name: values[name][sure] for name in bounds}
    return Samples(
        inputs={network.input.name: rows[sure]},
        outputs={name: answer.astype(np.float32) for name, answer in answers.items()},
        tolerance={
            # The answers are rounded to float32 as well.
            name: rounded_up(float((bounds[name][sure] + UNIT_ROUNDOFF * np.abs(answer)).max()))
            for name, answer in answers.items()
        },
    )
