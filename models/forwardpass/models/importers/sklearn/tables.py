"""What passes between the steps of a scikit-learn pipeline: tables, and sums of their columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import AnyActivation
from forwardpass.models.errors import UnsupportedSourceError

RAW = ""
"""The source of the columns of numbers that a caller sends."""

MAX_COLUMNS = 2**13
"""Maximum columns of a step that computes each by itself in a layer."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns side by side, each (value - mean) / scale of one column of a source.

    Selecting, joining and scaling columns makes no layer.
    """

    sources: tuple[str, ...]
    """For each column the step that computes it, the input of categories, or RAW."""
    at: NDArray[np.intp]
    """For each column its number in its source."""
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, source: str, width: int) -> "Table":
        """Return all columns of a source as they are."""
        return cls((source,) * width, np.arange(width), np.zeros(width), np.ones(width))

    @classmethod
    def joined(cls, tables: Sequence["Table"]) -> "Table":
        """Return the columns of all tables side by side; of none it has no columns."""
        if not tables:
            return cls.of(RAW, 0)
        return cls(
            tuple(source for table in tables for source in table.sources),
            np.concatenate([table.at for table in tables]),
            np.concatenate([table.mean for table in tables]),
            np.concatenate([table.scale for table in tables]),
        )

    def __len__(self) -> int:
        return len(self.at)

    def columns(self, at: NDArray[np.intp]) -> "Table":
        """Return some columns, by their numbers."""
        sources = tuple(self.sources[k] for k in at)
        return Table(sources, self.at[at], self.mean[at], self.scale[at])

    def scaled(self, mean: ArrayLike, scale: ArrayLike) -> "Table":
        """Return (value - mean) / scale, column by column."""
        scales = self.scale * np.asarray(scale)
        return Table(self.sources, self.at, self.mean + self.scale * np.asarray(mean), scales)

    def runs(self) -> Iterator["Table"]:
        """Yield neighbors of one source, among which no column occurs with two scalings."""
        start, seen = 0, dict[int, tuple[float, float]]()
        for k, source in enumerate(self.sources):
            scaling = self.mean[k], self.scale[k]
            if source != self.sources[start] or seen.get(self.at[k], scaling) != scaling:
                yield self.columns(np.arange(start, k))
                start, seen = k, {}
            seen[self.at[k]] = scaling
        yield self.columns(np.arange(start, len(self)))

    def key(self) -> tuple[object, ...]:
        """Return what equal tables have in common."""
        return self.sources, self.at.tobytes(), self.mean.tobytes(), self.scale.tobytes()


@dataclass(frozen=True, eq=False)
class Sums:
    """W a + b of a table; a layer is made of it where it is used."""

    table: Table
    W: NDArray[np.float64]
    """The weights (s_out, columns of the table)."""
    b: NDArray[np.float64]
    """The bias (s_out,)."""

    @classmethod
    def of(cls, table: Table) -> "Sums":
        """Return the columns of a table as they are.

        Raises UnsupportedSourceError for more than MAX_COLUMNS, which take a matrix.
        """
        if len(table) > MAX_COLUMNS:
            raise UnsupportedSourceError(
                "columns",
                f"{len(table)} of them in a step that takes a matrix of that size",
                "select or project them first",
            )
        return cls(table, np.eye(len(table)), np.zeros(len(table)))

    def stretched(self, factor: ArrayLike, offset: ArrayLike = 0.0) -> "Sums":
        """Return factor * sums + offset, sum by sum."""
        factors = np.broadcast_to(np.asarray(factor, np.float64), self.b.shape)
        b = self.b * factors + np.asarray(offset, np.float64)
        return Sums(self.table, self.W * factors[:, np.newaxis], b)

    def through(self, W: NDArray[np.float64], b: ArrayLike = 0.0) -> "Sums":
        """Return W sums + b."""
        return Sums(self.table, W @ self.W, W @ self.b + np.asarray(b, np.float64))


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What an estimator answers, before an output or another estimator reads it."""

    sums: Sums
    activation: AnyActivation = "identity"
    classes: tuple[str, ...] = ()
    """The classes, or the labels of a multilabel classifier; empty for a regressor. Two classes of
    one column are the column's: the second above the threshold."""
    thresholds: tuple[float, ...] = ()
    """For each column that decides by itself the value above which `predict` does."""
    method: str = "predict"
    """The method of the estimator that returns it."""
    decision: Sums | None = None
    """What `decision_function` returns, if the estimator has it too."""

    @property
    def is_binary(self) -> bool:
        """Whether it is one column for two classes."""
        return len(self.classes) == 2 and len(self.sums.b) == 1
