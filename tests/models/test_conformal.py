"""Intervals and sets of labels: those of NumPy by hand, and as often right as was asked for."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression

from forwardpass import client
from forwardpass.models import (
    Categorical,
    Dense,
    Input,
    Network,
    NetworkError,
    Output,
    conformal,
    coverage,
    export,
    load,
)

DIGITS = tuple(f"digit {number}" for number in range(10))


def split(data: Any, train: int, fit: int) -> Any:
    order = np.random.default_rng(0).permutation(len(data.data))
    x, y = data.data[order].astype(np.float32), data.target[order]
    ends = [0, train, train + fit, len(y)]
    return [(x[i:j], y[i:j]) for i, j in pairwise(ends)]


@pytest.fixture(scope="module")
def diabetes() -> Any:
    train, fit, rest = split(load_diabetes(), 142, 150)
    model = LinearRegression().fit(*train)
    # A spread that has something to do with the residuals: a softplus of the answer.
    layers = [
        Dense("progress", W=[model.coef_], b=[model.intercept_], activation="identity"),
        Dense("spread", W=[[0.3]], b=[0.0], activation="softplus", reads="progress"),
    ]
    outputs = [Output("progress", "progress", units=("points",)), Output("spread", "spread")]
    return Network.define(10, layers, outputs), fit, rest


@pytest.fixture(scope="module")
def digits() -> Any:
    train, fit, rest = split(load_digits(), 300, 600)
    model = LogisticRegression(C=0.001, max_iter=5000).fit(*train)
    layer = Dense("kind", W=model.coef_, b=model.intercept_, activation="softmax")
    return Network.define(64, [layer], [Output("kind", "kind", labels=DIGITS)]), fit, rest


@pytest.fixture(scope="module")
def cancer() -> Any:
    train, fit, rest = split(load_breast_cancer(), 100, 200)
    mean, scale = train[0].mean(axis=0), train[0].std(axis=0)
    model = LogisticRegression(C=0.01).fit((train[0] - mean) / scale, train[1])
    W = model.coef_ / scale
    layer = Dense("tumor", W=W, b=model.intercept_ - W @ mean, activation="sigmoid")
    network = Network.define(30, [layer], [Output("tumor", "tumor", labels=("ill", "well"))])
    return network, fit, rest


def rank_of(n: int, percent: int) -> int:
    """ceil((n + 1)(1 - alpha)) in whole numbers."""
    return -(-(n + 1) * (100 - percent) // 100)


def within(share: float, rows: int, fitted: int, alpha: float) -> bool:
    """Whether a share is one of 99.9 % of all that the binomial distribution gives.

    The coverage itself varies with the rows that were fitted to, by Beta(rank, n + 1 - rank).
    """
    spread = 3.3 * (alpha * (1 - alpha) / fitted) ** 0.5
    low = binom.ppf(0.0005, rows, 1 - alpha - spread) / rows
    high = binom.ppf(0.9995, rows, min(1 - alpha + spread, 1)) / rows
    return bool(low <= share <= high)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_an_interval_is_the_answer_and_a_quantile_of_the_residuals(diabetes, alpha) -> None:
    network, (x, y), (x_new, y_new) = diabetes
    after = conformal(network, x, y, alpha, "progress")
    residuals = np.sort(np.abs(y - network(x)["progress"][:, 0]))
    q = residuals[rank_of(len(y), round(alpha * 100)) - 1]

    got = after(x_new)
    answer = network(x_new)["progress"]
    np.testing.assert_array_equal(got["progress"], answer)
    np.testing.assert_allclose(got["progress_low"], answer - q, atol=1e-4)
    np.testing.assert_allclose(got["progress_high"], answer + q, atol=1e-4)
    assert (got["progress_high"] - answer >= q - 1e-12).all()
    found = coverage(after, x_new, y_new)
    true = np.abs(y_new - answer[:, 0]) <= q
    assert found.share == (true.mean(),)
    assert found.size == pytest.approx((2 * q,))
    assert within(found.share[0], len(y_new), len(y), alpha)


def test_with_a_spread_intervals_are_as_wide_as_it_says(diabetes) -> None:
    network, (x, y), (x_new, y_new) = diabetes
    after = conformal(network, x, y, 0.2, "progress", spread="spread")
    values = network(x)
    scores = np.sort(np.abs(y - values["progress"][:, 0]) / values["spread"][:, 0])
    q = scores[rank_of(len(y), 20) - 1]
    got = after(x_new)
    width = q * got["spread"]
    np.testing.assert_allclose(got["progress_low"], got["progress"] - width, atol=1e-4)
    np.testing.assert_allclose(got["progress_high"], got["progress"] + width, atol=1e-4)
    assert within(coverage(after, x_new, y_new).share[0], len(y_new), len(y), 0.2)
    assert "|y - answer| / spread is" in after.provenance["progress: conformal"]


def test_each_column_has_its_own_quantile() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(99, 2)).astype(np.float32)
    network = Network.define(
        2, [Dense("y", W=np.eye(2), activation="identity")], [Output("y", "y", labels=("a", "b"))]
    )
    y = x + rng.normal(size=x.shape) * [1, 10]
    after = conformal(network, x, y, 0.1)
    q = np.sort(np.abs(y - x), axis=0)[89]
    np.testing.assert_allclose(after.layer("y_high").b, q, rtol=1e-6)
    assert coverage(after, x, y).share == (90 / 99, 90 / 99)
    # By name, in any order.
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"b": y[:, 1], "a": y[:, 0]})
    assert conformal(network, x, frame, 0.1) == after
    # One spread may serve both.
    layers = [
        Dense("y", W=np.eye(2), activation="identity"),
        Dense("s", W=[[0, 0]], b=[3.0], activation="softplus", reads="x"),
    ]
    spread = conformal(Network.define(2, layers, ["y", "s"]), x, y, 0.1, "y", spread="s")
    np.testing.assert_allclose(spread(x)["y_low"], after(x)["y_low"], atol=1e-4)


def test_on_average_the_truth_is_in_rank_of_n_plus_one_intervals() -> None:
    """The theorem, for a distribution with long tails: the share of new rows is rank / (n + 1)."""
    rng = np.random.default_rng(0)
    network = Network.chain([1, 1], parameters=[([[1]], [0])])
    shares = []
    for _ in range(200):
        y = rng.standard_t(2, 119)
        x = np.zeros((119, 1), np.float32)
        after = conformal(network, x[:19], y[:19], 0.1)
        shares.append(coverage(after, x[19:], y[19:]).share[0])
    assert np.mean(shares) == pytest.approx(18 / 20, abs=4 * np.std(shares) / 200**0.5)
    assert np.std(shares) > 0.02


@pytest.mark.parametrize("alpha", [0.02, 0.1])
def test_a_set_has_the_labels_that_are_probable_enough(digits, alpha) -> None:
    network, (x, y), (x_new, y_new) = digits
    after = conformal(network, x, y, alpha)
    scores = np.sort(1 - network(x)["kind"][np.arange(len(y)), y])
    q = scores[rank_of(len(y), round(alpha * 100)) - 1]
    p = network(x_new)["kind"]
    chosen = p >= 1 - q

    output = after.output("kind_set")
    np.testing.assert_array_equal(after(x_new)["kind_set"], p)
    np.testing.assert_array_equal(p > np.array(output.thresholds), chosen)
    found = coverage(after, x_new, np.array(DIGITS)[y_new])
    assert found.share == (chosen[np.arange(len(y_new)), y_new].mean(),)
    assert found.size == (chosen.sum(axis=1).mean(),)
    assert within(found.share[0], len(y_new), len(y), alpha)
    assert after.output("kind") == network.output("kind")


def test_of_one_column_both_classes_may_be_in_the_set(cancer) -> None:
    network, (x, y), (x_new, y_new) = cancer
    after = conformal(network, x, y, 0.02)
    p = network(x_new)["tumor"]
    both = after(x_new)["tumor_set"]
    np.testing.assert_allclose(both, np.hstack([1 - p, p]), atol=1e-12)
    p_fit = network(x)["tumor"][:, 0]
    q = np.sort(np.where(y == 1, 1 - p_fit, p_fit))[rank_of(200, 2) - 1]
    np.testing.assert_array_equal(
        both > after.output("tumor_set").thresholds, both >= 1 - q - 1e-12
    )
    found = coverage(after, x_new, y_new)
    assert found.size[0] > 1
    assert within(found.share[0], len(y_new), len(y), 0.02)
    assert after.output("tumor_set").labels == ("ill", "well")


def test_the_file_has_it_and_says_how_it_was_found(digits, tmp_path: Path) -> None:
    network, fit, held_out = digits
    after = conformal(network, fit[0], fit[1], 0.02, held_out=held_out)
    export(after, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx") == after
    texts = load(tmp_path / "m.onnx").provenance
    assert texts["kind: conformal"].startswith(
        "alpha 0.02, split conformal (LAC): of 600 rows the 589. largest answer for the true class "
    )
    assert texts["kind: conformal, held-out rows"] == str(coverage(after, held_out[0], held_out[1]))

    # What a client shows: the labels of the set, beside the most probable one.
    output = after.output("kind_set")
    with client.load(tmp_path / "m.onnx") as local:
        prediction = local.predict("m", held_out[0][:50])
    shown = prediction.labels("kind_set")
    expected = [
        [label for label, p in zip(DIGITS, row, strict=True) if p > output.thresholds[0]]
        for row in network(held_out[0][:50])["kind"]
    ]
    assert shown == expected
    assert prediction.label("kind") == [DIGITS[row.argmax()] for row in prediction["kind"]]
    assert max(map(len, shown)) > 1
    assert "of 0.98 of all rows" in output.description


def test_intervals_are_proven_and_keep_units(diabetes, tmp_path: Path) -> None:
    network, (x, y), held_out = diabetes
    after = conformal(network, x, y, 0.1, "progress", spread="spread", held_out=held_out)
    export(after, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx") == after
    assert after.output("progress_low").units == ("points",)
    text = after.provenance["progress: conformal, held-out rows"]
    assert text == str(coverage(after, held_out[0], held_out[1], "progress"))
    alone = conformal(network, x, y, 0.1, "progress").provenance
    assert alone["progress: conformal, held-out rows"] == "none given"


def test_a_logarithm_of_probabilities_gives_the_same_sets(digits) -> None:
    network, (x, y), (x_new, y_new) = digits
    layer = network.layers[0]
    logs = Network.define(
        64, [Dense("kind", W=layer.W, b=layer.b, activation="log_softmax")], ["kind"]
    )
    expected = coverage(conformal(network, x, y, 0.1), x_new, y_new)
    assert coverage(conformal(logs, x, y, 0.1), x_new, y_new) == expected


@pytest.mark.parametrize(
    ("rows", "alpha", "enough"), [(8, 0.1, 9), (18, 0.05, 19), (2, 0.3, 3), (98, 0.01, 99)]
)
def test_too_few_rows_are_refused_and_one_more_is_enough(rows, alpha, enough) -> None:
    network = Network.chain([1, 1], parameters=[([[1]], [0])])
    x = np.arange(enough, dtype=np.float32)[:, np.newaxis]
    with pytest.raises(NetworkError, match=f"at least {enough} rows for alpha {alpha}, got {rows}"):
        conformal(network, x[:rows], 0 * x[:rows, 0], alpha)
    after = conformal(network, x, 0 * x[:, 0], alpha)
    assert after.layer("y_high").b == pytest.approx(enough - 1)  # the largest of all


X = np.zeros((20, 2), np.float32)


def two(activation: Any) -> Network:
    return Network.define(2, [Dense("y", 2, activation)], ["y"])


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (two("identity"), {"alpha": 0}, "alpha between 0 and 1, .* got 0; write alpha=0.1"),
        (two("identity"), {"alpha": 1.0}, "alpha between 0 and 1, .* got 1.0"),
        (two("identity"), {"y": np.zeros(20)}, r"numbers of shape \(20, 2\), one for each row and"),
        (two("identity"), {"y": np.full((20, 2), np.nan)}, "expected finite numbers, got nan"),
        (two("identity"), {"spread": "y"}, "spread 'y': expected numbers above zero"),
        (two("softmax"), {"spread": "y", "y": np.zeros(20)}, "none, since the output has classes"),
        (two("sigmoid"), {}, "got 2 sigmoid columns"),
        (two("exp"), {}, "activations that a layer may read, .* got a of a layer of exp"),
        (two("identity"), {"output": "z"}, r"expected one of its outputs \(y\), got 'z'"),
    ],
)
def test_what_does_not_fit_is_refused(network, options, message) -> None:
    options = {"x": X, "y": np.zeros((20, 2)), "alpha": 0.1, **options}
    with pytest.raises(NetworkError, match=message):
        conformal(network, **options)


def test_coverage_is_of_intervals_or_sets() -> None:
    with pytest.raises(NetworkError, match=r"an output with intervals or sets \(none has\), got n"):
        coverage(two("identity"), X, X)


def test_rows_of_several_inputs_are_a_table() -> None:
    inputs: list[Input | Categorical] = [Input(2, "u"), Categorical("city", ("a", "b"))]
    network = Network.define(inputs, [Dense("y", 1, "identity")])
    x = {"u": X, "city": ["a", "b"] * 10}
    after = conformal(network, x, np.zeros(20), 0.1)
    assert [each.name for each in after.inputs] == ["u", "city"]
    assert coverage(after, x, np.zeros(20)).share == (1.0,)
