"""Calibrated probabilities against scikit-learn's, SciPy's and figures of scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from forwardpass.models import (
    Categorical,
    Dense,
    Input,
    Network,
    NetworkError,
    Output,
    calibrate,
    calibration,
    export,
    load,
)

DIGITS = tuple(f"digit {number}" for number in range(10))


def split(data: Any, train: int) -> Any:
    """Rows to train on, to calibrate on, and to judge by; noise, so that some are wrong."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.data))
    x = (data.data + rng.normal(size=data.data.shape) * 1.0 * data.data.std(axis=0))[order]
    x, y = x.astype(np.float32), data.target[order]
    half = train + (len(y) - train) // 2
    return (x[:train], y[:train]), (x[train:half], y[train:half]), (x[half:], y[half:])


@pytest.fixture(scope="module")
def digits() -> Any:
    train, fit, rest = split(load_digits(), 200)
    model = LogisticRegression(C=1.0, max_iter=5000).fit(*train)
    layer = Dense("kind", W=model.coef_, b=model.intercept_, activation="softmax")
    network = Network.define(64, [layer], [Output("kind", "kind", labels=DIGITS)])
    return model, network, fit, rest


@pytest.fixture(scope="module")
def cancer() -> Any:
    train, fit, rest = split(load_breast_cancer(), 100)
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0)
    train, fit, rest = (((x - mean) / scale, y) for x, y in (train, fit, rest))
    model = LogisticRegression(C=100.0, max_iter=5000).fit(*train)
    layer = Dense("risk", W=model.coef_, b=model.intercept_, activation="sigmoid")
    network = Network.define(30, [layer], [Output("risk", "risk", labels=("ill", "well"))])
    return model, network, fit, rest


def theirs(model: Any, method: str, fit: Any, x: Any) -> Any:
    # Of float32 features it fits in float32, which costs half the digits.
    exact = fit[0].astype(np.float64)
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), method=method).fit(exact, fit[1])
    return calibrated.predict_proba(x.astype(np.float64))


def test_temperature_is_that_of_scikit_learn(digits) -> None:
    model, network, fit, (x, y) = digits
    after = calibrate(network, *fit)
    got = after(x)["kind"]
    np.testing.assert_allclose(got, theirs(model, "temperature", fit, x), atol=1e-6)
    z, rows = fit[0] @ network.layers[0].W.T.astype(np.float64) + model.intercept_, len(fit[1])
    best = minimize_scalar(
        lambda t: -log_softmax(t * z, axis=1)[np.arange(rows), fit[1]].mean(),
        (0.1, 1.0),
        tol=1e-12,
    )
    assert calibration(after, *fit).log_loss == pytest.approx(best.fun, abs=1e-8)
    np.testing.assert_allclose(after.layers[0].W, best.x * network.layers[0].W, rtol=1e-6)
    assert log_loss(y, got) < log_loss(y, network(x)["kind"]) - 0.05


def test_of_one_column_too(cancer) -> None:
    model, network, fit, (x, _) = cancer
    got = calibrate(network, *fit)(x)["risk"]
    np.testing.assert_allclose(got[:, 0], theirs(model, "temperature", fit, x)[:, 1], atol=1e-6)


def test_platt_is_the_sigmoid_of_scikit_learn(cancer) -> None:
    model, network, fit, (x, _) = cancer
    got = calibrate(network, fit[0], fit[1], method="platt")(x)["risk"]
    np.testing.assert_allclose(got[:, 0], theirs(model, "sigmoid", fit, x)[:, 1], atol=1e-5)


def test_vector_scaling_is_the_optimum_that_scipy_finds(digits) -> None:
    model, network, (x, y), _ = digits
    z = model.decision_function(x)

    def loss(theta: Any) -> Any:
        return -log_softmax(theta[:10] * z + theta[10:], axis=1)[np.arange(len(y)), y].mean()

    best = minimize(loss, np.concatenate([np.ones(10), np.zeros(10)]), options={"maxiter": 2000})
    after = calibrate(network, x, y, method="vector")
    assert calibration(after, x, y).log_loss == pytest.approx(best.fun, abs=1e-6)
    expected = softmax(best.x[:10] * z + best.x[10:], axis=1)
    np.testing.assert_allclose(after(x)["kind"], expected, atol=2e-3)


def test_columns_decided_one_by_one_are_each_fitted_alone(cancer) -> None:
    _, network, (x, y), _ = cancer
    layer = network.layers[0]
    W, b = np.vstack([layer.W, -2 * layer.W]), [layer.b[0], 0.5]
    both = Network.define(30, [Dense("risk", W=W, b=b, activation="sigmoid")])
    y2 = np.stack([y, 1 - y], axis=1)
    got = calibrate(both, x, y2, method="platt")(x)["risk"]
    expected = calibrate(network, x, y, method="platt")(x)["risk"]
    np.testing.assert_allclose(got, np.hstack([expected, 1 - expected]), atol=1e-5)

    z = x @ both.layers[0].W.T.astype(np.float64) + both.layers[0].b
    best = minimize(lambda t: np.mean(np.logaddexp(0, t * z) - y2 * t * z), [1.0])
    np.testing.assert_allclose(calibrate(both, x, y2)(x)["risk"], expit(best.x * z), atol=1e-5)


