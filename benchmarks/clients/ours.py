"""`Client.predict`."""

from collections.abc import Callable

import numpy as np

from benchmarks.clients import X, measure
from forwardpass.client import Client


def connect(target: str) -> Callable[[], np.ndarray]:
    """Return a call."""
    client = Client(target)
    return lambda: client.predict("small", X)["y"]


if __name__ == "__main__":
    measure(connect)
