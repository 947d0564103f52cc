"""scikit-learn's estimators that are sums of what they read, or networks of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forwardpass.models.activations import ActivationName, HardSigmoid
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.sklearn.columns import unsupported
from forwardpass.models.importers.sklearn.reader import Estimate, Reader
from forwardpass.models.importers.sklearn.tables import Answer, Sums, Table
from forwardpass.models.importers.steps import real
from forwardpass.proto.verdicts import DEFAULT_THRESHOLD

_ACTIVATIONS: Mapping[str, ActivationName] = {
    "identity": "identity",
    "logistic": "sigmoid",
    "relu": "relu",
    "tanh": "tanh",
    "softmax": "softmax",
    "exp": "exp",
}


def classes_of(part: str, model: Any) -> tuple[str, ...]:
    """Return a classifier's classes, or labels, as text."""
    if len(model.classes_) == 1:
        raise UnsupportedSourceError(
            part, f"fitted on 1 class ({model.classes_[0]})", "fit it on at least two"
        )
    return tuple(str(each) for each in model.classes_)


def probabilities(
    sums: Sums, classes: tuple[str, ...], activation: ActivationName, decision: Sums | None
) -> Answer:
    """Return the answer of a classifier that has probabilities; a sigmoid is one for each column.

    Columns decide by themselves if there is one, or if each is a sigmoid.
    """
    alone = activation == "sigmoid" or len(sums.b) == 1
    return Answer(
        sums=sums,
        activation=activation,
        classes=classes,
        thresholds=(DEFAULT_THRESHOLD,) * len(sums.b) if alone else (),
        method="predict_proba",
        decision=decision,
    )


def decisions(sums: Sums, classes: tuple[str, ...], *, multilabel: bool = False) -> Answer:
    """Return the answer of a classifier that has only a decision function."""
    alone = multilabel or len(sums.b) == 1
    return Answer(
        sums=sums,
        classes=classes,
        thresholds=(0.0,) * len(sums.b) if alone else (),
        method="decision_function",
        decision=sums,
    )


def _linear(part: str, model: Any, table: Table) -> Sums:
    """Return coef_ and intercept_ as the sums that they are."""
    W = np.atleast_2d(real(part, "coef_", model.coef_))
    b = np.broadcast_to(real(part, "intercept_", model.intercept_).reshape(-1), W.shape[:1])
    return Sums(table, W, b)