def test_figures_are_those_of_scikit_learn(digits, cancer) -> None:
    _, network, _, (x, y) = digits
    p = network(x)["kind"]
    found = calibration(network, x, y, bins=10)
    assert found.rows == len(y)
    assert found.log_loss == pytest.approx(log_loss(y, p))
    assert found.brier == pytest.approx(((p - np.eye(10)[y]) ** 2).sum(axis=1).mean())
    assert found.error == pytest.approx(error(p.argmax(axis=1) == y, p.max(axis=1), 10))

    _, network, _, (x, y) = cancer
    p = network(x)["risk"][:, 0]
    found = calibration(network, x, y)
    assert found.log_loss == pytest.approx(log_loss(y, p))
    assert found.brier == pytest.approx(((p - y) ** 2).mean())
    assert found.error == pytest.approx(error(y, p, 15))


def error(true: Any, p: Any, bins: int) -> float:
    """The expected calibration error, from scikit-learn's curve."""
    share, mean = calibration_curve(true, p, n_bins=bins, strategy="uniform")
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p), minlength=bins)
    return float(np.abs(share - mean) @ counts[counts > 0] / len(p))


def test_it_is_folded_into_the_layer_and_the_file_says_what_it_did(digits, tmp_path: Path) -> None:
    _, network, fit, held_out = digits
    after = calibrate(network, *fit, held_out=held_out)
    before_layer, layer = network.layers[0], after.layers[0]
    factor = layer.b[0] / before_layer.b[0]
    np.testing.assert_allclose(layer.W, factor * before_layer.W, rtol=5e-7)
    assert factor < 0.9
    assert (layer.activation, layer.reads) == (before_layer.activation, before_layer.reads)

    export(after, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx") == after
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert [node.name for node in session.get_outputs()] == ["kind"]
    was, now = (calibration(each, *held_out) for each in (network, after))
    text = load(tmp_path / "m.onnx").provenance
    assert text["kind: calibration"] == (f"temperature scaling, sums divided by {1 / factor:.4g}")
    assert text["kind: calibration, held-out rows"] == (
        f"{len(held_out[1])} rows: {was} before; {now} after; 15 bins of equal width"
    )
    assert now.error < was.error
    alone = calibrate(network, *fit).provenance
    assert alone["kind: calibration, held-out rows"] == "none given"


@pytest.mark.parametrize(
    "form", ["labels", "objects", "numbers", "floats", "one each", "column", "frame"]
)
def test_y_may_be_numbers_or_labels_or_a_column_for_each(digits, form) -> None:
    pandas = pytest.importorskip("pandas")
    _, network, (x, y), _ = digits
    one_each = pandas.DataFrame(np.eye(10)[y], columns=DIGITS)
    given = {
        "labels": np.array(DIGITS)[y],
        "objects": pandas.Series(np.array(DIGITS)[y]),
        "numbers": y.astype(object),
        "floats": y.astype(float),
        "one each": np.eye(10)[y],
        "column": y[:, np.newaxis],
        "frame": one_each[list(reversed(DIGITS))],
    }[form]
    assert calibrate(network, x, given) == calibrate(network, x, y)


def test_of_one_column_labels_are_its_two_classes(cancer) -> None:
    _, network, (x, y), _ = cancer
    expected = calibrate(network, x, y, method="platt")
    assert calibrate(network, x, np.array(["ill", "well"])[y], method="platt") == expected
    layer = network.layers[0]
    one = Network.define(
        30,
        [Dense("risk", W=layer.W, b=layer.b, activation="sigmoid")],
        [Output("risk", "risk", labels=("well",), thresholds=(0.5,))],
    )
    given = np.array(["not well", "well"])[y]
    np.testing.assert_array_equal(
        calibrate(one, x, given, method="platt").layers[0].W, expected.layers[0].W
    )


Y = np.arange(40) % 3
ROWS = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)


def classes(**names: Any) -> Network:
    return Network.define(2, [Dense("kind", 3, "softmax")], [Output("kind", "kind", **names)])


