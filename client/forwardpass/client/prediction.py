"""The answer to one call: named arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.spec import format_shape

if TYPE_CHECKING:
    from forwardpass.client.timing import Timing
    from forwardpass.proto.metadata import ColumnNames

_SHOWN = 6
"""Elements of an output that its repr shows before it leaves out the middle."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction(Mapping[str, NDArray[Any]]):
    """The outputs by name, in the model's order or the order asked.

    An output is `prediction["risk"]`, or `prediction.risk` where nothing else has that name. The
    arrays are read-only: `.copy()` one to change it. BYTES outputs hold bytes objects.
    """

    _outputs: Mapping[str, NDArray[Any]] = field(repr=False)
    model: str
    """Name of the model that answered, as the server gives it."""
    version: str
    """Version that answered; empty where the server does not tell."""
    id: str = ""
    """The server's identifier of the call; empty where it gives none."""
    timing: Timing | None = None
    """Where the time of the call went, if `predict` was told to ask."""
    columns: Mapping[str, ColumnNames] = field(default_factory=dict)
    """Labels, units and thresholds of an output's columns, of the outputs whose file has some."""

    def label(self, output: str | None = None) -> Any:
        """Return the label of the largest column: for one row a text, else a list with one each.

        output: which one; None for the only one whose columns have labels.

        Raises ValueError if the model's file has no labels for its columns.
        """
        from forwardpass.client.verdicts import best_label

        name = self._labelled(output)
        return best_label(self[name], self._labels(name))

    def labels(
        self, output: str | None = None, *, thresholds: float | Sequence[float] | None = None
    ) -> Any:
        """Return the labels of the columns above their threshold: which of these hold.

        For one row a list, else a list of lists, one each; a row may have none.

        output: which one; None for the only one whose columns have labels.
        thresholds: one for all columns, or one for each; None for those of the model's file.

        Raises ValueError if there are no labels or thresholds for its columns.
        """
        from forwardpass.client.verdicts import labels_above

        name = self._labelled(output)
        if thresholds is None:
            thresholds = self._columns_of(name).thresholds
        return labels_above(name, self[name], self._labels(name), thresholds)

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._outputs[name]
        except KeyError:
            raise KeyError(f"no output {name!r}; there are {', '.join(self._outputs)}") from None

    def __getattr__(self, name: str) -> NDArray[Any]:
        # Asked for what is no attribute; while a copy is made, not even the outputs are.
        if not name.startswith("_") and name in self._outputs:
            return self._outputs[name]
        raise AttributeError(f"a Prediction has no attribute and no output {name!r}")

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *filter(str.isidentifier, self._outputs)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __eq__(self, other: object) -> bool:
        # Mapping's own would ask arrays for one truth value.
        if not isinstance(other, Prediction):
            return NotImplemented
        return (self.model, self.version, list(self)) == (
            other.model,
            other.version,
            list(other),
        ) and all(np.array_equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    def __repr__(self) -> str:
        version = f" version {self.version}" if self.version else ""
        lines = [f"<Prediction of {self.model!r}{version}"]
        for name, array in self._outputs.items():
            values = np.array2string(
                array, separator=", ", threshold=_SHOWN, edgeitems=2, max_line_width=10_000
            )
            dtype = "bytes" if array.dtype == object else array.dtype.name
            lines.append(
                f"  {name}: {dtype}{format_shape(array.shape)} = {' '.join(values.split())}"
            )
        return "\n".join(lines) + ">"

    def _repr_html_(self) -> str:
        # What a notebook shows, and nobody else needs.
        from forwardpass.client._html import prediction_table

        return prediction_table(self.model, self.version, self._outputs, self.columns)

    def _labelled(self, output: str | None) -> str:
        if output is not None:
            return output
        labelled = [name for name in self if self._columns_of(name).labels]
        if len(labelled) != 1:
            raise ValueError(
                f"output: expected its name, as {len(labelled)} of the outputs have labels "
                f"({', '.join(labelled) or 'none'}); pass one of {', '.join(self)}"
            )
        return labelled[0]

    def _labels(self, name: str) -> Sequence[str]:
        labels, width = self._columns_of(name).labels, self[name].shape[-1:]
        if width != (len(labels),):
            raise ValueError(
                f"output {name!r}: expected a label for each column of {format_shape(width)}, "
                f"got {len(labels)}; export the network with labels"
            )
        return labels

    def _columns_of(self, name: str) -> ColumnNames:
        from forwardpass.proto.metadata import ColumnNames

        return self.columns.get(name, ColumnNames())
