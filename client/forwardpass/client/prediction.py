"""The answer to one call: named arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.spec import format_shape

if TYPE_CHECKING:
    from pandas import DataFrame

    from forwardpass.client.timing import Timing
    from forwardpass.proto.metadata import ColumnNames

_SHOWN = 6
"""Maximum elements of an output that its repr shows without leaving out the middle."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction(Mapping[str, NDArray[Any]]):
    """The outputs by name, in the model's order or the requested order.

    An output is `prediction["risk"]`, or `prediction.risk` where nothing else has that name. The
    arrays are read-only: `.copy()` one to change it. BYTES outputs hold bytes objects. A sigmoid
    may be 1.0000001, a tanh 1.0000002, as onnxruntime rounds: clip one before `log(1 - p)`.
    """

    _outputs: Mapping[str, NDArray[Any]] = field(repr=False)
    model: str
    """Name of the model that answered, from the reply."""
    version: str
    """Version that answered; empty if the server does not report it."""
    id: str = ""
    """The server's identifier of the call; empty if there is none."""
    timing: Timing | None = None
    """The parts of the call's time, if `predict` was called with `timing=True`."""
    columns: Mapping[str, ColumnNames] = field(default_factory=dict)
    """Labels, units and thresholds of the outputs' columns, if the model's file has some."""
    single_row: bool = False
    """Whether x was one row without a row axis: the outputs have none either."""
    explained: str = ""
    """Name of the output that is explained, if `predict` was called with `explain`."""
    _index: Any = field(default=None, repr=False)
    """The labels of the rows given, as of a DataFrame; None if they had none."""
    _features: Sequence[str] = ()
    """Names of the features, if it is explained and they have some."""

    @property
    def attributions(self) -> Mapping[str | int, NDArray[Any]]:
        """Contribution of each feature to the explained column, by the feature's name, or index.

        An input of categories is one feature, of its own name. Features without names that are not
        those of the only input are `x`, or `x[0]`, `x[1]`, after the input.

        Raises ValueError if `predict` was called without `explain`.
        """
        from forwardpass.proto.explain import names

        if not self.explained:
            raise ValueError("attributions: expected a call with explain=..., got one without")
        array = self[names(self.explained)[0]]
        features: Sequence[str | int] = self._features or range(array.shape[-1])
        return {name: array[..., column] for column, name in enumerate(features)}

    def headings(self, output: str) -> tuple[str, ...]:
        """Return the names of an output's columns: labels, or features of attributions.

        Empty if they have none.
        """
        return self._about(output).labels

    def label(self, output: str | None = None, *, threshold: float | None = None) -> Any:
        """Return the label of each row: a text for one row, else a list of texts.

        With several columns, that of the largest. With one column of two classes, the second
        above the threshold, else the first; of a single label, `LABEL` or `not LABEL`. NaN comes
        after every number: the label of a row of only NaN is None.

        output: its name; None for the only output whose columns have labels.
        threshold: that of one column; None for that of the model's file, 0.5 if it has none.

        Raises ValueError if the model's file has no labels for its columns, or thresholds for
        several: then any number of labels may apply, which `labels` returns.
        """
        from forwardpass.proto.verdicts import labels_of_rows

        name = self._labeled(output)
        return labels_of_rows(name, self[name], self._columns_of(name), threshold)

    def labels(
        self,
        output: str | None = None,
        *,
        thresholds: float | Sequence[float] | Mapping[str, float] | None = None,
    ) -> Any:
        """Return the labels of the columns above their threshold: those that apply.

        For one row a list, else a list of lists; a row may have none. None for a row for which
        that is not known: no label applies, and some column is NaN.

        output: its name; None for the only output whose columns have labels.
        thresholds: one for all columns, or one for each, by label or in order; None for those of
        the model's file.

        Raises ValueError if there are no labels or thresholds for its columns.
        """
        from forwardpass.proto.verdicts import labels_that_hold

        name = self._labeled(output)
        return labels_that_hold(name, self[name], self._columns_of(name), thresholds)

    def table(self, *, labels: bool = True) -> dict[str, Any]:
        """Return columns by name, each with a value for each row, to make tables of.

        An output's columns are `output.label`, or `output[i]`; with labels the verdict is `output`.

        Raises ValueError for outputs that do not have a value for each row.
        """
        from forwardpass.client._table import table_of_rows

        explained = {
            name: array
            for name, array in self._outputs.items()
            if self.explained and name == f"explain.{self.explained}"
        }
        rest = {name: self[name] for name in self if name not in explained}
        tables = [
            table_of_rows(
                outputs,
                {name: self._about(name) for name in outputs},
                single_row=self.single_row,
                labels=labels and not explained.keys() & outputs.keys(),
            )
            for outputs in (rest, explained)
        ]
        return tables[0] | tables[1]

    def to_pandas(self, *, labels: bool = True) -> DataFrame:
        """Return the `table` as a DataFrame of pandas, which has to be installed.

        Its index is that of the DataFrame or Series that were given, or of an array of xarray; one
        row has the name of the Series.
        """
        from forwardpass.client._table import as_frame
        from forwardpass.proto.verdicts import verdict_kind

        texts = {
            name
            for name, array in self._outputs.items()
            if array.ndim and verdict_kind(self._columns_of(name), array.shape[-1]) == "label"
        }
        return as_frame(self.table(labels=labels), texts, self._index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the rows of the `table` (k,) as records, for `pandas.DataFrame(prediction)`.

        Raises TypeError for an array of numbers, as a prediction is several of them.
        """
        if dtype is not None and np.dtype(dtype) != object:
            raise TypeError(
                f"a Prediction is several arrays by name, not one of {np.dtype(dtype)}; take "
                "prediction[name], prediction.to_pandas() or prediction.table()"
            )
        from forwardpass.client._table import records_of_rows

        return records_of_rows(self.table())

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self._outputs[name]
        except KeyError:
            raise KeyError(f"no output {name!r}; there are {', '.join(self._outputs)}") from None

    def __getattr__(self, name: str) -> NDArray[Any]:
        # Called for names that are no attributes; while a copy is made, `_outputs` is none yet.
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
        # Mapping's own comparison needs one truth value of arrays, which raises.
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
        # Imported here: only notebooks need it.
        from forwardpass.client._html import prediction_table

        return prediction_table(self.model, self.version, self._outputs, self.columns)

    def _labeled(self, output: str | None) -> str:
        if output is not None:
            return output
        labeled = [name for name in self if self._columns_of(name).labels]
        if len(labeled) != 1:
            raise ValueError(
                f"output: expected its name, as {len(labeled)} of the outputs have labels "
                f"({', '.join(labeled) or 'none'}); pass one of {', '.join(self)}"
            )
        return labeled[0]

    def _about(self, name: str) -> ColumnNames:
        from forwardpass.proto.metadata import ColumnNames

        if self.explained and name == f"explain.{self.explained}":
            return ColumnNames(labels=tuple(self._features))
        return self._columns_of(name)

    def _columns_of(self, name: str) -> ColumnNames:
        from forwardpass.proto.metadata import ColumnNames

        return self.columns.get(name, ColumnNames())
