import copy
import pickle

import numpy as np
import pytest

from forwardpass.models import Dense, Layer, NetworkError

W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
B = np.array([0.5, -0.5])


def layer(name="hidden", W=W, b=B, activation="relu", reads=("x",)):
    return Layer(name, W, b, activation, reads)


def test_a_layer_holds_float32_copies_that_nobody_can_change():
    mine = W.copy()
    made = layer(W=mine)
    mine[0, 0] = 99
    assert made.W.dtype == made.b.dtype == np.float32
    assert made.W[0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        made.W[0, 0] = 99
    with pytest.raises(ValueError, match="read-only"):
        made.b[0] = 99


def test_units_are_the_rows_of_the_weights():
    assert layer().units == 2


def test_equality_is_that_of_every_bit():
    assert layer() == layer()
    assert hash(layer()) == hash(layer())
    assert layer(b=[0.0, 1.0]) != layer(b=[-0.0, 1.0])
    assert layer(activation="tanh") != layer()
    assert layer(reads=("a", "b")) != layer(reads=("b", "a"))
    assert layer() != "hidden"


def test_copies_and_pickles_are_equal_and_read_only():
    for again in (copy.deepcopy(layer()), pickle.loads(pickle.dumps(layer()))):
        assert again == layer()
        assert not again.W.flags.writeable


def test_repr_says_what_it_is_without_its_numbers():
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
def test_a_fault_is_named_with_what_was_expected_and_what_came(fault, message):
    with pytest.raises(NetworkError, match=message):
        layer(**fault)


@pytest.mark.parametrize("name", ["a/b", "a\\b", " a", "a ", ".a", "a\nb", "\ud800", 3, None])
def test_names_that_cannot_name_a_tensor_or_a_folder_are_refused(name):
    with pytest.raises(NetworkError, match="expected a name of printable characters"):
        layer(name=name)


@pytest.mark.parametrize("name", ["L2", "malignant probability", "é", "a.b:0"])
def test_any_other_printable_name_will_do(name):
    assert layer(name=name).name == name


def test_an_error_carries_its_parts():
    with pytest.raises(NetworkError) as caught:
        layer(b=[1.0])
    error = caught.value
    assert (error.subject, error.got) == ("layer 'hidden'", "shape (1,)")
    assert error.expected == "b of shape (2,), one a row of W"
    assert error.fix == "pass one bias per unit"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"units": 0}, r"layer 'h': expected units to be a whole number from 1 on, got 0"),
        ({"units": 2.5}, r"expected units to be a whole number from 1 on, got 2\.5"),
        ({"units": True}, r"expected units to be a whole number from 1 on, got True"),
        ({"units": 2, "activation": "elu"}, r"layer 'h': expected activation .* got 'elu'"),
        ({"units": 2, "init": "zeros"}, r"layer 'h': expected init to be .* got 'zeros'"),
        ({"units": 2, "reads": []}, r"layer 'h': expected at least one layer to read"),
    ],
)
def test_what_is_written_down_wrongly_is_refused_at_once(fault, message):
    with pytest.raises(NetworkError, match=message):
        Dense("h", **fault)
