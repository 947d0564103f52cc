"""The data that the example networks are trained on, from scikit-learn's bundled sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_linnerud
from sklearn.model_selection import train_test_split

from forwardpass.models.zoo import breast_cancer, lecture_3_3_1, lecture_3_3_2, linnerud

_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Rows:
    """Features and truth of some rows."""

    x: NDArray[np.float64]
    """(N, n) raw features."""
    y: Mapping[str, NDArray[np.float64]]
    """By output name, (N, width), in the output's own unit."""

    def __getitem__(self, rows: NDArray[np.intp]) -> "Rows":
        return Rows(self.x[rows], {name: y[rows] for name, y in self.y.items()})


@dataclass(frozen=True, eq=False)
class Dataset:
    """All rows of one example network, and how to split them."""

    rows: Rows
    held_out: float | int
    """Part or number of the rows that training never sees."""
    strata: NDArray[Any] | None = None
    """(N,) class of each row: both parts have them in the same proportion; None if no classes."""

    def split(self) -> tuple[Rows, Rows]:
        """Return the rows to train on, and those held out; always the same ones."""
        train, held_out = self._split()
        return self.rows[train], self.rows[held_out]

    def held_out_strata(self) -> NDArray[Any]:
        """Return the class of each row held out; raises ValueError if there are no classes."""
        if self.strata is None:
            raise ValueError("these rows have no classes")
        return self.strata[self._split()[1]]

    def _split(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        train, held_out = train_test_split(
            np.arange(len(self.rows.x)),
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
