"""Weights by name, with a list of activations."""

import pickle
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support.imported import assert_imported

from forwardpass.models import ACTIVATIONS, ActivationName, Input, NetworkError
from forwardpass.models.errors import MissingLibraryError, UnsupportedSourceError
from forwardpass.models.importers.state import from_state

DEPTH = 12
NAMES = [f"layers.{2 * k}" for k in range(DEPTH)]
FUNCTIONS: list[ActivationName]
FUNCTIONS = ["tanh", "relu", "sigmoid", "identity", "tanh", "relu", "sigmoid", "identity"]
FUNCTIONS += ["tanh", "relu", "sigmoid", "softmax"]


def a_state(dtype=np.float32):
    """Twelve layers of one width: only their names tell their order."""
    rng = np.random.default_rng(0)
    state = {}
    for name in NAMES:
        state[f"{name}.weight"] = rng.standard_normal((4, 4)).astype(dtype)
        state[f"{name}.bias"] = rng.standard_normal(4).astype(dtype)
    return state


def answers(state, x):
    a = x.astype(np.float64)
    for name, function in zip(NAMES, FUNCTIONS, strict=True):
        W, b = (np.float64(state[f"{name}.{what}"]) for what in ("weight", "bias"))
        a = ACTIVATIONS[function].function(a @ W.T + b)
    return a


X = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)


@pytest.mark.parametrize("form", ["mapping", ".npz", "compressed .npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layers_are_in_natural_order_ten_after_two(form, dtype, tmp_path: Path) -> None:
    state = a_state(dtype)
    mixed = dict(sorted(state.items()))
    path: Any = tmp_path / f"net{form.split()[-1]}"
    match form:
        case "mapping":
            path = mixed
        case ".npz":
            np.savez(path, **mixed)
        case "compressed .npz":
            np.savez_compressed(path, **mixed)
        case ".safetensors":
            safetensors.numpy.save_file(mixed, path)
    network = from_state(path if form != ".npz" else str(path), FUNCTIONS)
    assert [layer.name for layer in network.layers] == NAMES
    assert [layer.activation for layer in network.layers] == FUNCTIONS
    assert_imported(network, X, {"y": answers(state, X)})
    if dtype == np.float32:
        for layer in network.layers:
            assert layer.W.tobytes() == state[f"{layer.name}.weight"].tobytes()
    source = "state" if form == "mapping" else path.name
    assert network.provenance == {"source": source}


def test_bfloat16_is_read_to_the_bit(tmp_path: Path) -> None:
    header = b'{"0.weight":{"dtype":"BF16","shape":[1,3],"data_offsets":[0,6]}}'
    values = struct.pack("<3H", 0x3F80, 0xC049, 0x0001)
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + values)
    network = from_state(path, ["identity"])
    expected = np.array([[0x3F800000, 0xC0490000, 0x00010000]], np.uint32).view(np.float32)
    assert network.layers[0].W.tobytes() == expected.tobytes()
    assert network.layers[0].b.tolist() == [0]


def test_names_labels_units_and_scaling_are_given() -> None:
    network = from_state(
        {"fc.weight": [[1.0, 2.0]]},
        ["sigmoid"],
        input=Input(2, "lab", ["a", "b"], mean=[1, 2], scale=[3, 4]),
        output="risk",
        labels=("ill",),
        units=("%",),
        name="risks",
        provenance={"source": "the lab", "fold": "3"},
    )
    assert (network.name, network.input.name, network.input.features) == (
        "risks",
        "lab",
        ("a", "b"),
    )
    assert (network.outputs[0].labels, network.outputs[0].units) == (("ill",), ("%",))
    assert network.provenance == {"source": "the lab", "fold": "3"}
    assert network([1.0, 6.0])["risk"] == pytest.approx(1 / (1 + np.exp(-2)))


def test_layers_of_unlike_names_are_in_the_order_given() -> None:
    state: dict[str, Any] = {"decoder.weight": np.eye(2), "encoder.weight": [[1, 1], [0, 1]]}
    with pytest.raises(NetworkError, match=r"in numbers, got decoder, encoder; .*layers=\['enc"):
        from_state(state, ["relu", "identity"])
    network = from_state(state, ["relu", "identity"], layers=["encoder", "decoder"])
    assert network.sizes == (2, 2, 2)
    assert network.layers[1].reads == ("encoder",)


@dataclass
class Linear:
    """As a module of Equinox is."""

    weight: Any
    bias: Any
    in_features: int = 4
    activation: Any = np.tanh


@dataclass
class Chain:
    layers: tuple[Linear, ...]


def a_tree(form):
    """Two square layers in the form of a library, and their W and b."""
    rng = np.random.default_rng(0)
    W, b = rng.standard_normal((2, 4, 4)), rng.standard_normal((2, 4))
    tree: Any
    match form:
        case "flax":
            parts = {f"Dense_{k}": {"kernel": W[k].T, "bias": b[k]} for k in range(2)}
            return {"params": parts}, ["Dense_0", "Dense_1"], W, b
        case "haiku":
            names = ["mlp/~/linear", "mlp/~/linear_1"]
            tree = {name: {"w": W[k].T, "b": b[k]} for k, name in enumerate(names)}
            return tree, ["mlp.linear", "mlp.linear_1"], W, b
        case _:
            tree = Chain(tuple(Linear(W[k], b[k] if k else None) for k in range(2)))
            b[0] = 0
            return tree, ["layers.0", "layers.1"], W, b


@pytest.mark.parametrize("form", ["flax", "haiku", "equinox"])
def test_a_tree_of_square_weights_is_read_by_their_names(form) -> None:
    tree, names, W, b = a_tree(form)
    network = from_state(tree, ["tanh", "identity"])
    assert [layer.name for layer in network.layers] == names
    x = X.astype(np.float64)
    assert_imported(network, X, {"y": np.tanh(x @ W[0].T + b[0]) @ W[1].T + b[1]})


def test_a_file_may_have_the_paths_of_a_tree(tmp_path: Path) -> None:
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]])
    arrays: dict[str, Any] = {"params/Dense_0/kernel": kernel}
    np.savez(tmp_path / "net.npz", **arrays)
    network = from_state(tmp_path / "net.npz", ["identity"])
    assert network.layers[0].name == "Dense_0"
    np.testing.assert_array_equal(network.layers[0].W, kernel.T)


