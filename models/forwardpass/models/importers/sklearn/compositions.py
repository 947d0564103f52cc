"""scikit-learn's estimators that are made of other estimators."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.sklearn.columns import unsupported
from forwardpass.models.importers.sklearn.estimators import (
    classes_of,
    decisions,
    probabilities,
    shares,
)
from forwardpass.models.importers.sklearn.reader import (
    Estimate,
    Reader,
    named,
    stacked,
)
from forwardpass.models.importers.sklearn.tables import Answer, Sums, Table
from forwardpass.models.importers.steps import real

_SCALERS = ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler")


def _pipeline(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    *before, (last, estimator) = model.steps
    for name, step in before:
        table = reader.transformed(named("step", name, step), step, table)
    if estimator is None or isinstance(estimator, str):
        raise unsupported(part, "no estimator at the end", "pass one that predicts")
    return reader.answers(named("step", last, estimator), estimator, table)


def _search(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    if not hasattr(model, "best_estimator_"):
        raise UnsupportedSourceError(part, "no best_estimator_", "fit it with refit=True")
    best = model.best_estimator_
    return reader.answers(f"best_estimator_ ({type(best).__name__})", best, table)


def _frozen(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    return reader.answers(f"estimator ({type(model.estimator).__name__})", model.estimator, table)


def _robust(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    inner = model.estimator_
    return reader.answers(f"estimator_ ({type(inner).__name__})", inner, table)


def _target(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    regressor, transformer = model.regressor_, model.transformer_
    answer = reader.answer(f"regressor ({type(regressor).__name__})", regressor, table)
    part = f"transformer ({type(transformer).__name__})"
    if type(transformer).__name__ == "FunctionTransformer":
        if transformer.func is None and transformer.inverse_func is None:
            return [answer]
        exponential = transformer.inverse_func is np.exp and not transformer.inv_kw_args
        if exponential and answer.activation == "identity":
            return [replace(answer, activation="exp")]
        name = getattr(transformer.inverse_func, "__name__", repr(transformer.inverse_func))
        raise unsupported(
            part,
            f"the inverse function {name}",
            "a Network has exp, or scalers: take func=np.log and inverse_func=np.exp, or pass "
            "regressor_ and undo the function after the call",
        )
    if type(transformer).__name__ not in _SCALERS or getattr(transformer, "clip", False):
        raise unsupported(part, "no scaler", f"take {', '.join(_SCALERS)}, without clip=True")
    # The transformer scales the targets; the answer is scaled back.
    scaled = reader.transformed(part, transformer, Table.of("targets", len(answer.sums.b)))
    return [
        replace(
            answer,
            sums=reader.computed(part, answer).stretched(scaled.scale, scaled.mean),
            activation="identity",
        )
    ]


def _voting_regressor(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    return [reader.mean(part, _each(reader, model, table), model._weights_not_none)]


def _voting_classifier(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    if model.voting != "soft":
        raise unsupported(
            part,
            "votes by class: voting='hard'",
            "set voting='soft', which averages the probabilities of the same estimators",
        )
    answers = [_with_probabilities(part, each) for each in _each(reader, model, table)]
    mean = reader.mean(part, answers, model._weights_not_none)
    return [replace(mean, classes=classes_of(part, model))]


def _each(reader: Reader, model: Any, table: Table) -> list[Answer]:
    """Return the answers of an ensemble's estimators."""
    names = [name for name, each in model.estimators if not isinstance(each, str)]
    return [
        reader.answer(named("estimator", name, each), each, table)
        for name, each in zip(names, model.estimators_, strict=True)
    ]


def _with_probabilities(part: str, answer: Answer) -> Answer:
    if answer.method == "predict_proba":
        return answer
    raise unsupported(
        part,
        "an estimator in it without probabilities",
        "wrap that one in CalibratedClassifierCV, or leave it out",
    )


