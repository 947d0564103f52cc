"""How what is explained, and its attributions, are named."""

import pytest

from forwardpass.proto.explain import feature_names, read_target
from forwardpass.proto.metadata import ColumnNames
from forwardpass.proto.spec import TensorError, TensorSpec

X = TensorSpec("x", "FP32", (-1, 2))
MORE = TensorSpec("more", "FP32", (-1, 2))
ONE = TensorSpec("one", "FP32", (-1, 1))
KIND = TensorSpec("kind", "BYTES", (-1, 1))


@pytest.mark.parametrize(
    ("inputs", "labels", "wanted"),
    [
        ([X], {}, ()),
        ([X], {"x": ("a", "b")}, ("a", "b")),
        ([KIND], {}, ("kind",)),
        ([X, KIND], {}, ("x[0]", "x[1]", "kind")),
        ([X, ONE, MORE], {"x": ("a", "b")}, ("a", "b", "one", "more[0]", "more[1]")),
        # As a file of another producer may have them.
        ([X, MORE], {"x": ("a", "b"), "more": ("b", "c")}, ("a", "x.b", "more.b", "c")),
    ],
)
def test_every_column_has_a_name_of_its_own(
    inputs: list[TensorSpec], labels: dict[str, tuple[str, ...]], wanted: tuple[str, ...]
) -> None:
    assert feature_names(inputs, labels) == wanted


def test_a_score_is_named_by_the_class_that_it_is_of() -> None:
    columns = {"y": ColumnNames(labels=("no", "yes"))}
    output = [TensorSpec("y", "FP32", (-1, 1))]
    assert read_target("y:yes", output, columns) == read_target("y", output, {}) == ("y", 0)
    with pytest.raises(TensorError, match=r"a column of 'y': 0, or a label \(yes\), got 'no'"):
        read_target("y:no", output, columns)