SQUARE = np.ones((2, 2))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "state: no tensors in it"),
        ({"weight": SQUARE}, r"tensor 'weight' of state: of shape \(2, 2\), no parameter"),
        ({"0.gain": SQUARE}, r"tensor '0.gain' of state: of shape \(2, 2\), no parameter"),
        ({"0.weight": np.ones(2)}, r"tensor '0.weight' of state: of shape \(2,\), no parameter"),
        ({"0.weight": SQUARE, "0.bias": SQUARE}, r"tensor '0.bias' of state: of shape \(2, 2\)"),
        (
            {"0.weight": SQUARE, "1.running_mean": np.ones(2)},
            r"tensor '1.running_mean' of state: of shape \(2,\), no parameter of a dense layer",
        ),
        ({"0.weight": SQUARE, "1.bias": np.ones(2)}, "tensor '1.bias' of state: a bias without"),
        ({"0.weight": 1j * SQUARE}, "tensor '0.weight' of state: values of dtype complex128"),
        (
            {"0": {"weight": SQUARE, "kernel": SQUARE}},
            "'0.kernel' of state: a second W of layer '0'",
        ),
        (SQUARE, "state: a ndarray; expected a mapping of weights by name"),
        ({"0.weight": [["a", "b"]]}, "tensor '0.weight' of state: values of dtype <U1"),
    ],
)
def test_what_is_no_dense_layer_is_refused_by_name(state, message) -> None:
    with pytest.raises(UnsupportedSourceError, match=message):
        from_state(state, ["relu"])


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        ({"0.weight": np.ones((2, 3)), "1.weight": np.ones((3, 5))}, {}, "only transposed; .*W.T"),
        ({"0.weight": np.ones((2, 3)), "0.bias": np.ones(3)}, {}, "only transposed"),
        (
            {"0.weight": np.ones((2, 3)), "1.weight": np.ones((4, 5))},
            {},
            r"layer '1' of state: expected W of shape \(s_out, 2\) .* got shapes \(4, 5\)",
        ),
        (
            {"0.weight": SQUARE},
            {"input": Input(3)},
            r"layer '0' of state: expected W of shape \(s_out, 3\)",
        ),
        ({"0.weight": SQUARE}, {"layers": ["1"]}, "state: expected layers to name each of 0 once"),
        ({"0.weight": SQUARE}, {"activations": []}, "activations: expected one for each of .* 0"),
        ({"0.weight": SQUARE}, {"activations": ["relu"] * 2}, r"got \['relu', 'relu'\]"),
        ({"0.weight": SQUARE}, {"activations": ["celu"]}, r"out of identity, relu, .*got \['celu'"),
        ({"0.weight": SQUARE}, {"activations": "relu"}, "got 'relu'; name the last layer's too"),
        ({"0.weight": SQUARE * np.nan}, {}, "layer '0': expected finite W, got nan"),
        ({"0.weight": SQUARE * 1e300}, {}, "layer '0': expected W within float32's range"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state, options, message) -> None:
    options = {"activations": ["relu"] * sum("weight" in name for name in state)} | options
    with pytest.raises(NetworkError, match=message):
        from_state(state, **options)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    pickled: dict[str, Any] = {"0.weight": np.array([[print]], dtype=object)}
    np.savez(path, **pickled)
    with pytest.raises(UnsupportedSourceError, match=r"array '0.weight' of file .*never loaded"):
        from_state(path, ["relu"])