def _bagging(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    answers = [
        reader.answer(
            f"estimator {k} ({type(each).__name__}) of {part}", each, table.columns(np.asarray(at))
        )
        for k, (each, at) in enumerate(
            zip(model.estimators_, model.estimators_features_, strict=True)
        )
    ]
    if not hasattr(model, "classes_"):
        return [reader.mean(part, answers)]
    classes = classes_of(part, model)
    answers = [_with_probabilities(part, each) for each in answers]
    if any(len(each.classes) != len(classes) for each in answers):
        raise unsupported(part, "an estimator in it that knows fewer classes", "stratify its rows")
    return [replace(reader.mean(part, answers), classes=classes)]


def _stacking(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    tables = []
    answers = _each(reader, model, table)
    for answer, method in zip(answers, model.stack_method_, strict=True):
        tables.append(reader.table(part, _response(reader, part, answer, method)))
    if model.passthrough:
        tables.append(table)
    final = model.final_estimator_
    answer = reader.answer(f"final_estimator ({type(final).__name__})", final, Table.joined(tables))
    return [replace(answer, classes=classes_of(part, model)) if answer.classes else answer]


def _response(reader: Reader, part: str, answer: Answer, method: str) -> Sums:
    """Return what a method of an estimator returns; one column of two probabilities."""
    if method == answer.method:
        return reader.computed(part, answer)
    if method == "decision_function" and answer.decision is not None:
        return answer.decision
    raise unsupported(part, f"the {method} of an estimator in it, whose {answer.method} is known")


def _calibrated(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    classes = classes_of(part, model)
    answers = [
        _one_calibrated(reader, part, each, table, classes)
        for each in model.calibrated_classifiers_
    ]
    return answers if len(answers) == 1 else [reader.mean(part, answers)]


def _one_calibrated(
    reader: Reader, part: str, model: Any, table: Table, classes: tuple[str, ...]
) -> Answer:
    inner = model.estimator
    answer = reader.answer(f"estimator ({type(inner).__name__}) of {part}", inner, table)
    if len(answer.classes) != len(classes):
        raise unsupported(part, "a part in it that knows fewer classes", "stratify its rows")
    raw = answer.decision if answer.decision is not None else reader.computed(part, answer)
    if model.method == "temperature" and answer.decision is not None:
        beta = float(model.calibrators[0].beta_)
        if len(classes) == 2:  # a softmax of (-z, z)
            return probabilities(raw.stretched(2 * beta), classes, "sigmoid", None)
        return probabilities(raw.stretched(beta), classes, "softmax", None)
    if model.method != "sigmoid":
        raise unsupported(part, f"method={model.method!r}", "calibrate with method='sigmoid'")
    slopes = np.array([each.a_ for each in model.calibrators], np.float64)
    offsets = np.array([each.b_ for each in model.calibrators], np.float64)
    logits = raw.stretched(-slopes, -offsets)
    if len(classes) == 2:
        return probabilities(logits, classes, "sigmoid", None)
    return shares(reader, part, [logits], classes, None)


def _one_against_rest(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    classes = classes_of(part, model)
    if any(type(each).__name__ == "_ConstantPredictor" for each in model.estimators_):
        raise unsupported(part, "a label that all or no rows had", "leave that label out")
    answers = [
        reader.answer(f"estimator of class {name} ({type(each).__name__})", each, table)
        for name, each in zip(classes[-len(model.estimators_) :], model.estimators_, strict=True)
    ]
    known = [each.decision for each in answers if each.decision is not None]
    decision = stacked(known) if len(known) == len(answers) else None
    multilabel = bool(model.multilabel_)
    if answers[0].method == "predict_proba":
        if len(answers) == 1 or multilabel:
            joined = reader.beside(part, answers)
            width = len(joined.sums.b)
            return [replace(joined, classes=classes, thresholds=(0.5,) * width, decision=decision)]
        if any(each.activation != "sigmoid" for each in answers):
            raise unsupported(
                part,
                "probabilities that are not sigmoids, divided by their total",
                "take estimators such as LogisticRegression, or estimators without predict_proba",
            )
        return [shares(reader, part, [each.sums for each in answers], classes, decision)]
    joined = reader.beside(part, answers)
    return [decisions(joined.sums, classes, multilabel=multilabel)]


def _several_targets(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    answers = [
        reader.answer(f"estimator of target {k} ({type(each).__name__})", each, table)
        for k, each in enumerate(model.estimators_)
    ]
    if hasattr(model, "classes_"):
        return [_with_probabilities(part, each) for each in answers]
    return [reader.beside(part, answers)]


def _threshold(reader: Reader, part: str, model: Any, table: Table) -> Sequence[Answer]:
    inner = getattr(model, "estimator_", model.estimator)
    answer = reader.answer(f"estimator ({type(inner).__name__})", inner, table)
    if model.response_method == "decision_function" and answer.decision is not None:
        answer = decisions(answer.decision, answer.classes)
    elif model.response_method not in ("auto", answer.method):
        raise unsupported(part, f"response_method={model.response_method!r}")
    threshold = getattr(model, "best_threshold_", getattr(model, "threshold", "auto"))
    if threshold == "auto":
        return [answer]
    scorer = getattr(model, "_curve_scorer", None)
    positive = model.pos_label if scorer is None else scorer._get_pos_label()
    if positive is not None and positive != model.classes_[1]:
        raise unsupported(
            part, f"a threshold for {positive}, the first class", "give that of the second"
        )
    return [replace(answer, thresholds=(float(real(part, "threshold", threshold)),))]


COMPOSED: Mapping[str, Estimate] = {
    "Pipeline": _pipeline,
    "GridSearchCV": _search,
    "RandomizedSearchCV": _search,
    "HalvingGridSearchCV": _search,
    "HalvingRandomSearchCV": _search,
    "FrozenEstimator": _frozen,
    "RANSACRegressor": _robust,
    "TransformedTargetRegressor": _target,
    "VotingRegressor": _voting_regressor,
    "VotingClassifier": _voting_classifier,
    "BaggingRegressor": _bagging,
    "BaggingClassifier": _bagging,
    "StackingRegressor": _stacking,
    "StackingClassifier": _stacking,
    "CalibratedClassifierCV": _calibrated,
    "OneVsRestClassifier": _one_against_rest,
    "MultiOutputRegressor": _several_targets,
    "MultiOutputClassifier": _several_targets,
    "FixedThresholdClassifier": _threshold,
    "TunedThresholdClassifierCV": _threshold,
}
"""What each estimator answers that is made of others, by the name of its class."""
