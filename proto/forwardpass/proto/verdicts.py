"""The verdicts of an output's columns: the label of each row, or the labels that apply to it.

Client, command line, notebook page and server all use this module. NaN is no answer: it comes
after every number, and a row of only NaN has no label.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import format_shape
from forwardpass.proto.tables import in_order

DEFAULT_THRESHOLD = 0.5
"""The threshold of one column of two classes if the file has none; above it is the second."""


def column_labels(labels: Sequence[str], width: int) -> tuple[str, ...]:
    """Return a label for each of `width` columns; empty if the labels do not fit them.

    Two labels of one column are its two classes: the column is the score of the second.
    """
    if is_two_class(labels, width):
        return (labels[1],)
    return tuple(labels) if len(labels) == width else ()


def column_headings(output: str, labels: Sequence[str], width: int) -> list[str]:
    """Return the names of an output's columns in a table: `risk.ill`, or `risk[0]`, or `risk`."""
    named = column_labels(labels, width)
    if named and len(set(named)) == width:
        return [f"{output}.{label}" for label in named]
    return [output] if width == 1 else [f"{output}[{index}]" for index in range(width)]


def is_two_class(labels: Sequence[str], width: int) -> bool:
    """Whether one column decides between two classes: the second above the threshold."""
    return width == 1 and len(labels) == 2


def decides_alone(names: ColumnNames) -> bool:
    """Whether an output of one column has a verdict by a threshold; one that measures has none."""
    labels = names.labels
    return len(labels) == 2 or (len(labels) == 1 and bool(names.thresholds or not any(names.units)))


def verdict_kind(names: ColumnNames, width: int) -> Literal["label", "labels"] | None:
    """Return the verdict of each row by default: one label, all labels that apply, or none.

    Columns with thresholds are decided one by one. A column with a unit is measured, and the
    largest one is no verdict.
    """
    if is_two_class(names.labels, width):
        return "label"
    if not names.labels or len(names.labels) != width:
        return None
    if names.thresholds:
        return "labels"
    return "label" if width > 1 and not any(names.units) else None


