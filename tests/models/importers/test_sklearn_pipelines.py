"""Pipelines of scikit-learn as people write them, against their own prediction in float64."""

import numpy as np
import pandas as pd
import pytest
from benchmarks.pipelines import Case, pipelines, sent
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from support.imported import assert_imported

from forwardpass.models import Input, NetworkError, Output, UnsupportedSourceError
from forwardpass.models.importers.sklearn import from_sklearn

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:.TargetEncoder.shuffle:FutureWarning"),
    pytest.mark.filterwarnings("ignore:X does not have valid feature names"),
]

CASES = list(pipelines())
REFUSED = {
    "PolynomialFeatures": r"\(PolynomialFeatures\): no part of a Network; .* skl2onnx",
    "RandomForestClassifier": r"\(RandomForestClassifier\): no part of a Network",
    "KNeighborsClassifier": r"\(KNeighborsClassifier\): no part of a Network",
}


def own(model, x):
    """A model's own answers, an array for each output, two classes as one column."""
    method = next(
        name for name in ("predict_proba", "decision_function", "predict") if hasattr(model, name)
    )
    answers = getattr(model, method)(x)
    several = answers if isinstance(answers, list) else [answers]
    columns = [np.asarray(each).reshape(len(x), -1) for each in several]
    both = method == "predict_proba" and np.ndim(model.classes_[0]) == 0
    multilabel = np.ndim(model.predict(x)) == 2 and not isinstance(answers, list)
    cut = both or isinstance(answers, list)
    return [c[:, 1:] if cut and c.shape[1] == 2 and not multilabel else c for c in columns]


def decided(output: Output, values):
    """The labels that an output's columns give."""
    labels = np.array(output.labels)
    if not output.thresholds:
        return labels[values.argmax(axis=1)]
    above = values > np.array(output.thresholds)
    return labels[above[:, 0].astype(int)] if len(output.thresholds) == 1 else above.astype(int)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_pipeline_becomes_a_network_with_its_answers_and_labels_or_is_refused(case: Case):
    model = case.model.fit(case.x, case.y)
    if case.name in REFUSED:
        with pytest.raises(UnsupportedSourceError, match=REFUSED[case.name]):
            from_sklearn(model)
        return
    network = from_sklearn(model)
    names = [output.name for output in network.outputs]
    x = sent(network, case.x)
    assert_imported(network, x, dict(zip(names, own(model, case.x), strict=True)))
    predicted = np.asarray(model.predict(case.x))
    answers = network(x)
    for number, output in enumerate(network.outputs):
        if output.labels:
            theirs = predicted if len(names) == 1 else predicted[:, number]
            assert decided(output, answers[output.name]).astype(theirs.dtype).tolist() == (
                theirs.tolist()
            )


def test_most_of_them_become_networks():
    assert len(CASES) == 60
    assert len(REFUSED) <= 5


def load(loader):
    x, y = loader(return_X_y=True)
    return x.astype(np.float32).astype(np.float64), y


def test_a_chain_of_scalers_and_selected_columns_makes_no_layer():
    x, y = load(load_wine)
    columns = make_column_transformer(
        (make_pipeline(StandardScaler(), MinMaxScaler()), [4, 2]), (MaxAbsScaler(), slice(5, 8))
    )
    model = make_pipeline(columns, StandardScaler(), LogisticRegression()).fit(x, y)
    network = from_sklearn(model)
    assert network.sizes == (13, 3)
    assert (network.layers[0].W[:, [0, 1, 3, 8, 9, 10, 11, 12]] == 0).all()
    assert network.input.scale is not None
    assert (network.input.scale[[0, 1, 3]] == 1).all()


@pytest.mark.parametrize(
    "columns",
    [
        ["alcohol", "hue"],
        lambda _: ["alcohol", "hue"],
        make_column_selector("alcohol$|hue"),
        [name in ("alcohol", "hue") for name in load_wine().feature_names],
    ],
    ids=["names", "callable", "selector", "mask"],
)
def test_columns_are_chosen_in_any_way_and_features_have_the_names_of_the_fit(columns):
    frame, y = load_wine(return_X_y=True, as_frame=True)
    frame = frame.astype(np.float32).astype(np.float64)
    chosen = make_column_transformer((StandardScaler(), columns), verbose_feature_names_out=False)
    model = make_pipeline(chosen, LogisticRegression()).fit(frame, y)
    network = from_sklearn(model)
    assert network.input.features == ("alcohol", "hue")
    assert_imported(network, sent(network, frame), {"y": model.predict_proba(frame)})


