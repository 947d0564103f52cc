"""Triton's classification extension, on arrays."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from forwardpass.server.classification import classify


def test_each_row_has_its_highest_columns_first() -> None:
    scores = np.array([[1, 3, 2], [6, 5, 4]], np.float32)

    assert classify(scores, 2, ()).tolist() == [
        [b"3.000000:1", b"2.000000:2"],
        [b"6.000000:0", b"5.000000:1"],
    ]


def test_labels_follow_their_columns() -> None:
    assert classify(np.array([1.0, 2.0]), 2, ["left", "größer"]).tolist() == [
        b"2.000000:1:" + "größer".encode(),
        b"1.000000:0:left",
    ]


@pytest.mark.parametrize(
    ("shape", "classes", "expected"),
    [
        ((), 1, (1,)),
        ((5,), 3, (3,)),
        ((2, 5), 9, (2, 5)),
        ((2, 3, 4), 2, (2, 3, 2)),
        ((0, 3), 2, (0, 2)),
    ],
)
def test_the_last_axis_becomes_the_classes(
    shape: tuple[int, ...], classes: int, expected: tuple[int, ...]
) -> None:
    assert classify(np.zeros(shape, np.float32), classes, ()).shape == expected


def test_equal_scores_keep_the_order_of_their_columns() -> None:
    columns = [text.split(b":")[1] for text in classify(np.ones(20), 20, ())]

    assert_array_equal(np.array(columns, int), np.arange(20))


def test_what_is_no_number_comes_last() -> None:
    assert classify(np.array([np.nan, -np.inf, 1.0]), 3, ()).tolist() == [
        b"1.000000:2",
        b"-inf:1",
        b"nan:0",
    ]


def test_integers_are_ordered_and_written_as_integers() -> None:
    assert classify(np.array([0, 255, 1], np.uint8), 3, ()).tolist() == [b"255:1", b"1:2", b"0:0"]


def test_a_column_without_a_label_has_none() -> None:
    scores = np.array([1, 2, 3], np.float32)

    assert classify(scores, 3, ["left", ""]).tolist() == [
        b"3.000000:2",
        b"2.000000:1",
        b"1.000000:0:left",
    ]
