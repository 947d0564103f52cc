"""What was imported is compared: with the source's own prediction, and with `check=(x, y)`."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import safetensors.numpy
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.foreign import node, written
from support.keras_files import dense, input_layer, keras_file, sequential

from forwardpass.models import (
    ActivationName,
    Input,
    NetworkError,
    from_keras,
    from_onnx,
    from_sklearn,
    from_state,
)
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.trial_rows import probe_rows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3)).astype(np.float32)
W1, B1 = RNG.standard_normal((3, 3)).astype(np.float32), np.array([0.5, -1, 2], np.float32)
W2, B2 = RNG.standard_normal((2, 3)).astype(np.float32), np.array([1, -3], np.float32)
STATE = {"0.weight": W1, "0.bias": B1, "2.weight": W2, "2.bias": B2}
LAYERS: list[ActivationName] = ["relu", "identity"]


def answers(x, W1=W1):
    """The state's, in NumPy alone."""
    hidden = np.maximum(np.asarray(x, np.float64) @ W1.T.astype(np.float64) + B1, 0)
    return hidden @ W2.T.astype(np.float64) + B2


Y = answers(X)


def refused(match):
    return pytest.raises(UnsupportedSourceError, match=match)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X, Y),
        (X, Y.astype(np.float32)),
        (X, Y.astype(np.float16)),
        (X.tolist(), Y.tolist()),
        (X, {"y": Y}),
        (X[0], Y[0]),
        (X[:1], Y[:1]),
    ],
)
def test_answers_that_agree_import_the_network(x, y):
    assert from_state(STATE, LAYERS, check=(x, y)) == from_state(STATE, LAYERS)


@pytest.mark.parametrize("wrong", [1e-4, -1e-4, 1.0, np.nan, np.inf])
def test_one_answer_that_differs_is_named_by_row_and_output(wrong):
    y = Y.copy()
    y[7, 1] += wrong
    values = rf"expected {y[7, 1]:.6g} by check, got {Y[7, 1]:.6g}, where rounding explains"
    with refused(rf"^output 'logits', column 1, row 7 \({X[7, 0]:.4g}, .*\): {values} \de-0\d; "):
        from_state(STATE, LAYERS, output="logits", check=(X, y))


@pytest.mark.parametrize(
    ("state", "activations"),
    [
        ({**STATE, "0.weight": W1.T}, LAYERS),
        ({**STATE, "0.weight": W1[:, ::-1]}, LAYERS),
        ({**STATE, "0.bias": -B1}, LAYERS),
        (STATE, ["tanh", "identity"]),
        (STATE, ["relu", "relu"]),
    ],
)
def test_a_state_that_fits_and_is_wrong_is_refused(state, activations):
    from_state(state, activations)
    with refused("compare the order and orientation of the weights"):
        from_state(state, activations, check=(X, Y))


def test_a_file_whose_writer_scrambled_an_array_is_refused_or_right(tmp_path):
    """As safetensors 0.8.0 does to what is not contiguous, and 0.7.0 does not."""
    path = tmp_path / "w.safetensors"
    kept = {**STATE, "0.weight": np.ascontiguousarray(W1.T).T}  # as Keras would hold it
    safetensors.numpy.save_file(kept, path)
    if np.array_equal(safetensors.numpy.load_file(path)["0.weight"], W1):
        from_state(path, LAYERS, check=(X, Y))
    else:
        with refused("by check"):
            from_state(path, LAYERS, check=(X, Y))
    safetensors.numpy.save_file({**kept, "0.weight": np.ascontiguousarray(W1)}, path)
    assert from_state(path, LAYERS, check=(X, Y)) == from_state(
        STATE, LAYERS, provenance={"source": "w.safetensors"}
    )


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ((X[:, :2], Y), r"x of check: input 'x': expected shape"),
        ((X[:0], Y[:0]), "x of check: no rows"),
        ((X, Y[:, :1]), r"output 'y': expected numbers of shape \(20, 2\), got float64 of shape"),
        ((X, Y[:3]), r"of shape \(3, 2\) by check"),
        ((X, [["a", "b"]] * 20), "expected numbers"),
        ((X, {"z": Y}), "expected the answers of y, got those of z; give a mapping"),
        ((pd.DataFrame(X, columns=[*"abc"]), Y), "DataFrame with names, where .* unknown"),
        ((pa.table({"a": X[:, 0]}), Y), "Table with names"),
    ],
)
def test_a_check_that_is_no_rows_and_their_answers_is_refused(check, message):
    with refused(message):
        from_state(STATE, LAYERS, check=check)


def test_the_columns_of_a_table_are_matched_by_their_names():
    source = Input(3, features=("a", "b", "c"))
    for table in (pd.DataFrame, lambda x, columns: pl.DataFrame(x, schema=columns)):
        x = table(X[:, [2, 0, 1]], columns=["c", "a", "b"])
        y = table(Y[:, ::-1], columns=["no", "yes"])
        from_state(STATE, LAYERS, input=source, labels=("yes", "no"), check=(x, y))
    with refused("with names, where the network's are a, b, c"):
        from_state(STATE, LAYERS, input=source, check=(pd.DataFrame(X, columns=["c", "a", "z"]), Y))
    with refused("a Series with names"):
        from_state(STATE, LAYERS, input=source, check=(pd.Series(X[0], [*"cab"]), Y[0]))


