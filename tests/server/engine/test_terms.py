"""What an operator may say of a model's tensors, and what callers see then."""

import pytest

from forwardpass.proto.spec import TensorSpec
from forwardpass.server.engine.terms import Reshape, Shape, TensorTerms, TermsError, apply

X = TensorSpec("x", "FP32", (-1, 3, -1), ("n", None, "m"))


def seen(terms: TensorTerms, spec: TensorSpec = X, kind: str = "input") -> TensorSpec:
    specs, _ = apply(kind, [spec], {spec.name: terms}, by_rows=False)
    return specs[spec.name]


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [
        (None, (-1, 3, -1)),
        ((-1, 3, -1), (-1, 3, -1)),
        ((-1, -1, -1), (-1, 3, -1)),
        ((2, 3, 5), (2, 3, 5)),
    ],
)
def test_a_length_is_fixed_by_the_graph_or_the_operator(wanted: Shape | None, shape: Shape) -> None:
    assert seen(TensorTerms("FP32", wanted)) == TensorSpec("x", "FP32", shape, X.symbols)


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        (TensorTerms("INT32"), "input 'x': configured as INT32, in the graph x: FP32[-1, 3, -1]"),
        (TensorTerms(shape=(-1, 4, -1)), "configured as [-1, 4, -1]"),
        (TensorTerms(shape=(-1, 3)), "configured as [-1, 3]"),
        (TensorTerms(shape=(-1, 3, -1), graph_shape=(-1, 3)), "configured as [-1, 3]"),
        (TensorTerms(shape=(-1, 3, -1), graph_shape=(-1, -1, 3)), "configured as [-1, -1, 3]"),
        (TensorTerms(shape=(-1, 4, -1), graph_shape=(-1, 3, -1)), "differ in their elements"),
        (TensorTerms(shape=(-1, 3), graph_shape=(-1, 3, -1)), "differ in their elements"),
        (TensorTerms(shape=(3, -1, -1), graph_shape=(-1, 3, -1)), "differ in their elements"),
    ],
)
def test_what_contradicts_the_graph_is_refused(terms: TensorTerms, says: str) -> None:
    with pytest.raises(TermsError) as caught:
        seen(terms)

    assert says in str(caught.value)


def test_a_name_that_the_graph_does_not_have_is_refused() -> None:
    with pytest.raises(TermsError, match="output 'z': the graph has 'x'"):
        apply("output", [X], {"z": TensorTerms()}, by_rows=False)


def test_a_maximum_of_rows_needs_an_axis_of_rows() -> None:
    fixed = TensorSpec("y", "FP32", (1, 3))
    apply("input", [X], {}, by_rows=True)
    with pytest.raises(TermsError, match="'y': a maximum of rows needs an axis 0"):
        apply("input", [X, fixed], {}, by_rows=True)


def test_an_outputs_length_that_the_graph_leaves_open_is_not_reshaped() -> None:
    terms = TensorTerms(shape=(2, 15), graph_shape=(2, 3, 5))
    assert seen(terms).shape == (2, 15)
    with pytest.raises(TermsError, match="configured as"):
        seen(terms, kind="output")


@pytest.mark.parametrize(
    ("callers", "graphs", "sent", "run"),
    [
        ((-1, 12), (-1, 3, 2, 2), (5, 12), (5, 3, 2, 2)),
        ((-1, 1), (-1,), (7, 1), (7,)),
        ((-1, 2, -1, 3), (-1, 1, 2, -1, 3), (4, 2, 9, 3), (4, 1, 2, 9, 3)),
        ((6,), (2, 3), (6,), (2, 3)),
        ((-1, 12), (-1, 3, 4), (0, 12), (0, 3, 4)),
    ],
)
def test_lengths_correspond_in_their_order(
    callers: Shape, graphs: Shape, sent: Shape, run: Shape
) -> None:
    reshape = Reshape(callers, graphs)

    assert reshape.to_graph(sent) == run
    assert reshape.to_caller(run) == sent


def test_a_shape_of_other_elements_is_not_reshaped() -> None:
    with pytest.raises(ValueError, match="does not have the elements"):
        Reshape((-1, 12), (-1, 3, 4)).to_caller((2, 3, 5))
