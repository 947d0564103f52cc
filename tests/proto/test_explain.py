"""How attributions are named."""

import pytest

from forwardpass.proto.explain import feature_names
from forwardpass.proto.spec import TensorSpec

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
