"""The example networks as they are committed."""

import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
from numpy.typing import NDArray

from forwardpass.models import Network, forward, to_onnx
from forwardpass.models.evaluate import load_graph
from forwardpass.models.graph import serialize
from forwardpass.models.zoo import ZOO, Example, breast_cancer
from forwardpass.models.zoo.figures import figures


@pytest.fixture(params=ZOO)
def example(request: pytest.FixtureRequest) -> Example:
    return ZOO[request.param]


def test_the_example_networks_are_these() -> None:
    assert list(ZOO) == [
        "lecture_3_3_1", "lecture_3_3_2", "breast_cancer", "digits_autoencoder", "linnerud",
    ]  # fmt: skip


def test_a_network_has_the_name_that_it_is_listed_under(example: Example) -> None:
    network = example.network()
    assert network.name == example.name
    assert network == example.network()
    assert example.summary


def test_inputs_are_named_and_scaled(example: Example) -> None:
    given = example.network().input
    assert len(given.features) == given.size
    assert given.mean is not None
    assert given.scale is not None


def test_held_out_rows_fit_the_network(example: Example) -> None:
    network, held_out = example.network(), example.held_out()
    answers = forward(network, held_out.x)
    assert held_out.x.dtype == np.float32
    for name, truth in held_out.truth.items():
        assert truth.dtype == np.float32
        assert truth.shape == answers[name].shape
    assert set(answers) - set(held_out.truth) <= {"code"}


def test_networks_are_as_good_as_their_provenance_says(example: Example) -> None:
    network, held_out = example.network(), example.held_out()
    stated = {key: text for key, text in network.provenance.items() if key.startswith("held-out")}
    computed = figures(network, held_out)
    assert stated == {f"held-out {output}": text for output, text in computed.items()}
    assert {"data", "split", "training"} <= set(network.provenance)


def accuracy(name: str) -> float:
    held_out = ZOO[name].held_out()
    answer = ZOO[name].network()(held_out.x)["malignancy"]
    return float(((answer > 0.5) == (held_out.truth["malignancy"] == 1)).mean())


def r2(name: str, output: str) -> NDArray[np.float64]:
    held_out = ZOO[name].held_out()
    truth = held_out.truth[output].astype(np.float64)
    squared = (ZOO[name].network()(held_out.x)[output] - truth) ** 2
    return np.asarray(1 - squared.sum(axis=0) / ((truth - truth.mean(axis=0)) ** 2).sum(axis=0))


def test_malignancy_is_right_for_most_patients_never_seen() -> None:
    assert accuracy("breast_cancer") >= 0.97
    assert accuracy("lecture_3_3_1") >= 0.92


def test_measurements_are_predicted_far_better_than_by_their_mean() -> None:
    assert (r2("breast_cancer", "worst") > 0.7).all()
    assert (r2("lecture_3_3_2", "y") > 0.8).all()


def test_digits_are_reconstructed_better_than_by_as_many_principal_components() -> None:
    held_out = ZOO["digits_autoencoder"].held_out()
    network = ZOO["digits_autoencoder"].network()
    error = network(held_out.x)["reconstruction"] - held_out.x
    # Even when fitted to these very rows.
    centred = held_out.x.astype(np.float64) - held_out.x.mean(axis=0, dtype=np.float64)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    residual = centred - centred @ axes[:12].T @ axes[:12]
    assert np.sqrt((error**2).mean()) < 1.7 < np.sqrt((residual**2).mean())


def test_the_head_of_worst_measurements_does_not_see_them() -> None:
    network = ZOO["breast_cancer"].network()
    worst = [feature.startswith("worst") for feature in breast_cancer.FEATURES]
    assert (network.layer("trunk").W[:, worst] == 0).all()
    x = ZOO["breast_cancer"].held_out().x
    changed = np.where(worst, x * 2, x)
    before, after = network(x), network(changed)
    np.testing.assert_array_equal(before["worst"], after["worst"])
    assert not np.array_equal(before["malignancy"], after["malignancy"])


def test_weights_are_moderate(example: Example) -> None:
    hidden = [layer for layer in example.network().layers if layer.activation != "identity"]
    assert max(np.abs(layer.W).max() for layer in hidden) < 6


def largest_differences(network: Network, x: NDArray[np.float32]) -> dict[str, float]:
    """Of the graph from the reference, relative to the largest magnitude of each output."""
    answers = load_graph(serialize(to_onnx(network))).run(x)
    return {
        name: float(np.abs(answers[name] - wanted).max() / np.abs(wanted).max())
        for name, wanted in forward(network, x).items()
    }


def test_the_graph_answers_within_2e_6_of_the_reference(example: Example) -> None:
    differences = largest_differences(example.network(), example.held_out().x)
    assert max(differences.values()) < 2e-6, differences


def test_the_files_are_small() -> None:
    data = files("forwardpass.models.zoo") / "data"
    sizes = {entry.name: len(entry.read_bytes()) for entry in data.iterdir()}
    assert set(sizes) == {f"{name}.npz" for name in ZOO}
    assert sum(sizes.values()) < 150_000


def test_using_the_examples_needs_numpy_alone() -> None:
    code = (
        "import sys; from forwardpass.models.zoo import ZOO\n"
        "for example in ZOO.values(): example.network()(example.held_out().x)\n"
        "print({'sklearn', 'scipy', 'onnx', 'onnxruntime', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "set()\n"), result.stderr