def _regression(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    return [Answer(sums=_linear(part, model, table))]


def _projection(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    return _regression(reader, part, model, table.scaled(real(part, "_x_mean", model._x_mean), 1.0))


def _generalized(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    power = getattr(model, "power", 1)
    link = getattr(model, "link", "auto")
    logarithmic = link == "log" or (link == "auto" and power > 0)
    activation: ActivationName = "exp" if logarithmic else "identity"
    return [Answer(sums=_linear(part, model, table), activation=activation)]


def _support_vectors(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    if model.kernel != "linear":
        raise unsupported(part, f"kernel {model.kernel!r}")
    sums = _linear(part, model, table)
    if not hasattr(model, "classes_"):
        return [Answer(sums=sums)]
    classes = classes_of(part, model)
    if len(classes) != 2:
        raise unsupported(part, "votes between pairs of classes", "use LinearSVC")
    return [decisions(sums, classes)]


def _logistic(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    classes, sums = classes_of(part, model), _linear(part, model, table)
    # Before scikit-learn 1.8 it may be one against the rest, or a softmax of two classes.
    kind = getattr(model, "multi_class", "deprecated")
    if len(sums.b) == 1:
        twice = 2.0 if kind == "multinomial" else 1.0
        return [probabilities(sums.stretched(twice), classes, "sigmoid", sums)]
    if kind == "ovr" or (kind != "multinomial" and model.solver == "liblinear"):
        return [shares(reader, part, [sums], classes, sums)]
    return [probabilities(sums, classes, "softmax", sums)]


def _discriminants(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    classes, sums = classes_of(part, model), _linear(part, model, table)
    return [probabilities(sums, classes, "sigmoid" if len(sums.b) == 1 else "softmax", sums)]


def _descent(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    classes, sums = classes_of(part, model), _linear(part, model, table)
    if model.loss == "log_loss":
        if len(sums.b) == 1:
            return [probabilities(sums, classes, "sigmoid", sums)]
        return [shares(reader, part, [sums], classes, sums)]
    if model.loss == "modified_huber":
        if len(sums.b) > 1:
            raise unsupported(
                part,
                "probabilities of loss='modified_huber' for several classes",
                "use loss='log_loss'",
            )
        # (1 + z) / 2 within 0 and 1.
        return [replace(probabilities(sums, classes, "sigmoid", sums), activation=HardSigmoid(0.5))]
    return [decisions(sums, classes)]


def _margins(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    binarizer = getattr(model, "_label_binarizer", None)
    multilabel = str(getattr(binarizer, "y_type_", "")).startswith("multilabel")
    classes = classes_of(part, model)
    return [decisions(_linear(part, model, table), classes, multilabel=multilabel)]


def _bayes(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    classes = classes_of(part, model)
    W = real(part, "feature_log_prob_", model.feature_log_prob_)
    b = real(part, "class_log_prior_", model.class_log_prior_)
    if type(model).__name__ == "ComplementNB":
        b = np.zeros(len(W))
    if len(classes) == 2:
        W, b = W[1:] - W[:1], b[1:] - b[:1]
    sums = Sums(table, W, b)
    return [probabilities(sums, classes, "softmax" if len(b) > 1 else "sigmoid", None)]


def shares(
    reader: Reader,
    part: str,
    logits: Sequence[Sums],
    classes: tuple[str, ...],
    decision: Sums | None,
) -> Answer:
    """Return sigmoids of sums, divided by their total, for three classes or more."""
    # p / sum(p) is the softmax of log p, and log sigmoid(z) = -softplus(-z).
    negative = [Answer(sums=sums.stretched(-1.0), activation="softplus") for sums in logits]
    joined = reader.computed(part, reader.beside(part, negative))
    return probabilities(joined.stretched(-1.0), classes, "softmax", decision)


def _perceptron(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    classes = classes_of(part, model) if hasattr(model, "classes_") else ()
    count = len(model.coefs_)
    names = [model.activation] * (count - 1) + [model.out_activation_]
    for number, name in enumerate(names):
        if name not in _ACTIVATIONS:
            raise unsupported(part, f"activation {name!r}")
        sums = Sums(
            table,
            real(part, "coefs_", model.coefs_[number]).T,
            real(part, "intercepts_", model.intercepts_[number]),
        )
        if number < count - 1:
            table = reader.layer(part, sums, _ACTIVATIONS[name])
    activation = _ACTIVATIONS[names[-1]]
    if classes:
        return [probabilities(sums, classes, activation, None)]
    return [Answer(sums=sums, activation=activation)]


_REGRESSORS = (
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV",
    "MultiTaskLasso", "MultiTaskLassoCV", "MultiTaskElasticNet", "MultiTaskElasticNetCV",
    "Lars", "LarsCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "OrthogonalMatchingPursuit",
    "OrthogonalMatchingPursuitCV", "BayesianRidge", "ARDRegression", "HuberRegressor",
    "TheilSenRegressor", "QuantileRegressor", "SGDRegressor", "PassiveAggressiveRegressor",
    "LinearSVR",
)  # fmt: skip
_MARGINS = (
    "LinearSVC", "Perceptron", "PassiveAggressiveClassifier", "RidgeClassifier",
    "RidgeClassifierCV",
)  # fmt: skip

SIMPLE: Mapping[str, Estimate] = {
    **dict.fromkeys(_REGRESSORS, _regression),
    **dict.fromkeys(("PLSRegression", "PLSCanonical", "CCA"), _projection),
    **dict.fromkeys(("PoissonRegressor", "GammaRegressor", "TweedieRegressor"), _generalized),
    **dict.fromkeys(_MARGINS, _margins),
    **dict.fromkeys(("SVC", "NuSVC", "SVR", "NuSVR"), _support_vectors),
    **dict.fromkeys(("LogisticRegression", "LogisticRegressionCV"), _logistic),
    "LinearDiscriminantAnalysis": _discriminants,
    "SGDClassifier": _descent,
    **dict.fromkeys(("MultinomialNB", "ComplementNB"), _bayes),
    **dict.fromkeys(("MLPClassifier", "MLPRegressor"), _perceptron),
}
"""What each estimator answers that reads no other, by the name of its class."""
