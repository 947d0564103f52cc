"""What is true of rows, in the form of an output: the y by which a network is judged."""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models import graph_names
from forwardpass.models.activations import activation_of, last_of
from forwardpass.models.arrays import by_name
from forwardpass.models.errors import NetworkError
from forwardpass.models.forward import propagate
from forwardpass.models.network import Network
from forwardpass.models.ports import Output
from forwardpass.proto.verdicts import is_two_class


def answers(network: Network, output: Output, x: Any) -> dict[str, NDArray[np.float64]]:
    """Return `z` and `a` of an output's layer for rows x, as `forward` takes them: (N, width) each.

    Raises TensorError like `forward`, and NetworkError for a single row and for answers that are
    not finite.
    """
    values = propagate(network, x)
    number = network.number(output.layer)
    found = {"z": values[graph_names.z(number)], "a": values[graph_names.a(number)]}
    for array in found.values():
        if array.ndim != 2 or not len(array):
            raise NetworkError(
                f"x for output {output.name!r}",
                expected="rows",
                got="a single one" if array.ndim == 1 else "none",
                fix="give an array of rows",
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise NetworkError(
                f"x for output {output.name!r}",
                expected="rows that the network answers with finite numbers",
                got=f"{array[bad[0]]} for row {bad[0]}",
                fix="leave such rows out",
            )
    return found


def is_classes(network: Network, output: Output) -> bool:
    """Whether the columns of an output's layer are classes of which one is true (softmax)."""
    name = activation_of(last_of(network.layer(output.layer).activation)).name
    return name in ("softmax", "log_softmax")


def class_labels(output: Output, width: int) -> tuple[str, ...]:
    """Return the labels of an output's classes: two of one column, else one of each; or none."""
    if width > 1 or is_two_class(output.labels, width):
        return output.labels
    return tuple(text for label in output.labels for text in (f"not {label}", label))


def class_numbers(output: Output, width: int, y: ArrayLike, rows: int) -> NDArray[np.intp]:
    """Return the class of each row: (rows,), from 0 on; one column has two.

    y: a class's number or its label for each row; of several classes also one column for each, of
    which one is 1.

    Raises NetworkError for anything else.
    """
    subject, labels, classes = _subject(output), class_labels(output, width), max(width, 2)
    given = _array(subject, y, rows)
    if given.ndim == 2 and given.shape[1] == classes and classes > 2:
        one = flags(output, width, y, rows)
        wrong = np.flatnonzero(one.sum(axis=1) != 1)
        if wrong.size:
            raise NetworkError(
                subject,
                expected="one class for each row",
                got=f"{int(one[wrong[0]].sum())} for row {wrong[0]}",
                fix="give the number of each row's class",
            )
        return np.asarray(one.argmax(axis=1), np.intp)
    if given.shape == (rows, 1):
        given = given[:, 0]
    if given.ndim != 1:
        raise NetworkError(
            subject,
            expected=f"one class for each row: shape ({rows},)",
            got=f"shape {given.shape}",
            fix="give its number, from 0 on, or its label",
        )
    if given.dtype.kind in "UO":
        numbers = {label: number for number, label in enumerate(labels)}
        for value in given.tolist():
            if value not in numbers:
                raise NetworkError(
                    subject,
                    expected=f"the labels {', '.join(map(repr, labels))}"
                    if labels
                    else f"numbers from 0 to {classes - 1}, since the output has no labels",
                    got=repr(value),
                    fix="give the number of each row's class, from 0 on",
                )
        return np.array([numbers[value] for value in given.tolist()], np.intp)
    whole = _whole(subject, given, classes - 1)
    texts = set(map(str, whole.tolist()))
    if texts <= set(labels) and labels != tuple(map(str, range(classes))):
        raise NetworkError(
            subject,
            expected="labels as texts, since numbers count classes from 0 on",
            got=f"numbers that are labels, too ({', '.join(map(repr, labels))})",
            fix="give y.astype(str) if they are the labels",
        )
    return whole


def flags(output: Output, width: int, y: ArrayLike, rows: int) -> NDArray[np.intp]:
    """Return 0 or 1 for each row and column: (rows, width).

    One column takes what `class_numbers` takes; columns of y that have names are matched by them
    with the labels.

    Raises NetworkError for anything else.
    """
    if width == 1:
        return class_numbers(output, width, y, rows)[:, np.newaxis]
    given = columns(output, width, y, rows)
    return _whole(_subject(output), given, 1)


def columns(output: Output, width: int, y: ArrayLike, rows: int) -> NDArray[Any]:
    """Return y as an array (rows, width); names of its columns are matched with the labels.

    Raises NetworkError for another shape, and for numbers that are not finite.
    """
    subject = _subject(output)
    matched: Any = y
    if np.ndim(y) == 2:
        matched = by_name(subject, "columns", output.labels, y, "labels")
    if matched is not y:
        matched = np.stack([*map(np.asarray, matched)], axis=-1)
    given = _array(subject, matched, rows)
    if given.ndim == 1:
        given = given[:, np.newaxis]
    if given.shape != (rows, width) or given.dtype.kind not in "biuf":
        raise NetworkError(
            subject,
            expected=f"numbers of shape ({rows}, {width}), one for each row and column",
            got=f"{given.dtype} of shape {given.shape}",
            fix="give what is true of each row of x",
        )
    if not np.isfinite(given).all():
        raise NetworkError(
            subject,
            expected="finite numbers",
            got=f"{given[~np.isfinite(given)][0]}",
            fix="leave rows out of which it is not known",
        )
    return given


def _array(subject: str, y: ArrayLike, rows: int) -> NDArray[Any]:
    try:
        given = np.asarray(y)
    except ValueError as error:  # rows of different lengths
        raise NetworkError(
            subject, expected="an array", got=str(error), fix="give rows of one length"
        ) from error
    if given.dtype == object and not any(isinstance(value, str) for value in given.flat):
        with suppress(TypeError, ValueError):  # numbers that a table holds as objects
            given = given.astype(np.float64)
    if given.ndim not in (1, 2) or len(given) != rows:
        raise NetworkError(
            subject,
            expected=f"{rows} rows, as x has",
            got=f"shape {given.shape}",
            fix="give what is true of each row of x",
        )
    return given


def _whole(subject: str, given: NDArray[Any], largest: int) -> NDArray[np.intp]:
    real = given.dtype.kind in "biuf"
    bad = given[~((given >= 0) & (given <= largest) & (given % 1 == 0))] if real else given.ravel()
    if bad.size:
        raise NetworkError(
            subject,
            expected=f"whole numbers from 0 to {largest}",
            got=repr(bad[0].item()),
            fix="count the classes from 0 on",
        )
    return given.astype(np.intp)


def _subject(output: Output) -> str:
    return f"y for output {output.name!r}"
