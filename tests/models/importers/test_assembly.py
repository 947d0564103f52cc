"""Steps of any source, against the same steps computed one by one in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardpass.models import Input, NetworkError, forward
from forwardpass.models.activations import activation_of
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.assembly import assemble
from forwardpass.models.importers.steps import (
    Activate,
    Head,
    Linear,
    Normalize,
    Operation,
    Select,
    Step,
    chain,
    real,
)

W = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])
B = np.array([0.5, -0.0])


def computed(source, steps, heads, x):
    """What the steps say, taken at their word."""
    a = x.astype(np.float64)
    if source.mean is not None:
        a = a - source.mean
    if source.scale is not None:
        a = a / source.scale
    values = {source.name: a}
    for step in steps:
        a = np.hstack([values[name] for name in step.reads])
        match step.operation:
            case Linear(W, b, activation):
                a = activation_of(activation).function(a @ W.T + (0.0 if b is None else b))
            case Normalize(mean, scale, factor, offset):
                mean, scale, factor, offset = map(np.asarray, (mean, scale, factor, offset))
                a = factor * (a - mean) / scale + offset
            case Select(at):
                a = a[:, at]
            case Activate(activation):
                a = activation_of(activation).function(a)
        values[step.name] = a
    return {head.name: np.hstack([values[name] for name in head.reads]) for head in heads}


def assembled(source, steps, heads):
    return assemble(source, steps, heads, name="n", provenance={})


def assembled_chain(*operations, source=None):
    """The network of a chain whose end is the output y."""
    source = source or Input(3)
    steps = chain(source.name, [(f"s{k}", each, f"part {k}") for k, each in enumerate(operations)])
    return assembled(source, steps, [Head(name="y", reads=(steps[-1].name,))])


def assert_computes(network, source, steps, heads):
    x = np.random.default_rng(1).standard_normal((20, source.size)).astype(np.float32)
    for name, expected in computed(source, steps, heads, x).items():
        got = forward(network, x)[name]
        assert np.abs(got - expected).max() <= 2e-6 * max(1.0, np.abs(expected).max())


KINDS = ["linear", "normalize", "normalize", "activate", "activate", "select", "select"]


@st.composite
def models(draw):
    """Any steps in any order on any earlier values, most of them read more than once."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    source = Input(draw(st.integers(1, 3)))
    if draw(st.booleans()):
        source = Input(
            source.size, mean=rng.standard_normal(source.size), scale=[0.5] * source.size
        )
    widths = {source.name: source.size}
    steps = []
    for k in range(draw(st.integers(1, 7))):
        reads = tuple(draw(st.lists(st.sampled_from(list(widths)), min_size=1, max_size=2)))
        if draw(st.booleans()):
            reads = (list(widths)[-1],)
        width = sum(widths[name] for name in reads)
        hidden = st.sampled_from(["identity", "relu", "tanh", "sigmoid"])
        kind = draw(st.sampled_from(KINDS))
        operation: Operation
        if kind == "linear":
            units = draw(st.integers(1, 3))
            b = rng.standard_normal(units) if draw(st.booleans()) else None
            operation = Linear(rng.standard_normal((units, width)), b, draw(hidden))
        elif kind == "normalize":
            scale = rng.uniform(0.5, 2, width)
            operation = Normalize(rng.standard_normal(width), scale)
            if draw(st.booleans()):
                operation = Normalize(0.5, scale, rng.standard_normal(width), -1.0)
            units = width
        elif kind == "select":
            units = draw(st.integers(1, 4))
            operation = Select(rng.integers(width, size=units))
            if draw(st.booleans()):
                operation, units = Select(np.arange(width)), width
        else:
            operation, units = Activate(draw(hidden)), width
        steps.append(Step(f"s{k}", operation, reads, f"part {k}"))
        widths[f"s{k}"] = units
    read = {name for step in steps for name in step.reads}
    heads = [
        Head(name=f"y{k}", reads=(step.name,))
        for k, step in enumerate(steps)
        if step.name not in read or draw(st.booleans())
    ]
    if draw(st.booleans()):
        # Before the others, which must not be given what is made for it.
        heads.insert(0, Head(name="both", reads=(steps[-1].name, source.name)))
    return source, steps, heads


