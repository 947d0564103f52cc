"""The answer to one call: named arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.client.timing import Timing
from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import format_shape

_SHOWN = 6
"""Elements of an output that its repr shows before it leaves out the middle."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction(Mapping[str, NDArray[Any]]):
    """The outputs by name, in the model's order or the order asked.

    The arrays are read-only: `.copy()` one to change it. BYTES outputs hold bytes objects.
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
    """Labels and units by output name, of the outputs for which the model tells them."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._outputs[name]
        except KeyError:
            raise KeyError(f"no output {name!r}; there are {', '.join(self._outputs)}") from None

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
