"""What all engines' tests score: a network with two heads, and a table with more than it takes."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from forwardpass.client import Prediction
from forwardpass.models import Dense, Input, Network, Output

FEATURES = ("length", "width", "leaf mass", "it's")
ANSWERS = ("risk.low", "risk.high", "risk", "height.tall")


def network() -> Network:
    return Network.define(
        Input(4, features=FEATURES),
        [
            Dense("trunk", 16, "tanh"),
            Dense("risk", 2, "softmax", "trunk"),
            Dense("height", 1, "identity", "trunk"),
        ],
        [
            Output("risk", "risk", labels=("low", "high")),
            Output("height", "height", labels=("tall",), units=("m",)),
        ],
        name="plants",
    )


def frame(count: int) -> pa.Table:
    """Rows in another order of columns than the model's, with an id and a text."""
    numbers = np.random.default_rng(7).standard_normal((count, 4), np.float32)
    columns = dict(zip(FEATURES, numbers.T, strict=True))
    return pa.table(
        {"id": np.arange(count), "note": ["n"] * count}
        | {name: columns[name] for name in reversed(FEATURES)}
    )


def pieces(table: pa.Table, seed: int) -> list[pa.Table]:
    """The table cut anywhere, rows alone and an empty piece among them."""
    rng = np.random.default_rng(seed)
    cuts = {0, 1, 2, len(table), *rng.integers(0, len(table), 30).tolist()}
    ends = sorted(cuts)
    parts = [table.slice(a, b - a) for a, b in pairwise(ends)]
    return [*parts[:3], table.slice(0, 0), *parts[3:]]


@dataclass(frozen=True)
class Expected:
    """The answers of `load`."""

    prediction: Prediction

    def check(self, answers: pa.Table, ids: str = "id") -> None:
        """Compare answers in any order, bit for bit."""
        assert answers.column_names == [ids, *ANSWERS]
        answers = answers.sort_by(ids)
        assert answers[ids].to_pylist() == list(range(len(self.prediction["risk"])))
        table = self.prediction.table()
        for name in ANSWERS:
            if name == "risk":
                assert answers[name].to_pylist() == table[name]
            else:
                got = answers[name].to_numpy()
                assert got.dtype == np.float32
                assert got.tobytes() == table[name].tobytes(), name
