"""The example networks as they are committed."""

import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
from numpy.typing import NDArray

from forwardpass.models import Categorical, Input, Network, forward, to_onnx
from forwardpass.models.file.graph import serialize
from forwardpass.models.file.runner import load_graph
from forwardpass.models.zoo import ZOO, Example, HeldOut, breast_cancer
from forwardpass.models.zoo.stored import numbers
from forwardpass.models.zoo.training.figures import figures


@pytest.fixture(params=ZOO)
def example(request: pytest.FixtureRequest) -> Example:
    return ZOO[request.param]


def test_the_example_networks_are_these() -> None:
    assert list(ZOO) == [
        "lecture_3_3_1", "lecture_3_3_2", "breast_cancer", "digits_autoencoder", "linnerud",
        "mnist_digits", "penguins", "cartpole_policy",
    ]  # fmt: skip


def test_a_network_has_the_name_that_it_is_listed_under(example: Example) -> None:
    network = example.network()
    assert network.name == example.name
    assert network == example.network()
    assert example.summary


def test_inputs_are_named_and_scaled(example: Example) -> None:
    given, *categories = example.network().inputs
    assert isinstance(given, Input)
    assert all(isinstance(each, Categorical) for each in categories)
    assert len(given.features) == given.size
    assert given.mean is not None
    assert given.scale is not None


def test_held_out_rows_fit_the_network(example: Example) -> None:
    network, held_out = example.network(), example.held_out()
    answers = forward(network, held_out.x)
    assert numbers(held_out.x).dtype == np.float32
    for name, truth in held_out.truth.items():
        assert truth.dtype == np.float32
        assert truth.shape == answers[name].shape
    assert set(answers) - set(held_out.truth) <= {"code", "action"}


def test_networks_are_as_good_as_their_provenance_says(example: Example) -> None:
    network, held_out = example.network(), example.held_out()
    stated = {key: text for key, text in network.provenance.items() if key.startswith("held-out")}
    computed = figures(network, held_out)
    # What a policy does shows in the environment alone: see below.
    assert "action" not in computed
    stated.pop("held-out action", None)
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


def chosen(name: str, held_out: HeldOut) -> NDArray[np.bool_]:
    """Whether each row's most probable class is the true one."""
    ((output, truth),) = held_out.truth.items()
    answer = ZOO[name].network()(held_out.x)[output]
    return np.asarray(answer.argmax(axis=1) == truth.argmax(axis=1))


def test_a_digit_is_known_where_a_nearest_mean_is_often_wrong() -> None:
    held_out = ZOO["mnist_digits"].held_out()
    truth = held_out.truth["digit"].argmax(axis=1)
    # Even when the means are those of these very images.
    means = np.stack([held_out.x[truth == digit].mean(axis=0) for digit in range(10)])
    distance = ((held_out.x[:, np.newaxis] - means) ** 2).sum(axis=2)
    assert (
        chosen("mnist_digits", held_out).mean()
        > 0.93
        > 0.9
        > (distance.argmin(axis=1) == truth).mean()
    )


def test_a_digit_that_is_moved_by_a_pixel_is_still_known() -> None:
    held_out = ZOO["mnist_digits"].held_out()
    moved = np.roll(held_out.x.reshape(-1, 28, 28), (1, -1), axis=(1, 2)).reshape(-1, 784)
    assert chosen("mnist_digits", HeldOut(moved, held_out.truth)).mean() > 0.9


def test_the_frame_of_an_image_changes_no_answer() -> None:
    x = ZOO["mnist_digits"].held_out().x[:5]
    framed = x.copy().reshape(-1, 28, 28)
    framed[:, :4] = framed[:, -4:] = framed[:, :, :4] = framed[:, :, -4:] = 255
    network = ZOO["mnist_digits"].network()
    np.testing.assert_array_equal(network(framed.reshape(-1, 784))["digit"], network(x)["digit"])


def without(held_out: HeldOut, name: str, column: int) -> HeldOut:
    values = held_out.x[name].copy()
    values[:, column] = "" if values.dtype.kind == "U" else np.nan
    return HeldOut({**held_out.x, name: values}, held_out.truth)


def test_a_penguins_species_is_known_whichever_value_is_missing() -> None:
    held_out = ZOO["penguins"].held_out()
    assert np.isnan(held_out.x["measurements"]).any()
    assert (held_out.x["sex"] == "").any()
    assert chosen("penguins", held_out).mean() > 0.97
    for name, column in (("sex", 0), *(("measurements", column) for column in range(4))):
        # Without its bill's length, which tells most, an Adelie is much like a Chinstrap.
        assert chosen("penguins", without(held_out, name, column)).mean() > 0.85, (name, column)


def test_a_penguin_of_no_known_island_has_no_answer() -> None:
    rows = [
        {"bill length": 39.1, "bill depth": 18.7, "flipper length": 181, "body mass": 3750,
         "island": island, "sex": sex}
        for island, sex in (("Torgersen", "male"), ("Torgersen", None), ("Iceland", "male"))
    ]  # fmt: skip
    species = ZOO["penguins"].network()(rows)["species"]
    assert (species[:2, 0] > 0.9).all()
    assert np.isnan(species[2]).all()


# Barto, Sutton and Anderson (1983), in the form of Florian, Correct equations for the dynamics of
# the cart-pole system (2007), with the constants of CartPole-v1.
GRAVITY, CART_KG, POLE_KG, HALF_M, PUSH_N, STEP_S = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02


def moved(state: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """States (N, 4) one step later."""
    _, speed, angle, turn = state.T
    mass, sine, cosine = CART_KG + POLE_KG, np.sin(angle), np.cos(angle)
    push = (np.where(right, PUSH_N, -PUSH_N) + POLE_KG * HALF_M * turn**2 * sine) / mass
    turned = (GRAVITY * sine - cosine * push) / (HALF_M * (4 / 3 - POLE_KG * cosine**2 / mass))
    pushed = push - POLE_KG * HALF_M * turned * cosine / mass
    return state + STEP_S * np.stack([speed, pushed, turn, turned], axis=1)


def test_the_policy_balances_the_pole_as_long_as_its_provenance_says() -> None:
    """Gymnasium draws the first state of a seed so, and computes in float64."""
    network = ZOO["cartpole_policy"].network()
    seeds = range(100_000, 100_100)
    state = np.stack([np.random.default_rng(seed).uniform(-0.05, 0.05, 4) for seed in seeds])
    returns, running = np.zeros(len(seeds)), np.ones(len(seeds), np.bool_)
    for _ in range(500):
        returns += running
        state = moved(state, network(state)["action"].argmax(axis=1) == 1)
        running &= (np.abs(state[:, 0]) <= 2.4) & (np.abs(state[:, 2]) <= np.radians(12))
    stated = network.provenance["held-out action"]
    assert stated.startswith(f"mean return {returns.mean():.1f} of 500, least {returns.min():.0f}")
    assert returns.mean() > 475  # what Gymnasium calls solved


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
    assert sum(sizes.values()) < 260_000


def test_using_the_examples_needs_numpy_alone() -> None:
    code = (
        "import sys; from forwardpass.models.zoo import ZOO\n"
        "for example in ZOO.values(): example.network()(example.held_out().x)\n"
        "print({'sklearn', 'scipy', 'onnx', 'onnxruntime', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "set()\n"), result.stderr
