"""Triton's classification extension, on arrays."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from forwardpass.proto.metadata import ColumnNames
from forwardpass.server.rpc.classification import by_row, classify


def test_each_row_has_its_highest_columns_first() -> None:
    scores = np.array([[1, 3, 2], [6, 5, 4]], np.float32)

    assert classify(scores, 2, ColumnNames()).tolist() == [
        [b"3.000000:1", b"2.000000:2"],
        [b"6.000000:0", b"5.000000:1"],
    ]


def test_labels_follow_their_columns() -> None:
    assert classify(np.array([1.0, 2.0]), 2, ColumnNames(labels=("left", "größer"))).tolist() == [
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
    assert classify(np.zeros(shape, np.float32), classes, ColumnNames()).shape == expected


def test_equal_scores_keep_the_order_of_their_columns() -> None:
    columns = [text.split(b":")[1] for text in classify(np.ones(20), 20, ColumnNames())]

    assert_array_equal(np.array(columns, int), np.arange(20))


def test_what_is_no_number_comes_last() -> None:
    assert classify(np.array([np.nan, -np.inf, 1.0]), 3, ColumnNames()).tolist() == [
        b"1.000000:2",
        b"-inf:1",
        b"nan:0",
    ]


def test_integers_are_ordered_and_written_as_integers() -> None:
    assert classify(np.array([0, 255, 1], np.uint8), 3, ColumnNames()).tolist() == [
        b"255:1",
        b"1:2",
        b"0:0",
    ]


def test_a_column_without_a_label_has_none() -> None:
    scores = np.array([1, 2, 3], np.float32)

    assert classify(scores, 3, ColumnNames(labels=("left", ""))).tolist() == [
        b"3.000000:2",
        b"2.000000:1",
        b"1.000000:0:left",
    ]


@pytest.mark.parametrize(
    ("shape", "batched", "expected"),
    [
        ((2, 3, 4), True, (2, 12)),
        ((2, 3, 4), False, (24,)),
        ((2, 1, 2, 5), True, (2, 10)),
        ((0, 3, 4), True, (0, 12)),
        ((2, 5), True, (2, 5)),
        ((2, 5), False, (2, 5)),
        ((5,), True, (5,)),
    ],
)
def test_a_row_of_higher_rank_is_ranked_as_a_whole(
    shape: tuple[int, ...], batched: bool, expected: tuple[int, ...]
) -> None:
    scores = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    flat = by_row(scores, batched=batched)

    assert flat.shape == expected
    assert_array_equal(flat.ravel(), scores.ravel())


@pytest.mark.parametrize(
    ("names", "score", "text"),
    [
        (ColumnNames(labels=("benign", "malignant")), 0.02, b"0.020000:0:benign"),
        (ColumnNames(labels=("benign", "malignant")), 0.98, b"0.980000:1:malignant"),
        (ColumnNames(labels=("benign", "malignant"), thresholds=(0.01,)), 0.02,
         b"0.020000:1:malignant"),
        (ColumnNames(labels=("malignant",)), 0.02, b"0.020000:0"),
        (ColumnNames(labels=("malignant",)), 0.98, b"0.980000:0:malignant"),
        (ColumnNames(labels=("price",), units=("EUR",)), 0.02, b"0.020000:0:price"),
        (ColumnNames(labels=("benign", "malignant")), np.nan, b"nan:0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(1,), (2, 1), (3, 2, 1), (0, 1)])
def test_one_column_comes_with_its_verdict(
    names: ColumnNames, score: float, text: bytes, shape: tuple[int, ...]
) -> None:
    texts = classify(np.full(shape, score, np.float32), 2, names)

    assert texts.shape == shape
    assert set(texts.ravel()) == ({text} if texts.size else set())


def test_what_is_no_number_has_no_label() -> None:
    names = ColumnNames(labels=("left", "middle", "right"))

    assert classify(
        np.array([[np.nan, 0.9, 0.1], [np.nan] * 3], np.float32), 2, names
    ).tolist() == [
        [b"0.900000:1:middle", b"0.100000:2:right"],
        [b"nan:0", b"nan:1"],
    ]
