"""Sixty pipelines of scikit-learn as people write them, on its own data sets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import (
    ColumnTransformer,
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_linnerud,
    load_wine,
)
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    BaggingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import RFE, SelectKBest, VarianceThreshold, f_regression
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNetCV,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    RidgeCV,
    SGDClassifier,
)
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, RandomizedSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, LinearSVC

from forwardpass.models import Categorical, Network

Data: TypeAlias = tuple[str, Any, Any]
"""Name, rows and targets of a data set."""


@dataclass(frozen=True)
class Case:
    """A pipeline that is not fitted, and what it is fitted on."""

    name: str
    model: BaseEstimator
    data: str
    """The data set of scikit-learn."""
    x: Any
    """Rows: an array of numbers, or a data frame."""
    y: Any


def sent(network: Network, x: Any) -> Any:
    """Return what a caller sends to a network: of a data frame the columns that it has."""
    if not hasattr(x, "columns"):
        return x
    names: list[str] = []
    for source in network.inputs:
        names += [source.name] if isinstance(source, Categorical) else source.features
    return x[names]


def pipelines() -> Iterator[Case]:
    """Yield all, the same each time."""
    iris, wine, cancer, digits = (
        _rows(load) for load in (load_iris, load_wine, load_breast_cancer, load_digits)
    )
    yield from _linear_classifiers(iris, wine, cancer, digits)
    yield from _columns(wine, cancer, digits)
    yield from _categories()
    yield from _ensembles(iris, wine, cancer)
    yield from _regressions(_rows(load_diabetes), _rows(load_linnerud))


def _rows(load: Any) -> Data:
    """Return the name of a data set, its rows and targets.

    float32 holds the rows exactly, so that all compute from the same.
    """
    x, y = load(return_X_y=True)
    name = load.__name__.removeprefix("load_").replace("_", " ")
    return name, x.astype(np.float32).astype(np.float64), y


def _logistic(**settings: Any) -> LogisticRegression:
    return LogisticRegression(max_iter=3000, **settings)


def _network(kind: Any, **settings: Any) -> Any:
    return kind(hidden_layer_sizes=(16,), max_iter=200, random_state=0, **settings)


def _linear_classifiers(iris: Data, wine: Data, cancer: Data, digits: Data) -> Iterator[Case]:
    names = np.array(["malignant", "benign"])[cancer[2]]
    yield Case("LogisticRegression, 3 classes", _logistic(), *iris)
    yield Case("scaled LogisticRegression, text labels", _scaled(_logistic()), *cancer[:2], names)
    yield Case("LinearSVC, 2 classes", _scaled(LinearSVC()), *cancer)
    yield Case("LinearSVC, 3 classes", _scaled(LinearSVC()), *wine)
    yield Case("SVC, linear kernel", _scaled(SVC(kernel="linear")), *cancer)
    descent = SGDClassifier(loss="log_loss", random_state=0)
    yield Case(
        "SGDClassifier, log_loss, 10 classes", make_pipeline(MinMaxScaler(), descent), *digits
    )
    huber = SGDClassifier(loss="modified_huber", alpha=0.1, random_state=0)
    yield Case("SGDClassifier, modified_huber", make_pipeline(RobustScaler(), huber), *cancer)
    yield Case(
        "RidgeClassifier, 10 classes", make_pipeline(MaxAbsScaler(), RidgeClassifier()), *digits
    )
    yield Case("LinearDiscriminantAnalysis", LinearDiscriminantAnalysis(), *wine)
    yield Case("MultinomialNB", make_pipeline(MinMaxScaler(), MultinomialNB()), *digits)
    yield Case("MLPClassifier, 2 classes", _scaled(_network(MLPClassifier)), *cancer)
    yield Case(
        "MLPClassifier, 10 classes", make_pipeline(MinMaxScaler(), _network(MLPClassifier)), *digits
    )
    labels = (iris[1][:, :2] > np.median(iris[1][:, :2], axis=0)).astype(int)
    yield Case("MLPClassifier, 2 labels", _scaled(_network(MLPClassifier)), *iris[:2], labels)
    yield Case("OneVsRestClassifier, 3 classes", _scaled(OneVsRestClassifier(_logistic())), *wine)
    yield Case("OneVsRestClassifier, 2 labels", OneVsRestClassifier(_logistic()), *iris[:2], labels)
    kinds = np.column_stack([iris[2], labels[:, 0]])
    yield Case(
        "MultiOutputClassifier, 2 targets",
        _scaled(MultiOutputClassifier(_logistic())),
        *iris[:2],
        kinds,
    )


def _scaled(model: Any) -> Any:
    return make_pipeline(StandardScaler(), model)


def _columns(wine: Data, cancer: Data, digits: Data) -> Iterator[Case]:
    yield Case(
        "PCA, LogisticRegression", make_pipeline(StandardScaler(), PCA(5), _logistic()), *wine
    )
    whitened = make_pipeline(PCA(20, whiten=True, random_state=0), _logistic())
    yield Case("whitened PCA, 10 classes", whitened, *digits)
    reduced = make_pipeline(TruncatedSVD(16, random_state=0), LinearDiscriminantAnalysis())
    yield Case("TruncatedSVD, LinearDiscriminantAnalysis", reduced, *digits)
    chosen = make_pipeline(StandardScaler(), SelectKBest(k=6), _logistic())
    yield Case("SelectKBest", chosen, *wine)
    varied = make_pipeline(VarianceThreshold(0.1), RobustScaler(), _network(MLPClassifier))
    yield Case("VarianceThreshold, MLPClassifier", varied, *cancer)
    ranked = make_pipeline(StandardScaler(), RFE(_logistic(), n_features_to_select=5), LinearSVC())
    yield Case("RFE, LinearSVC", ranked, *wine)
    clipped = make_pipeline(MinMaxScaler(clip=True), _logistic())
    yield Case("MinMaxScaler with clip", clipped, *wine)
    kinds = make_column_transformer(
        (StandardScaler(), slice(0, 5)), (MinMaxScaler(), [7, 6]), remainder="passthrough"
    )
    yield Case("ColumnTransformer of numbers", make_pipeline(kinds, _logistic()), *wine)
    union = FeatureUnion(
        [("scaled", StandardScaler()), ("parts", make_pipeline(RobustScaler(), PCA(2)))]
    )
    yield Case("FeatureUnion", make_pipeline(union, _logistic()), *wine)
    squares = make_pipeline(StandardScaler(), PolynomialFeatures(2), _logistic())
    yield Case("PolynomialFeatures", squares, *wine)


def _mixed() -> tuple[str, pd.DataFrame, Any]:
    """Return patients by numbers, some of them missing, and by categories."""
    x, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    rng = np.random.default_rng(0)
    numbers = x[["bmi", "bp", "s1", "s5"]].astype(np.float32).astype(np.float64)
    for name in ("bp", "s5"):
        numbers.loc[rng.random(len(x)) < 0.1, name] = np.nan
    age = pd.cut(x["age"], [0, 30, 45, 60, 78, 100], labels=["30", "45", "60", "78", "older"])
    frame = numbers.assign(
        sex=np.array(["f", "m"])[x["sex"].to_numpy().astype(int) - 1],
        age=age.astype(object),
        group=rng.integers(1, 6, len(x)),
    )
    frame.loc[rng.random(len(x)) < 0.05, "age"] = np.nan
    return "diabetes, mixed", frame, y.to_numpy()


_TEXTS, _NUMBERS = ["sex", "age"], ["bmi", "bp", "s1", "s5"]


def _categories() -> Iterator[Case]:
    data, frame, y = _mixed()
    high = np.where(y > np.median(y), "high", "low")
    levels = np.digitize(y, [90, 180])
    numbers = (
        make_pipeline(SimpleImputer(), StandardScaler()),
        make_column_selector(dtype_include="number"),
    )
    frequent = SimpleImputer(strategy="most_frequent")
    ignoring = OneHotEncoder(handle_unknown="ignore")
    texts = (make_pipeline(frequent, ignoring), make_column_selector(dtype_exclude="number"))

    def case(name: str, columns: Any, model: Any, targets: Any) -> Case:
        return Case(name, make_pipeline(columns, model), data, frame, targets)

    usual = make_column_transformer(numbers, texts)
    yield case("numbers and texts, imputed and encoded", usual, _logistic(), levels)
    filled = SimpleImputer(strategy="median", keep_empty_features=True)
    yield Case(
        "SimpleImputer, MLPClassifier",
        make_pipeline(filled, StandardScaler(), _network(MLPClassifier)),
        data,
        frame[_NUMBERS].to_numpy(),
        high,
    )
    first = make_column_transformer(
        (OneHotEncoder(drop="first"), ["sex", "group"]), (SimpleImputer(), _NUMBERS)
    )
    yield case("OneHotEncoder, first dropped", first, LinearRegression(), y)
    rare = OneHotEncoder(min_frequency=40, handle_unknown="infrequent_if_exist")
    few = ColumnTransformer(
        [("texts", make_pipeline(frequent, rare), _TEXTS), ("numbers", "passthrough", ["bmi"])]
    )
    yield case("OneHotEncoder, rare categories as one", few, Ridge(), y)
    own = make_column_transformer((OneHotEncoder(), _TEXTS), (MinMaxScaler(), ["s1"]))
    yield case("OneHotEncoder, missing as a category", own, LinearSVC(), high)
    orders = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
    )
    ordinal = make_column_transformer((orders, ["age", "group"]), (StandardScaler(), ["bmi"]))
    yield case("OrdinalEncoder, MLPRegressor", ordinal, _network(MLPRegressor, solver="lbfgs"), y)
    means = TargetEncoder(target_type="continuous", random_state=0)
    encoded = make_column_transformer((means, ["age", "group"]), ("passthrough", ["s1"]))
    yield case("TargetEncoder, Ridge", encoded, Ridge(), y)
    grid = GridSearchCV(
        make_pipeline(usual, _logistic()), {"logisticregression__C": [0.1, 1]}, cv=3
    )
    yield Case("GridSearchCV over numbers and texts", grid, data, frame, high)
    labels = np.column_stack([y > 100, y > 200]).astype(int)
    yield case("numbers and texts, 2 labels", usual, _network(MLPClassifier), labels)
    machine = CalibratedClassifierCV(LinearSVC())
    yield case("numbers and texts, CalibratedClassifierCV", usual, machine, levels)


def _ensembles(iris: Data, wine: Data, cancer: Data) -> Iterator[Case]:
    parts = [
        ("a", _scaled(_logistic())),
        ("b", make_pipeline(MinMaxScaler(), _network(MLPClassifier))),
    ]
    soft = VotingClassifier(parts, voting="soft")
    yield Case("VotingClassifier, 3 classes", soft, *wine)
    yield Case(
        "VotingClassifier, weighted",
        VotingClassifier(parts, voting="soft", weights=[3, 1]),
        *cancer,
    )
    yield Case("StackingClassifier", StackingClassifier(parts, cv=3), *wine)
    bagged = BaggingClassifier(_logistic(), 5, max_features=0.6, random_state=0)
    yield Case("BaggingClassifier", _scaled(bagged), *cancer)
    yield Case(
        "CalibratedClassifierCV, 2 classes", CalibratedClassifierCV(_scaled(LinearSVC())), *cancer
    )
    yield Case(
        "CalibratedClassifierCV, 3 classes", _scaled(CalibratedClassifierCV(LinearSVC())), *wine
    )
    alone = CalibratedClassifierCV(_scaled(LinearSVC()), ensemble=False)
    yield Case("CalibratedClassifierCV, no ensemble", alone, *wine)
    grid = GridSearchCV(_scaled(_logistic()), {"logisticregression__C": [0.1, 1]}, cv=3)
    yield Case("GridSearchCV", grid, *wine)
    searched = RandomizedSearchCV(
        _scaled(LinearSVC()), {"linearsvc__C": [0.01, 0.1, 1]}, n_iter=2, random_state=0
    )
    yield Case("RandomizedSearchCV", searched, *cancer)
    yield Case(
        "FixedThresholdClassifier",
        FixedThresholdClassifier(_scaled(_logistic()), threshold=0.2),
        *cancer,
    )
    yield Case("RandomForestClassifier", RandomForestClassifier(10, random_state=0), *iris)
    yield Case("KNeighborsClassifier", _scaled(KNeighborsClassifier()), *iris)


def _regressions(diabetes: Data, body: Data) -> Iterator[Case]:
    yield Case("LinearRegression", LinearRegression(), *diabetes)
    yield Case("LinearRegression, 3 targets", LinearRegression(), *body)
    yield Case("RidgeCV", make_pipeline(RobustScaler(), RidgeCV()), *diabetes)
    yield Case(
        "ElasticNetCV after SelectKBest",
        make_pipeline(SelectKBest(f_regression, k=6), ElasticNetCV()),
        *diabetes,
    )
    yield Case("PoissonRegressor", _scaled(PoissonRegressor()), *diabetes)
    yield Case("PLSRegression, 3 targets", PLSRegression(2), *body)
    yield Case("MultiOutputRegressor of Ridge", MultiOutputRegressor(_scaled(Ridge())), *body)
    lbfgs = _network(MLPRegressor, solver="lbfgs")
    yield Case("MLPRegressor, 3 targets", _scaled(lbfgs), *body)
    scaled = TransformedTargetRegressor(_scaled(lbfgs), transformer=StandardScaler())
    yield Case("TransformedTargetRegressor, scaled", scaled, *diabetes)
    logarithmic = TransformedTargetRegressor(_scaled(Ridge()), func=np.log, inverse_func=np.exp)
    yield Case("TransformedTargetRegressor, log", logarithmic, *diabetes)
    parts = [("a", _scaled(Ridge())), ("b", make_pipeline(MinMaxScaler(), lbfgs))]
    yield Case("VotingRegressor", VotingRegressor(parts, weights=[2, 1]), *diabetes)
    yield Case("StackingRegressor", StackingRegressor(parts, passthrough=True, cv=3), *diabetes)
