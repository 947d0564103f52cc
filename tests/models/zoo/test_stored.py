"""The files of the example networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forwardpass.models import Input, Network
from forwardpass.models.zoo import stored
from forwardpass.models.zoo.stored import HeldOut, Stored, save, with_parameters

NETWORK = Network.chain([3, 2, 1], "tanh", provenance={"data": "none"})


def contents() -> Stored:
    return Stored(
        mean=np.arange(3.0),
        scale=np.ones(3),
        parameters={layer.name: (layer.W, layer.b) for layer in NETWORK.layers},
        held_out=HeldOut(np.ones((4, 3), np.float32), {"y": np.zeros((4, 1), np.float32)}),
        provenance={"training": "none; \N{GREEK SMALL LETTER LAMDA} = 0"},
    )


def test_what_is_saved_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    save(contents(), tmp_path / "data" / "some.npz")
    monkeypatch.setattr(stored, "files", lambda _: tmp_path)
    loaded = stored.load("some")
    np.testing.assert_array_equal(loaded.mean, np.arange(3))
    assert loaded.provenance == contents().provenance
    np.testing.assert_array_equal(loaded.held_out.truth["y"], np.zeros((4, 1)))

    restored = loaded.restore(lambda mean, scale: Network.chain(
        [3, 2, 1], "tanh", seed=5, input=Input(3, mean=mean, scale=scale), provenance={"data": "?"}
    ))  # fmt: skip
    assert restored.layers == NETWORK.layers
    assert restored.input == Input(3, mean=np.arange(3), scale=np.ones(3))
    assert restored.provenance == {"data": "?", **contents().provenance}


def test_rows_of_several_inputs_and_a_span_are_loaded_as_they_were_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    x = {
        "numbers": np.array([[1, 255, 0.5], [np.nan, 0, -1]], np.float32),
        "pixels": np.array([[0], [255]], np.float32),
        "color": np.array([["red"], [""]]),
    }
    held_out = HeldOut(x, {"y": np.array([[1], [0]], np.float32)})
    span = np.array([-1, 0, 1.5]), np.array([1, 1, 2])
    save(replace(contents(), held_out=held_out, span=span), tmp_path / "data" / "some.npz")
    monkeypatch.setattr(stored, "files", lambda _: tmp_path)
    loaded = stored.load("some")
    assert list(loaded.held_out.x) == list(x)
    for name, rows in x.items():
        np.testing.assert_array_equal(loaded.held_out.x[name], rows)
        assert loaded.held_out.x[name].dtype == rows.dtype
    assert len(loaded.held_out) == 2
    last = loaded.held_out[1:]
    assert (last.x["color"].tolist(), last.truth["y"].tolist()) == ([[""]], [[0]])
    assert loaded.held_out[0].x["pixels"].tolist() == [0]
    network = loaded.restore(lambda *_: Network.chain([3, 2, 1], input=Input(3)))
    assert network.input == Input(3, low=span[0], high=span[1])


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(contents(), tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_no_pickle_is_in_a_file(tmp_path: Path) -> None:
    save(contents(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert {array.dtype.kind for array in arrays.values()} == {"f", "u", "U"}


def test_other_parameters_make_another_network() -> None:
    doubled = with_parameters(
        NETWORK, {layer.name: (2 * layer.W, layer.b + 1) for layer in NETWORK.layers}
    )
    np.testing.assert_array_equal(doubled.layer("L2").W, 2 * NETWORK.layer("L2").W)
    assert doubled.outputs == NETWORK.outputs
    assert doubled.provenance == NETWORK.provenance