@settings(max_examples=300)
@given(models())
def test_any_steps_become_a_network_that_computes_them(model) -> None:
    assert_computes(assembled(*model), *model)


def test_a_layer_keeps_its_bits_its_name_and_its_activation() -> None:
    network = assembled_chain(Linear(W, B), Activate("tanh"), Linear(np.eye(2), None, "sigmoid"))
    first, last = network.layers
    assert (first.name, first.activation, first.reads) == ("s0", "tanh", ("x",))
    assert first.W.tobytes() == W.astype(np.float32).tobytes()
    assert first.b.tobytes() == B.astype(np.float32).tobytes()
    assert (last.name, last.activation, last.b.tolist()) == ("s2", "sigmoid", [0, 0])
    assert network.input.mean is None
    assert network.input.scale is None


def test_normalizations_of_the_input_become_its_scaling() -> None:
    network = assembled_chain(
        Normalize([1.0, 2.0, 3.0], [2.0, 4.0, 8.0]),
        Normalize(mean=1.0, scale=0.5),
        Linear(W),
        source=Input(3, mean=[10, 20, 30], scale=[1, 1, 2]),
    )
    # ((x - 10) / 1 - 1) / 2, then less 1, over 0.5.
    np.testing.assert_array_equal(network.input.mean, [13, 26, 52])
    np.testing.assert_array_equal(network.input.scale, [1, 2, 8])
    assert network.layers[0].W.tolist() == W.tolist()


def test_a_normalization_after_one_that_shifts_and_stretches_is_not_scaling() -> None:
    network = assembled_chain(
        Normalize([1.0, 2.0, 3.0], 2.0, -3.0, 4.0), Normalize(1.0, 0.5), Linear(np.eye(3))
    )
    np.testing.assert_array_equal(network.input.mean, [1, 2, 3])
    np.testing.assert_array_equal(network.input.scale, [2, 2, 2])
    np.testing.assert_array_equal(network.layers[0].W, -6 * np.eye(3))
    np.testing.assert_array_equal(network.layers[0].b, [6, 6, 6])


def test_a_normalization_goes_into_the_layer_before_it_or_into_those_after_it() -> None:
    norm = Normalize(1.0, 2.0, -3.0, 4.0)
    before = assembled_chain(Linear(W, B), norm, Activate("relu"))
    assert [layer.activation for layer in before.layers] == ["relu"]
    np.testing.assert_array_equal(before.layers[0].W, (-1.5 * W).astype(np.float32))
    after = assembled_chain(Linear(W, B, "relu"), norm, Linear(np.eye(2)))
    assert [layer.activation for layer in after.layers] == ["relu", "identity"]
    np.testing.assert_array_equal(after.layers[1].W, -1.5 * np.eye(2))
    np.testing.assert_array_equal(after.layers[1].b, [5.5, 5.5])


def test_what_rounding_takes_from_the_mean_of_a_feature_far_from_zero_is_made_up_for() -> None:
    mean = np.array([1e6 + 1 / 32 + 1e-9, -3e5 - 0.01, 0.1])
    source, norm = Input(3), Normalize(mean, [1e-2, 1e-2, 1.0])
    steps = chain("x", [("norm", norm, "norm"), ("dense", Linear(W, B, "tanh"), "dense")])
    heads = [Head(name="y", reads=("dense",))]
    x = (mean + np.random.default_rng(0).standard_normal((50, 3)) * 0.1).astype(np.float32)
    expected = computed(source, steps, heads, x)["y"]
    assert np.abs(forward(assembled(source, steps, heads), x)["y"] - expected).max() < 1e-6


def test_an_activation_that_has_no_layer_of_its_own_gets_one() -> None:
    network = assembled_chain(Activate("sigmoid"), Activate("relu"))
    assert [(layer.name, layer.activation) for layer in network.layers] == [
        ("s0", "sigmoid"),
        ("s1", "relu"),
    ]
    np.testing.assert_array_equal(network.layers[0].W, np.eye(3))