def test_estimators_that_scale_almost_alike_share_a_scaling_and_others_keep_their_own():
    x, y = load(load_diabetes)
    standard, narrow = (make_pipeline(each, Ridge()) for each in (StandardScaler(), MinMaxScaler()))
    network = from_sklearn(VotingRegressor([("a", standard), ("b", narrow)]).fit(x, y))
    assert network.sizes == (10, 1)
    assert network.input.scalings == ()
    x = x * 1e-3 + 100
    x = x.astype(np.float32).astype(np.float64)
    model = VotingRegressor([("a", standard), ("b", Ridge())]).fit(x, y)
    network = from_sklearn(model)
    assert [scaling.name for scaling in network.input.scalings] == ["x scaled"]
    assert_imported(network, x, {"y": model.predict(x)[:, np.newaxis]})


def test_both_probabilities_of_an_average_are_given_if_asked():
    x, y = load(load_breast_cancer)
    parts = [("a", LogisticRegression()), ("b", MLPClassifier((4,), max_iter=20))]
    model = make_pipeline(StandardScaler(), VotingClassifier(parts, voting="soft")).fit(x, y)
    network = from_sklearn(model, both_probabilities=True)
    assert network.outputs[0].thresholds == ()
    assert_imported(network, x, {"y": model.predict_proba(x)})
    margins = make_pipeline(StandardScaler(), LinearSVC()).fit(x, y)
    with pytest.raises(UnsupportedSourceError, match="no probabilities, of which both were asked"):
        from_sklearn(margins, both_probabilities=True)


def test_labels_that_predict_does_not_give_are_refused(monkeypatch):
    x, y = load(load_wine)
    model = make_pipeline(StandardScaler(), LinearSVC()).fit(x, y)
    from_sklearn(model)
    monkeypatch.setattr(model[-1], "predict", lambda x: np.ones(len(x), int))
    with pytest.raises(UnsupportedSourceError, match=r"labels of output 'y', .* got [02]"):
        from_sklearn(model)


def test_a_threshold_of_its_own_is_kept_unless_both_probabilities_are_asked_for():
    x, y = load(load_breast_cancer)
    model = FixedThresholdClassifier(LogisticRegression(max_iter=50), threshold=0.25)
    model = make_pipeline(StandardScaler(), model).fit(x, y)
    assert from_sklearn(model).outputs[0].thresholds == (0.25,)
    with pytest.raises(UnsupportedSourceError, match=r"a threshold of 0.25, which both"):
        from_sklearn(model, both_probabilities=True)


def test_targets_of_their_own_classes_are_outputs_of_their_own():
    x, y = load(load_iris)
    model = MultiOutputClassifier(LogisticRegression(max_iter=500))
    model.fit(x, np.column_stack([np.array(["se", "ve", "vi"])[y], np.where(y == 0, "a", "b")]))
    network = from_sklearn(model, output="t")
    assert [(o.name, o.labels, o.thresholds) for o in network.outputs] == [
        ("t0", ("se", "ve", "vi"), ()),
        ("t1", ("a", "b"), (0.5,)),
    ]
    with pytest.raises(NetworkError, match="labels: expected none, as there are 2 outputs"):
        from_sklearn(model, labels=("a", "b"))


@pytest.mark.parametrize(
    ("function", "count"), [(np.tanh, 2), (np.abs, 3), (np.negative, 2), (None, 1)]
)
def test_functions_that_a_network_has_are_layers(function, count):
    x, y = load(load_wine)
    model = make_pipeline(StandardScaler(), FunctionTransformer(function), LogisticRegression())
    network = from_sklearn(model.fit(x, y))
    assert len(network.layers) == count
    assert_imported(network, x, {"y": model.predict_proba(x)})


def test_a_rate_that_another_estimator_reads_is_refused():
    x, y = load(load_diabetes)
    model = VotingRegressor([("a", Ridge()), ("b", PoissonRegressor())]).fit(x, y)
    with pytest.raises(UnsupportedSourceError, match=r"VotingRegressor\): exp, which .* reads"):
        from_sklearn(model)


def test_a_given_input_keeps_its_scaling_before_several_of_the_source():
    x, y = load(load_wine)
    parts = [
        ("a", make_pipeline(StandardScaler(), PCA(3), LogisticRegression())),
        ("b", LogisticRegression(max_iter=300)),
    ]
    model = VotingClassifier(parts, voting="soft").fit(x, y)
    network = from_sklearn(model, input=Input(13, scale=np.full(13, 10.0)))
    assert_imported(network, x * 10, {"y": model.predict_proba(x)})


def test_a_table_and_its_columns_are_matched_by_name():
    frame, y = load_wine(return_X_y=True, as_frame=True)
    frame = frame.astype(np.float32).astype(np.float64)
    network = from_sklearn(make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, y))
    turned = pd.DataFrame({name: frame[name] for name in reversed(frame.columns)})
    np.testing.assert_array_equal(network(turned)["y"], network(frame)["y"])