def not_zip(path):
    path.write_bytes(pickle.dumps({"0.weight": SQUARE}))


def an_array(path):
    with path.open("wb") as file:
        np.save(file, SQUARE)


def nothing(path):
    path.touch()


def no_arrays(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.weight.npy", b"\x93NUMPY junk")


def a_huge_claim(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.weight.npy", b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n")


@pytest.mark.parametrize("write", [not_zip, an_array, nothing, no_arrays, a_huge_claim])
def test_a_file_that_is_no_npz_is_refused(write, tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    write(path)
    with pytest.raises(UnsupportedSourceError, match="not readable as plain numbers"):
        from_state(path, ["relu"])


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02" + b"\0" * 7 + b"[]"])
def test_a_file_that_is_no_safetensors_is_refused(content, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnsupportedSourceError, match=r"not a \.safetensors file"):
        from_state(path, ["relu"])


def test_tensors_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file({"0.weight": np.ones((2, 2), np.int8)}, path)
    with pytest.raises(UnsupportedSourceError, match=r"tensor '0.weight' of file .* of dtype I8"):
        from_state(path, ["relu"])


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pkl", "net.joblib", "net.BIN"])
def test_a_pickle_is_refused_with_the_reason_before_it_is_read(name, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match="a pickle, which runs whatever code it holds"):
        from_state(tmp_path / name, ["relu"])


def test_another_file_is_refused_and_one_that_is_not_there_is_missed(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSourceError, match=r"neither \.npz nor \.safetensors"):
        from_state(tmp_path / "net.h5", ["relu"])
    with pytest.raises(FileNotFoundError):
        from_state(tmp_path / "net.npz", ["relu"])


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingLibraryError, match=r"takes safetensors, .* 'forwardpass\[import\]'"):
        from_state(tmp_path / "net.safetensors", ["relu"])