def test_values_side_by_side_are_one_output_and_the_input_can_be_one() -> None:
    source = Input(3)
    steps = [Step("a", Linear(W), ("x",), "a"), Step("b", Linear(W, B, "relu"), ("x",), "b")]
    heads = [
        Head(name="both", reads=("a", "b")),
        Head(name="raw", reads=("x",), labels=("i", "j", "k")),
    ]
    network = assembled(source, steps, heads)
    assert_computes(network, source, steps, heads)
    assert [output.labels for output in network.outputs] == [(), ("i", "j", "k")]


@pytest.mark.parametrize("function", ["log_softmax", "exp"])
def test_an_activation_of_outputs_that_is_read_is_refused_by_name(function) -> None:
    with pytest.raises(UnsupportedSourceError, match=f"part 1: {function}, which part 2 reads"):
        assembled_chain(Linear(W), Activate(function), Linear(np.eye(2)))
    assert assembled_chain(Linear(W), Activate(function)).layers[0].activation == function


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Linear(W), r"part 1: expected W of shape \(s_out, 2\).* got shapes \(2, 3\)"),
        (Linear(np.eye(3)), r"part 1: expected W of shape \(s_out, 2\).* got shapes \(3, 3\)"),
        (Linear(np.eye(2), np.ones(1)), r"part 1: .* got shapes \(2, 2\) and \(1,\)"),
        (Linear(np.ones(2)), r"part 1: .* got shapes \(2,\)"),
        (Normalize(mean=np.zeros(3)), r"part 1: expected one number for each of the 2 features"),
        (Normalize(scale=[1.0, 0.0]), r"part 1: expected a scale above zero .* got 0"),
        (Normalize(scale=[np.nan, 1.0]), r"part 1: expected a scale above zero .* got nan"),
        (Linear(np.full((1, 2), np.nan)), r"layer 's1': expected finite W"),
        (Linear(np.full((1, 2), 1e39)), r"layer 's1': expected W within float32's range"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(operation, message) -> None:
    with pytest.raises(NetworkError, match=message):
        assembled_chain(Linear(W), operation)


def test_scalings_of_the_input_that_not_all_read_are_kept_apart() -> None:
    near, far = Normalize([1.0, 2.0, 3.0], 2.0, apart=True), Normalize(1e6, 1e-2, apart=True)
    source = Input(3)
    steps = [
        Step("near", near, ("x",), "near"),
        Step("far", far, ("x",), "far"),
        Step("a", Linear(W), ("near",), "a"),
        Step("some", Select(np.array([2, 0])), ("far",), "some"),
        Step("b", Linear(W[:, :2]), ("some",), "b"),
    ]
    heads = [Head(name="y", reads=("a", "b"))]
    network = assembled(source, steps, heads)
    assert [scaling.name for scaling in network.input.scalings] == ["near", "far"]
    assert network.input.mean is None
    assert network.layer("b").W.tolist() == [[-2, 0, 1], [3, 0, 0.25]]
    assert network.layer("b").b.tolist() == [0, 0]
    x = np.array([[1e6, 5, 1e6 + 0.25]], np.float32)
    assert forward(network, x)["y"][0, 2:].tolist() == pytest.approx([25, 6.25], rel=1e-6)


def test_two_parts_of_one_name_are_refused() -> None:
    steps = [Step("x", Linear(W), ("x",), "layer 'x'")]
    with pytest.raises(NetworkError, match=r"layer 'x': expected a name of its own, got 'x'"):
        assembled(Input(3), steps, [Head(name="y", reads=("x",))])


@pytest.mark.parametrize("values", [["a"], [1j], [True], [None], b"\x80\x04"])
def test_a_parameter_is_a_real_number(values) -> None:
    with pytest.raises(UnsupportedSourceError, match="tensor 'w': values of dtype"):
        real("tensor 'w'", "values", values)


def test_the_input_as_an_output_has_a_layer_of_another_name() -> None:
    network = assembled(
        Input(2), [], [Head(name="raw", reads=("x",)), Head(name="y", reads=("x",))]
    )
    assert [layer.name for layer in network.layers] == ["raw", "y"]
    with pytest.raises(NetworkError, match="tensors of different names, got 'x' twice"):
        assembled(Input(2), [], [Head(name="x", reads=("x",))])
