"""tritonclient's gRPC client, as its examples use it; runs in an environment of its own."""

from collections.abc import Callable

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from benchmarks.clients import X, measure


def connect(target: str) -> Callable[[], np.ndarray]:
    """Return a call."""
    client = InferenceServerClient(target)

    def call() -> np.ndarray:
        x = InferInput("x", X.shape, "FP32")
        x.set_data_from_numpy(X)
        y: np.ndarray = client.infer("small", [x], client_timeout=30).as_numpy("y")
        return y

    return call


if __name__ == "__main__":
    measure(connect)
