import copy
import pickle

import numpy as np
import pytest

from forwardpass.models import (
    AnyActivation,
    Dense,
    Elu,
    HardSigmoid,
    Layer,
    LeakyRelu,
    Network,
    NetworkError,
    PRelu,
)

W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
B = np.array([0.5, -0.5])


def layer(name="hidden", W=W, b=B, activation="relu", reads=("x",)):
    return Layer(name, W, b, activation, reads)


def test_a_layer_holds_float32_copies_that_nobody_can_change() -> None:
    mine = W.copy()
    made = layer(W=mine)
    mine[0, 0] = 99
    assert made.W.dtype == made.b.dtype == np.float32
    assert made.W[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        made.W[0, 0] = 99
    with pytest.raises(ValueError, match="read-only"):
        made.b[0] = 99


def test_units_are_the_rows_of_the_weights() -> None:
    assert layer().units == 2


def test_equality_is_that_of_every_bit() -> None:
    assert layer() == layer()
    assert hash(layer()) == hash(layer())
    assert layer(b=[0.0, 1.0]) != layer(b=[-0.0, 1.0])
    assert layer(activation="tanh") != layer()
    assert layer(reads=("a", "b")) != layer(reads=("b", "a"))
    assert layer() != "hidden"


def test_copies_and_pickles_are_equal_and_read_only() -> None:
    for again in (copy.deepcopy(layer()), pickle.loads(pickle.dumps(layer()))):
        assert again == layer()
        assert not again.W.flags.writeable


def test_repr_says_what_it_is_without_its_numbers() -> None:
    assert repr(layer(reads=("a", "x"))) == "<Layer 'hidden': 2 relu units that read a, x>"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"W": [1.0, 2.0]}, r"layer 'hidden': expected W of shape \(s_out, s_in\), got shape \(2,"),
        ({"W": np.zeros((2, 0))}, r"expected W of shape .* got shape \(2, 0\)"),
        ({"b": [1.0]}, r"layer 'hidden': expected b of shape \(2,\), .* got shape \(1,\)"),
        ({"b": [[1.0], [2.0]]}, r"expected b of shape \(2,\), .* got shape \(2, 1\)"),
        ({"W": [[1.0, np.nan]], "b": [0]}, r"layer 'hidden': expected finite W, got nan at \[0, 1"),
        ({"b": [1.0, -np.inf]}, r"layer 'hidden': expected finite b, got -inf at \[1\]"),
        ({"W": W * 1e39}, r"expected W within float32's range .* got 1e\+39 at \[0, 0\]"),
        ({"W": W * 1j}, r"expected W of real numbers, got dtype complex128"),
        ({"W": [["1", "2"]]}, r"expected W of real numbers, got dtype <U1"),
        ({"W": [[1.0], [1.0, 2.0]]}, r"expected W as an array, got .*; pass rows of one length"),
        ({"activation": "swish"}, r"expected activation to be one of identity, .* got 'swish'"),
        ({"reads": ()}, r"layer 'hidden': expected at least one layer to read, got none"),
        ({"reads": ("a", "b", "a")}, r"expected every layer read once, got 'a' twice"),
        ({"name": ""}, r"layer name: expected a name .* got ''"),
    ],
)
def test_a_fault_is_named_with_what_was_expected_and_what_came(fault, message) -> None:
    with pytest.raises(NetworkError, match=message):
        layer(**fault)


@pytest.mark.parametrize("name", ["a/b", "a\\b", " a", "a ", ".a", "a\nb", "\ud800", 3, None])
def test_names_that_cannot_name_a_tensor_or_a_folder_are_refused(name) -> None:
    with pytest.raises(NetworkError, match="expected a name of printable characters"):
        layer(name=name)


@pytest.mark.parametrize("name", ["L2", "malignant probability", "é", "a.b:0"])
def test_any_other_printable_name_will_do(name) -> None:
    assert layer(name=name).name == name


