"""A scikit-learn estimator's own answers, for comparison."""

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.importers.agreement import Reading
from forwardpass.models.importers.sklearn.columns import Columns, unsupported
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.trial_rows import probe_feed


class Ask:
    """A function from rows to a model's own answers."""

    def __init__(
        self,
        model: Any,
        columns: Columns,
        numbers: Sequence[int],
        method: str,
        widths: Sequence[int],
    ) -> None:
        self._model = model
        self._columns = columns
        self._numbers = list(numbers)
        self._method = method
        self._widths = widths

    def __call__(
        self, rows: NDArray[np.float64] | Mapping[str, NDArray[Any]]
    ) -> Sequence[NDArray[Any]]:
        """Return an array for each output, two probabilities as the second."""
        answers = getattr(self._model, self._method)(self.table(rows))
        several = answers if isinstance(answers, list) else [answers]
        return [self._answer(*each) for each in zip(several, self._widths, strict=True)]

    def table(self, rows: NDArray[np.float64] | Mapping[str, NDArray[Any]]) -> Any:
        """Return rows in the form in which the model was fitted: columns may be found by name."""
        if isinstance(rows, Mapping):
            count = len(next(iter(rows.values())))
            array = np.zeros((count, len(self._columns.names)), object)
            for place, name in enumerate(self._columns.names):
                if name in self._columns.categories:
                    array[:, place] = self._categories(name, rows[name][:, 0])
            others = [part for name, part in rows.items() if name not in self._columns.categories]
            for part in others:
                array[:, self._numbers] = part
        else:
            array = np.zeros((len(rows), len(self._columns.names)))
            array[:, self._numbers] = rows
        if not self._columns.named:
            return array
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            return array
        return pandas.DataFrame(array, columns=list(self._columns.names)).infer_objects()

    def check_labels(self, network: Network, reading: Reading) -> None:
        """Compare the labels that a network's outputs give a few rows with what `predict` returns.

        Rows between two labels are left out. Raises UnsupportedSourceError, which names the row.
        """
        rows = probe_feed(network.inputs)
        one = len(rows) == 1 and isinstance(network.inputs[0], Input)
        answers = network(next(iter(rows.values())) if one else rows)
        with warnings.catch_warnings(action="ignore"):
            predicted = np.asarray(self._model.predict(self.table(reading.asked(rows))))
        for number, output in enumerate(network.outputs):
            theirs = predicted if len(network.outputs) == 1 else predicted[:, number]
            ours, clear = _decided(output, answers[output.name])
            differs = (ours != theirs.astype(ours.dtype).reshape(ours.shape)) & clear
            if differs.any():
                row = int(np.nonzero(differs)[0][0])
                raise unsupported(
                    f"labels of output {output.name!r}, probe row {row}",
                    f"expected {theirs[row]} by predict, got {ours[row]}",
                )

    def _categories(self, name: str, values: NDArray[Any]) -> list[Any]:
        absent = self._columns.absent
        missing = self._columns.categories[name].missing_value
        return [absent[name] if name in absent and each == missing else each for each in values]

    def _answer(self, answers: Any, width: int) -> NDArray[Any]:
        values = np.asarray(answers)
        both = self._method == "predict_proba" and values.ndim == 2 and values.shape[1] == 2
        return values[:, 1:] if both and width == 1 else values


_NEAR = 1e-5
"""Maximum distance from a threshold, or between two values, at which labels may differ: relative
above 1."""


def _decided(output: Output, values: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the labels of rows, or 1 for each label that applies, and whether they are clear."""
    labels = np.array(output.labels)
    near = _NEAR * np.maximum(1.0, np.abs(values))
    if not output.thresholds:
        first, second = np.sort(values, axis=1)[:, :-3:-1].T
        return labels[values.argmax(axis=1)], ~(first - second <= near.max(axis=1))
    thresholds = np.array(output.thresholds)
    clear = ~(np.abs(values - thresholds) <= near)
    if len(thresholds) == 1:
        return labels[(values > thresholds).astype(int)[:, 0]], clear[:, 0]
    return (values > thresholds).astype(int), clear
