"""From a source to its answers on the wire: in every container, on both transports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forwardpass.client import Client
from forwardpass.models import Network, publish
from forwardpass.server.config import Transport
from support.containers import by_name, by_position
from support.living import serving

TOLERANCE = 2e-5
"""Maximum error relative to the largest magnitude of an output, or 1: float32 on both sides."""


@dataclass(frozen=True)
class Imported:
    """A network, and its source's answers to rows."""

    network: Network
    x: NDArray[np.float32]
    expected: Mapping[str, NDArray[Any]]
    """The answers by output, in the precision of the source."""


def assert_served_alike(sources: Sequence[Imported], folder: Path, seed: int) -> None:
    """Serve networks on each transport, and call them with each container of their rows.

    Columns that have names come in another order.
    """
    rng = np.random.default_rng(seed)
    for number, source in enumerate(sources):
        publish(replace(source.network, name=f"m{number}"), folder)
    for transport in Transport:
        with serving(folder, transport=transport) as served:
            with Client(f"127.0.0.1:{served.server.port}") as client:
                for number, source in enumerate(sources):
                    _assert_called_alike(client, f"m{number}", source, rng)


def _assert_called_alike(
    client: Client, name: str, source: Imported, rng: np.random.Generator
) -> None:
    x, features = source.x, source.network.input.features
    order = rng.permutation(len(features)).tolist()
    for what, rows in [*by_position(x), *by_name(x, features, order)]:
        prediction = client.predict(name, rows)
        _assert_close(prediction, source.expected, f"{what} for {source.network}")
    for row in range(min(2, len(x))):
        one = {feature: x[row, k] for k, feature in enumerate(features)}
        rows_of_one = {
            "a row": x[row],
            "a list": x[row].tolist(),
            "a dict": one,
            "a Series": pd.Series(one).iloc[order],
        }
        for what, values in rows_of_one.items():
            expected = {output: answers[row] for output, answers in source.expected.items()}
            _assert_close(client.predict(name, values), expected, f"{what} for {source.network}")


def _assert_close(
    prediction: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], what: str
) -> None:
    assert list(prediction) == list(expected)
    for name, values in expected.items():
        assert prediction[name].shape == values.shape
        off = np.abs(prediction[name] - values).max() / max(1.0, np.abs(values).max())
        assert off <= TOLERANCE, f"{name} off by {off:.1e}: {what}"