def test_an_error_carries_its_parts() -> None:
    with pytest.raises(NetworkError) as caught:
        layer(b=[1.0])
    error = caught.value
    assert (error.subject, error.got) == ("layer 'hidden'", "shape (1,)")
    assert error.expected == "b of shape (2,), one per row of W"
    assert error.fix == "pass one bias per unit"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"units": 0}, r"layer 'h': expected units to be a whole number from 1 on, got 0"),
        ({"units": 2.5}, r"expected units to be a whole number from 1 on, got 2\.5"),
        ({"units": True}, r"expected units to be a whole number from 1 on, got True"),
        ({"units": 2, "activation": "rrelu"}, r"layer 'h': expected activation .* got 'rrelu'"),
        ({"units": 2, "init": "zeros"}, r"layer 'h': expected init to be .* got 'zeros'"),
        ({"units": 2, "reads": []}, r"layer 'h': expected at least one layer to read"),
    ],
)
def test_what_is_written_down_wrongly_is_refused_at_once(fault, message) -> None:
    with pytest.raises(NetworkError, match=message):
        Dense("h", **fault)


def test_a_parameter_is_rounded_to_float32_as_in_the_file() -> None:
    assert LeakyRelu(0.2).slope == float(np.float32(0.2)) != 0.2
    assert PRelu(np.array([0.1, 0.3])).slopes == (float(np.float32(0.1)), float(np.float32(0.3)))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (LeakyRelu(), "leaky_relu"),
        (LeakyRelu(0.01), "leaky_relu"),
        (Elu(1), "elu"),
        (HardSigmoid(1 / 6), "hard_sigmoid"),
        (PRelu([0.25, 0.25]), "prelu"),
    ],
)
def test_a_usual_parameter_has_one_notation(given: AnyActivation, name: AnyActivation) -> None:
    assert layer(activation=given) == layer(activation=name)
    assert layer(activation=given).activation == name


def test_layers_of_other_parameters_differ_and_say_so() -> None:
    one, other = layer(activation=LeakyRelu(0.2)), layer(activation=LeakyRelu(0.3))
    assert one != other
    assert repr(one) == "<Layer 'hidden': 2 leaky_relu 0.2 units that read x>"
    assert str(Elu(2)) == "elu 2"
    assert str(HardSigmoid(1e-30)) == "hard_sigmoid 1e-30"
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert again == one


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeakyRelu(np.nan), "leaky_relu: expected finite numbers as slope, got nan"),
        (lambda: LeakyRelu(1e39), "leaky_relu: expected slope within float32's range, got 1e[+]39"),
        (lambda: Elu(0), "elu: expected alpha above zero and within float32's range, got 0"),
        (lambda: Elu(1e-60), "elu: expected alpha above zero"),
        (lambda: HardSigmoid(-1), "hard_sigmoid: expected slope above zero"),
        (
            lambda: PRelu("0.5"),  # type: ignore[arg-type]
            "prelu: expected a sequence of numbers as slopes",
        ),
        (
            lambda: Dense("h", 3, 0.2),  # type: ignore[arg-type]
            r"got 0.2; .* as in LeakyRelu\(0.2\)",
        ),
        (lambda: layer(activation=PRelu([0.5])), "expected 2 slopes of prelu, one per unit, got 1"),
        (lambda: Network.chain([2, 3, 1], PRelu([1, 2])), "layer 'L2': expected 3 slopes of prelu"),
    ],
)
def test_a_parameter_that_no_activation_has_is_refused(make, message) -> None:
    with pytest.raises(NetworkError, match=message):
        make()


def test_a_type_checker_finds_a_name_that_is_misspelled() -> None:
    # An error that mypy does not report is an ignore that it reports.
    for make in (
        lambda: Dense("h", 3, "sigmod"),  # type: ignore[arg-type]
        lambda: Network.chain([2, 3, 1], "reul"),  # type: ignore[arg-type]
        lambda: Network.chain([2, 3, 1], ["relu", "reul"]),  # type: ignore[list-item]
        lambda: Layer("h", W, B, "geluu", ("x",)),  # type: ignore[arg-type]
    ):
        with pytest.raises(NetworkError):
            make()