def test_rows_are_those_of_a_caller_who_sends_raw_features():
    mean, scale = np.array([1, 2, 3], np.float32), np.array([2, 2, 4], np.float32)
    source = Input(3, mean=mean, scale=scale)
    raw = X * scale + mean
    y = answers((raw.astype(np.float64) - mean) / scale)
    from_state(STATE, LAYERS, input=source, check=(raw, y))
    with refused("by check"):
        from_state(STATE, LAYERS, input=source, check=(X, Y))


def test_missing_values_agree_with_missing_answers_alone():
    x = X.copy()
    x[3, 1] = np.nan
    y = answers(x)
    assert np.isnan(y[3]).all()
    from_state(STATE, LAYERS, check=(x, y))
    y[3, 0] = 0
    with refused("row 3"):
        from_state(STATE, LAYERS, check=(x, y))


def test_files_of_onnx_and_keras_take_answers_by_output(tmp_path):
    nodes = [node("Gemm", "x W b", "s", transB=1), node("Relu", "s", "r")]
    theirs = written(nodes, {"W": W1, "b": B1}, outputs=("r", "s"))
    s = X.astype(np.float64) @ W1.T.astype(np.float64) + B1
    from_onnx(theirs, check=(X, {"r": np.maximum(s, 0), "s": s}))
    with refused("output 's', column 0, row 0"):
        from_onnx(theirs, check=(X, {"r": np.maximum(s, 0), "s": -s}))
    with refused("expected the answers of r, s, got one array"):
        from_onnx(theirs, check=(X, s))
    one = sequential(input_layer(3), dense("d", activation="relu"))
    weights = {"dense/vars/0": W1.T, "dense/vars/1": B1}
    path = keras_file(tmp_path / "m.keras", one, weights)
    from_keras(path, check=(X, np.maximum(s, 0)))
    with refused("output 'd'"):
        from_keras(path, check=(X, s))


@pytest.fixture(scope="module")
def iris():
    x, y = load_iris(return_X_y=True, as_frame=True)
    return x, y


def fitted(kind, x, y):
    model = make_pipeline(
        StandardScaler(), kind(hidden_layer_sizes=(6,), max_iter=30, random_state=0)
    )
    return model.fit(x, y)


def test_an_estimator_is_compared_with_its_own_prediction(iris, monkeypatch):
    x, y = iris
    model = fitted(MLPClassifier, x, y)
    from_sklearn(model)
    mlp = model[-1]
    own = mlp.predict_proba
    # Nothing that a parameter tells of.
    monkeypatch.setattr(mlp, "predict_proba", lambda rows: own(rows)[:, ::-1], raising=False)
    with refused(r"output 'y', column 0, probe row 0 \(5.843, .*own prediction, got"):
        from_sklearn(model)
    monkeypatch.setattr(mlp, "predict_proba", lambda rows: own(rows)[:, :2])
    with refused(r"expected numbers of shape \(15, 3\), got float64 of shape \(15, 2\)"):
        from_sklearn(model)

    def warns(rows):
        warnings.warn("not to its liking", stacklevel=1)
        return own(rows)

    monkeypatch.setattr(mlp, "predict_proba", warns)
    from_sklearn(model)

    def fails(rows):
        raise RuntimeError("no such table")

    monkeypatch.setattr(mlp, "predict_proba", fails)
    with refused("own prediction: it fails for rows of 4 values .*no such table"):
        from_sklearn(model)


def test_a_transformer_with_a_method_of_its_own_is_found_out(iris, monkeypatch):
    x, y = iris
    model = fitted(MLPRegressor, x, y)
    monkeypatch.setattr(model[0], "transform", lambda rows: np.abs(rows), raising=False)
    with refused("own prediction"):
        from_sklearn(model)


def test_features_in_another_order_than_they_were_fitted_in_are_refused(iris):
    x, y = iris
    model = fitted(MLPRegressor, x, y)
    names = list(x.columns)
    assert from_sklearn(model, input=Input(4, features=names)).input.features == tuple(names)
    assert from_sklearn(model, input=Input(4, features=[*"abcd"])).input.features == (*"abcd",)
    with pytest.raises(NetworkError, match="expected features in the order of the fit"):
        from_sklearn(model, input=Input(4, features=names[::-1]))
    # Rows of a check too are matched by name.
    shuffled = x[names[::-1]]
    from_sklearn(model, check=(shuffled, model.predict(x)))


def test_probe_rows_are_a_few_of_either_sign_within_the_range_of_the_input():
    rows = probe_rows(Input(4, mean=[0, 5, -5, 1e5], scale=[1, 2, 3, 0.1]))
    assert rows.shape == (15, 4)
    assert (rows[0] == np.array([0, 5, -5, 1e5], np.float32)).all()
    signs = np.sign(rows - rows[0])
    assert (signs.min(axis=0) == -1).all()
    assert (signs.max(axis=0) == 1).all()
    low, high = np.array([0, 0], np.float32), np.array([1, 0.5], np.float32)
    within = probe_rows(Input(2, low=low, high=high))
    assert ((within >= low) & (within <= high)).all()
    np.testing.assert_array_equal(within, probe_rows(Input(2, low=low, high=high)))