@pytest.mark.parametrize(
    ("y", "method", "message"),
    [
        (Y * 0, "temperature", "y for output 'kind': expected rows of more than one class, got"),
        (Y[:9], "temperature", "y for output 'kind': expected 40 rows, as x has, got shape"),
        (Y, "vector", "at least 60 rows, 10 for each number that is fitted, got 40"),
        (np.minimum(Y, 1), "vector", "at least 5 rows of each class, got 0 of one"),
        (Y, "platt", "expected method 'temperature' or 'vector', for a softmax layer, got 'platt'"),
        (Y + 1, "temperature", "expected whole numbers from 0 to 2, got 3"),
        (Y / 2, "temperature", "expected whole numbers from 0 to 2, got 0.5"),
        (Y.astype(str), "temperature", "numbers from 0 to 2, since the output has no labels"),
        (np.eye(4)[Y], "temperature", r"one class for each row: shape \(40,\), got shape \(40, 4"),
        ([[1], [1, 2]] * 20, "temperature", "y for output 'kind': expected an array, got setting"),
        ([None] * 40, "temperature", "expected whole numbers from 0 to 2, got nan"),
        (np.where(Y, Y, np.nan), "temperature", "whole numbers from 0 to 2, got nan"),
        (np.ones((40, 3)), "temperature", "expected one class for each row, got 3 for row 0"),
    ],
)
def test_a_y_that_does_not_fit_is_refused(y, method, message) -> None:
    with pytest.raises(NetworkError, match=message):
        calibrate(classes(), ROWS, y, method=method)


def test_few_rows_are_refused() -> None:
    with pytest.raises(NetworkError, match="expected at least 10 rows, 10 for each number"):
        calibrate(classes(), ROWS[:9], Y[:9])


def test_numbers_that_are_labels_too_are_not_guessed_about() -> None:
    y = np.where(Y == 0, 2, 1)
    with pytest.raises(NetworkError, match=r"since numbers count classes from 0 on, got numbers"):
        calibrate(classes(labels=("1", "2", "3")), ROWS, y)
    with pytest.raises(NetworkError, match="the labels 'a', 'b', 'c', got 'd'"):
        calibrate(classes(labels=("a", "b", "c")), ROWS, ["d"] * 40)


def test_what_has_no_best_fit_is_refused(cancer) -> None:
    network = classes()
    right = network(ROWS)["kind"].argmax(axis=1)
    with pytest.raises(NetworkError, match=r"some are answered wrong, .* rises without end"):
        calibrate(network, ROWS, right)
    _, network, (x, y), _ = cancer
    with pytest.raises(NetworkError, match="sums that rise with their class, got a best factor of"):
        calibrate(network, x, 1 - y)


@pytest.mark.parametrize("factor", [1e4, 1e-4])
@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_however_sure_a_network_was_it_ends_at_the_same(digits, factor, method) -> None:
    _, network, (x, y), _ = digits
    layer = network.layers[0]
    layers = [Dense("kind", W=factor * layer.W, b=factor * layer.b, activation="softmax")]
    other = Network.define(64, layers, [network.outputs[0]])
    expected = calibrate(network, x, y, method=method)(x)["kind"]
    got = calibrate(other, x, y, method=method)(x)["kind"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_held_out_rows_that_get_worse_are_refused(cancer) -> None:
    _, network, (x, y), _ = cancer
    sure = network(x)["risk"][:, 0] > 0.5
    right = np.flatnonzero(sure == y)
    with pytest.raises(NetworkError, match=r"a log loss of at most .* on held-out rows, as before"):
        calibrate(network, x, y, held_out=(x[right], y[right]))


def test_only_probabilities_that_nothing_reads_are_calibrated() -> None:
    network = Network.define(
        Input(2),
        [Dense("risk", 1, "sigmoid"), Dense("cost", 1, "identity")],
        ["risk", "cost"],
    )
    with pytest.raises(NetworkError, match=r"one of its outputs \(risk, cost\), got none"):
        calibrate(network, ROWS, Y > 0)
    with pytest.raises(NetworkError, match="probabilities: an output of a sigmoid or softmax"):
        calibrate(network, ROWS, Y > 0, output="cost")
    with pytest.raises(NetworkError, match="layer 'risk': expected one that no other reads"):
        calibrate(network, ROWS, Y > 0, output="risk")


def test_rows_without_an_answer_are_refused() -> None:
    x = ROWS.copy()
    x[3] = np.nan
    with pytest.raises(
        NetworkError, match=r"the network answers with finite numbers, got .* row 3"
    ):
        calibrate(classes(), x, Y)
    with pytest.raises(NetworkError, match="expected rows, got a single one"):
        calibrate(classes(), ROWS[0], Y[:1])


def test_rows_of_several_inputs_are_a_table() -> None:
    city = Categorical("city", ("a", "b"))
    network = Network.define([Input(2, "u"), city], [Dense("kind", 3, "softmax")])
    x = {"u": ROWS, "city": ["a", "b"] * 20}
    after = calibrate(network, x, Y, held_out=(x, Y))
    assert calibration(after, x, Y).log_loss < calibration(network, x, Y).log_loss
    assert "40 rows: log loss" in after.provenance["kind: calibration, held-out rows"]
