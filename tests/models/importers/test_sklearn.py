"""Every kind of MLP of scikit-learn, against its own prediction in float64."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_linnerud
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from support.imported import assert_imported

from forwardpass.models import Input, NetworkError
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.sklearn import from_sklearn

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SETTINGS = {"hidden_layer_sizes": (8, 5), "max_iter": 30, "random_state": 0}


def classifier(**settings):
    return MLPClassifier(**(SETTINGS | settings))


def regressor(**settings):
    return MLPRegressor(**(SETTINGS | settings))


def load(loader):
    """Rows as a client sends them, float32, as scikit-learn computes with them, and targets."""
    x, y = loader(return_X_y=True)
    x = x.astype(np.float32)
    return x, x.astype(np.float64), y


def labels_of(network):
    (output,) = network.outputs
    return output.labels


def symptoms(x, count):
    """Labels that are not exclusive, for the rows of iris."""
    return (x[:, :count] > np.median(x[:, :count], axis=0)).astype(int)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (7,), (6, 5, 4)])
def test_a_classifier_of_many_classes_gives_predict_proba(activation, hidden):
    x, x64, y = load(load_iris)
    model = classifier(activation=activation, hidden_layer_sizes=hidden).fit(x64, y)
    network = from_sklearn(model)
    assert network.sizes == (4, *hidden, 3)
    assert network.layers[-1].activation == "softmax"
    assert labels_of(network) == ("0", "1", "2")
    assert_imported(network, x, {"y": model.predict_proba(x64)})


def test_a_binary_classifier_gives_the_probability_of_its_second_class():
    x, x64, y = load(load_breast_cancer)
    model = make_pipeline(StandardScaler(), classifier()).fit(x64, np.array(["b", "m"])[y])
    network = from_sklearn(model)
    assert labels_of(network) == ("b", "m")
    assert network.outputs[0].thresholds == (0.5,)
    assert_imported(network, x, {"y": model.predict_proba(x64)[:, 1:]})


def test_a_binary_classifier_gives_both_probabilities_if_asked():
    x, x64, y = load(load_breast_cancer)
    model = make_pipeline(StandardScaler(), classifier()).fit(x64, np.array(["b", "m"])[y])
    network = from_sklearn(model, both_probabilities=True, output="probabilities")
    assert labels_of(network) == ("b", "m")
    assert network.outputs[0].thresholds == ()
    assert_imported(network, x, {"probabilities": model.predict_proba(x64)})


# skl2onnx 1.20 gets two labels wrong: it takes them for two classes.
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("both", [False, True])
def test_a_multilabel_classifier_gives_a_probability_a_label(count, both):
    x, x64, _ = load(load_iris)
    model = classifier().fit(x64, symptoms(x64, count))
    network = from_sklearn(model, both_probabilities=both)
    assert network.layers[-1].activation == "sigmoid"
    assert len(labels_of(network)) == count
    assert network.outputs[0].thresholds == (0.5,) * count
    expected = model.predict_proba(x64)
    assert expected.shape == (len(x), count)
    assert_imported(network, x, {"y": expected})


def test_a_regressor_of_one_output_gives_a_column():
    x, x64, y = load(load_diabetes)
    model = regressor().fit(x64, y)
    network = from_sklearn(model, units=("points",))
    assert network.outputs[0].units == ("points",)
    assert_imported(network, x, {"y": model.predict(x64)[:, np.newaxis]})


# skl2onnx 1.20 gets several outputs wrong: it reshapes them to one column.
def test_a_regressor_of_several_outputs_gives_a_column_each():
    x, x64, y = load(load_linnerud)
    model = make_pipeline(StandardScaler(), regressor(max_iter=500)).fit(x64, y)
    network = from_sklearn(model, labels=("weight", "waist", "pulse"))
    assert labels_of(network) == ("weight", "waist", "pulse")
    expected = model.predict(x64)
    assert expected.shape == (20, 3)
    assert_imported(network, x, {"y": expected})


@pytest.mark.parametrize("columns", [1, 3])
def test_poisson_regression_gives_rates(columns):
    x, x64, y = load(load_linnerud)
    try:
        model = make_pipeline(StandardScaler(), regressor(loss="poisson", max_iter=200))
    except TypeError:
        pytest.skip("scikit-learn has it from 1.7 on")
    model.fit(x64, y[:, 0] if columns == 1 else y)
    network = from_sklearn(model)
    assert network.layers[-1].activation == "exp"
    assert_imported(network, x, {"y": model.predict(x64).reshape(len(x), columns)})


@pytest.mark.parametrize(
    "scalers",
    [
        [StandardScaler()],
        [StandardScaler(with_mean=False)],
        [StandardScaler(with_std=False)],
        [StandardScaler(with_mean=False, with_std=False)],
        [MinMaxScaler()],
        [MinMaxScaler((-1, 3))],
        [MaxAbsScaler()],
        [MaxAbsScaler(), StandardScaler(), MinMaxScaler((0.1, 0.9)), StandardScaler()],
        ["passthrough", None, FunctionTransformer(), StandardScaler()],
        [make_pipeline(MinMaxScaler(), StandardScaler()), make_pipeline(StandardScaler())],
    ],
    ids=str,
)
def test_scalers_become_the_scaling_of_the_input(scalers):
    x, x64, y = load(load_breast_cancer)
    steps = [(f"s{k}", scaler) for k, scaler in enumerate(scalers)]
    model = Pipeline([*steps, ("mlp", classifier(hidden_layer_sizes=(4,)))]).fit(x64, y)
    network = from_sklearn(model)
    assert len(network.layers) == 2
    assert_imported(network, x, {"y": model.predict_proba(x64)[:, 1:]})


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), MaxAbsScaler()], ids=str)
def test_a_feature_that_does_not_vary_or_is_zero_is_kept(scaler):
    x, x64, y = load(load_iris)
    for rows in (x, x64):
        rows[:, 1], rows[:, 2] = 3.0, 0.0
    model = make_pipeline(scaler, classifier()).fit(x64, y)
    assert_imported(from_sklearn(model), x, {"y": model.predict_proba(x64)})


def test_features_far_from_zero_keep_their_accuracy():
    x, x64, y = load(load_iris)
    x = (x64 * 0.01 + 2000.003).astype(np.float32)
    model = make_pipeline(StandardScaler(), classifier(max_iter=200)).fit(x.astype(np.float64), y)
    assert_imported(from_sklearn(model), x, {"y": model.predict_proba(x.astype(np.float64))})


@pytest.mark.parametrize("scaler", [None, StandardScaler(), MinMaxScaler((1, 2)), MaxAbsScaler()])
@pytest.mark.parametrize("columns", [1, 3])
def test_scaled_targets_become_part_of_the_last_layer(scaler, columns):
    x, x64, y = load(load_linnerud)
    inner = make_pipeline(StandardScaler(), regressor(max_iter=300))
    model = TransformedTargetRegressor(inner, transformer=scaler)
    model.fit(x64, y[:, 0] if columns == 1 else y)
    network = from_sklearn(model)
    assert len(network.layers) == 3
    assert_imported(network, x, {"y": model.predict(x64).reshape(len(x), columns)})


def test_a_pipeline_may_end_with_scaled_targets():
    x, x64, y = load(load_linnerud)
    last = TransformedTargetRegressor(regressor(max_iter=300), transformer=StandardScaler())
    model = make_pipeline(StandardScaler(), last).fit(x64, y)
    assert_imported(from_sklearn(model), x, {"y": model.predict(x64)})


def test_an_estimator_fitted_in_float32_keeps_its_bits():
    x, _, y = load(load_iris)
    model = classifier().fit(x, y)
    network = from_sklearn(model)
    for layer, W, b in zip(network.layers, model.coefs_, model.intercepts_, strict=True):
        assert W.dtype == np.float32
        assert layer.W.tobytes() == np.ascontiguousarray(W.T).tobytes()
        assert layer.b.tobytes() == b.tobytes()


def test_features_are_named_as_the_estimator_was_fitted():
    _, x, y = load(load_iris)
    model = make_pipeline(StandardScaler(), classifier()).fit(x, y)
    assert from_sklearn(model).input.features == ()
    # As fit does for the columns of a data frame.
    model[0].feature_names_in_ = np.array(["sl", "sw", "pl", "pw"], dtype=object)
    network = from_sklearn(model, name="iris", provenance={"data": "Fisher"})
    assert network.input == from_sklearn(model).input
    assert network.input.features == ("sl", "sw", "pl", "pw")
    assert network.name == "iris"
    assert network.provenance["data"] == "Fisher"
    assert network.provenance["source"].startswith("scikit-learn 1.")


def test_a_given_input_brings_its_names_and_its_scaling():
    x, x64, y = load(load_iris)
    model = make_pipeline(StandardScaler(), classifier()).fit(x64, y)
    network = from_sklearn(model, input=Input(4, "cm", units=["cm"] * 4, scale=[10, 10, 10, 10]))
    assert network.input.name == "cm"
    assert_imported(network, x * 10, {"y": model.predict_proba((x * 10).astype(np.float64) / 10)})


class Mine(MLPClassifier):
    """It could predict in any way."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (classifier(), r"estimator \(MLPClassifier\): not fitted"),
        (make_pipeline(classifier()), r"step 'mlpclassifier' \(MLPClassifier\): not fitted"),
        (
            make_pipeline(PolynomialFeatures(2), classifier()),
            r"step 'polynomialfeatures' \(PolynomialFeatures\): no part of a Network; .*skl2onnx",
        ),
        (
            make_pipeline(FunctionTransformer(np.log1p), classifier()),
            r"step 'functiontransformer' \(FunctionTransformer\): the function log1p, which .*; "
            "apply it before the call",
        ),
        (Mine(**SETTINGS), r"estimator \(Mine\): no part of a Network"),
        (DecisionTreeClassifier(), r"estimator \(DecisionTreeClassifier\): no part of a Network"),
        (
            GridSearchCV(classifier(), {"max_iter": [5]}, refit=False),
            r"estimator \(GridSearchCV\): no best_estimator_; fit it with refit=True",
        ),
        (
            TransformedTargetRegressor(DecisionTreeRegressor()),
            r"regressor \(DecisionTreeRegressor\)",
        ),
        (
            TransformedTargetRegressor(Ridge(), transformer=MinMaxScaler(clip=True)),
            r"transformer \(MinMaxScaler\): no scaler",
        ),
        (
            VotingClassifier([("a", LogisticRegression()), ("b", LinearSVC())]),
            r"estimator \(VotingClassifier\): votes by class: .*; set voting='soft'",
        ),
        (
            SGDClassifier(loss="modified_huber"),
            r"estimator \(SGDClassifier\): probabilities of loss='modified_huber'",
        ),
        (
            CalibratedClassifierCV(LinearSVC(), method="isotonic", cv=2),
            r"estimator \(CalibratedClassifierCV\): method='isotonic'; calibrate with .*'sigmoid'",
        ),
        (
            OneVsRestClassifier(make_pipeline(StandardScaler(), CalibratedClassifierCV(cv=2))),
            r"estimator \(OneVsRestClassifier\): probabilities that are not sigmoids",
        ),
        (MultiOutputClassifier(LinearSVC()), r"\(MultiOutputClassifier\): .*without probabilit"),
        (SVC(), r"estimator \(SVC\): kernel 'rbf'"),
        (SVC(kernel="linear"), r"\(SVC\): votes between pairs of classes; use LinearSVC"),
        (
            make_pipeline(StandardScaler(), GaussianNB()),
            r"step 'gaussiannb' \(GaussianNB\): no part of a Network",
        ),
        (
            TransformedTargetRegressor(regressor(), func=np.log1p, inverse_func=np.expm1),
            r"transformer \(FunctionTransformer\)",
        ),
        (make_pipeline(StandardScaler()), r"step .* \(StandardScaler\): no estimator at the end"),
        (make_pipeline(StandardScaler(), "passthrough"), r"\(Pipeline\): no estimator at the end"),
        ({"mlp": classifier()}, r"estimator \(dict\): not an estimator"),
        ("model.joblib", "file 'model.joblib': a pickle, which runs whatever code it holds"),
        (Path("model.PKL"), "file 'model.PKL': a pickle"),
        ("model.onnx", "file 'model.onnx': not a .skops file; .* save it with skops"),
    ],
)
def test_what_a_network_cannot_represent_is_refused_by_name(model, message):
    _, x, y = load(load_iris)
    if "not fitted" not in message and hasattr(model, "fit"):
        several = "MultiOutput" in message
        model.fit(x, np.column_stack([y, y]) if several else y)
    with pytest.raises(UnsupportedSourceError, match=message):
        from_sklearn(model)


def test_a_classifier_of_one_class_is_refused():
    _, x, y = load(load_iris)
    with pytest.raises(UnsupportedSourceError, match=r"\(MLPClassifier\): fitted on 1 class"):
        from_sklearn(classifier().fit(x, y * 0))


def test_labels_of_another_number_are_refused():
    _, x, y = load(load_iris)
    with pytest.raises(NetworkError, match="output 'y': expected 3 labels, one per column, got 2"):
        from_sklearn(classifier().fit(x, y), labels=("a", "b"))


def test_the_module_is_there_without_scikit_learn():
    program = (
        "import sys; sys.modules.update(sklearn=None, torch=None, keras=None, h5py=None)\n"
        "import forwardpass.models.importers.sklearn, forwardpass.models.importers.torch\n"
        "import forwardpass.models.importers.keras, forwardpass.models.importers.state"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