def ranked(scores: NDArray[Any]) -> NDArray[np.intp]:
    """Return the columns of each row from the highest: (..., n) -> (..., n).

    Equal scores keep the order of their columns; NaN comes last.
    """
    # Descending by sorting the reverse ascending, which is stable for any dtype; NaN, which
    # sorts highest, is put last.
    rank = np.argsort(scores[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    order = scores.shape[-1] - 1 - rank
    if scores.dtype.kind == "f":
        missing = np.isnan(np.take_along_axis(scores, order, axis=-1))
        order = np.take_along_axis(order, np.argsort(missing, axis=-1, kind="stable"), axis=-1)
    return np.asarray(order, np.intp)


def labels_of_rows(
    output: str, scores: NDArray[Any], names: ColumnNames, threshold: float | None = None
) -> Any:
    """Return the label of each row, None if all is NaN: (n,) -> a text, (k, n) -> k of them.

    One column: with two classes, the second above the threshold, else the first; with a single
    label, `LABEL` or `not LABEL`. Several columns: the label of the largest.

    threshold: that of one column, in place of the file's.

    Raises ValueError if the labels do not fit the columns, or do not decide one label per row.
    """
    width = _check_numbers(output, scores)
    labels = names.labels
    if width == 1 and len(labels) in (1, 2):
        if threshold is None and not decides_alone(names):
            raise ValueError(
                f"output {output!r}: expected a threshold for its column, which is measured in "
                f"{names.units[0]}, got none; pass threshold=..., or export the network with one"
            )
        limits = _limits(output, scores, 1, _first(threshold, names.thresholds))
        below = labels[0] if len(labels) == 2 else f"not {labels[0]}"
        return _by_row(scores, lambda row: labels[-1] if row[0] > limits[0] else below)
    _check_labels(output, labels, width)
    if threshold is not None:
        raise ValueError(
            f"output {output!r}: expected no threshold, as the largest of its {width} columns is "
            "the verdict, got one; call labels(thresholds=...) for those above it"
        )
    if names.thresholds:
        raise ValueError(
            f"output {output!r}: expected one label per row, got columns with thresholds, of which "
            "several may apply, or none; call labels() for them"
        )
    found = np.array([*labels, None], dtype=object)
    if scores.dtype.kind != "f" or not np.isnan(scores).any():
        # As `ranked`, which sorts: the first of the largest.
        best = scores.argmax(axis=-1)[..., np.newaxis]
    else:
        best = ranked(scores)[..., :1]
        best = np.where(np.isnan(np.take_along_axis(scores, best, axis=-1)), width, best)
    verdicts: Any = np.asarray(found[best[..., 0]], dtype=object).tolist()
    return verdicts


def labels_that_hold(
    output: str,
    scores: NDArray[Any],
    names: ColumnNames,
    thresholds: float | Sequence[float] | Mapping[str, float] | None = None,
) -> Any:
    """Return the labels of columns above their threshold: (n,) -> a list, (k, n) -> k of them.

    Of two classes in one column one always applies. None for a row in which no label is known to
    apply and some column is NaN: that none applies is not known either.

    thresholds: one for all columns, or one for each, in place of the file's; those that have names,
    as in a dict or a Series, are matched by them with the labels.

    Raises ValueError if labels or thresholds do not fit the columns.
    """
    width = _check_numbers(output, scores)
    decided = column_labels(names.labels, width)
    if not isinstance(thresholds, float | int | None):
        subject, fix = f"thresholds of output {output!r}", "give them in that order"
        thresholds = in_order(subject, decided, thresholds, otherwise=fix, what="labels")
    if is_two_class(names.labels, width):
        limits = _limits(
            output,
            scores,
            1,
            thresholds if thresholds is not None else _first(None, names.thresholds),
        )
        first, second = names.labels
        return _by_row(scores, lambda row: [second if row[0] > limits[0] else first])
    labels = names.labels
    _check_labels(output, labels, width)
    limits = _limits(output, scores, width, names.thresholds if thresholds is None else thresholds)

    def holding(row: NDArray[Any]) -> list[str] | None:
        held = [
            label for label, above in zip(labels, (row > limits).tolist(), strict=True) if above
        ]
        return held if held or row.dtype.kind != "f" or not np.isnan(row).any() else None

    return _by_row(scores, holding)


def _by_row(scores: NDArray[Any], decide: Callable[[NDArray[Any]], Any]) -> Any:
    """Return the decision for each row, nested as the leading axes; None if all is NaN."""
    if scores.ndim > 1:
        return [_by_row(row, decide) for row in scores]
    return None if scores.dtype.kind == "f" and np.isnan(scores).all() else decide(scores)


def _first(threshold: float | None, thresholds: Sequence[float]) -> float:
    if threshold is not None:
        return threshold
    return thresholds[0] if thresholds else DEFAULT_THRESHOLD


def _limits(output: str, scores: NDArray[Any], width: int, thresholds: Any) -> NDArray[Any]:
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.shape not in ((), (width,)):
        raise ValueError(
            f"output {output!r}: expected one threshold, or one for each of its {width} "
            f"columns, got {format_shape(limits.shape)}; pass e.g. thresholds=0.5, or export the "
            "network with thresholds"
        )
    if np.isnan(limits).any():
        # Nothing is above a NaN, which would look as if no label applied.
        raise ValueError(
            f"output {output!r}: expected numbers as thresholds, got NaN; pass e.g. 0.5"
        )
    if scores.dtype.kind == "f":
        # A column equal to the threshold, rounded to the column's dtype, is not above it.
        limits = limits.astype(scores.dtype)
    return np.broadcast_to(limits, (width,))


def _check_numbers(output: str, scores: NDArray[Any]) -> int:
    """Return the number of columns; raises ValueError if there are none, or no numbers."""
    if not scores.ndim or scores.dtype.kind not in "fiub":
        what = "bytes" if scores.dtype == object else str(scores.dtype)
        raise ValueError(
            f"output {output!r}: expected columns of numbers for its labels, got {what} of shape "
            f"{format_shape(scores.shape)}; read the output itself"
        )
    return int(scores.shape[-1])


def _check_labels(output: str, labels: Sequence[str], width: int) -> None:
    if len(labels) != width or not width:
        raise ValueError(
            f"output {output!r}: expected a label for each column of {format_shape((width,))}, "
            f"got {len(labels)}; export the network with labels"
        )
