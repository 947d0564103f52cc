"""Networks from scikit-learn: pipelines of what is linear, and of MLPs.

scikit-learn is imported where an estimator is read, not with this module.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from forwardpass.models.categorical import Categorical
from forwardpass.models.errors import NetworkError
from forwardpass.models.importers.agreement import FLOAT64, Check, Reading
from forwardpass.models.importers.assembly import assemble
from forwardpass.models.importers.sklearn.ask import Ask
from forwardpass.models.importers.sklearn.columns import Columns, unsupported
from forwardpass.models.importers.sklearn.compositions import COMPOSED
from forwardpass.models.importers.sklearn.estimators import SIMPLE
from forwardpass.models.importers.sklearn.reader import Reader
from forwardpass.models.importers.sklearn.skops_files import read_skops
from forwardpass.models.importers.sklearn.tables import RAW, Answer, Sums, Table
from forwardpass.models.importers.sklearn.transformers import TRANSFORMS
from forwardpass.models.importers.steps import Head
from forwardpass.models.network import Network
from forwardpass.models.ports import Input
from forwardpass.proto.verdicts import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator


def from_sklearn(
    model: "BaseEstimator | str | os.PathLike[str]",
    *,
    both_probabilities: bool = False,
    input: Input | None = None,  # noqa: A002 - the field's name
    output: str = "y",
    labels: Sequence[str] | None = None,
    units: Sequence[str] = (),
    name: str = "network",
    provenance: Mapping[str, str] | None = None,
    check: Check | None = None,
) -> Network:
    """Return the network of a fitted estimator, alone or at the end of a Pipeline.

    model is the estimator, or the path of a `.skops` file, of which skops loads only types that it
    trusts.

    Estimators are MLPs, linear models, and what is made of them: voting, stacking, calibration,
    one against the rest, several targets, searches. Transformers are scalers, which become the
    input's scaling, SimpleImputer, which becomes its fill, encoders of categories, selections of
    columns, projections such as PCA, and ColumnTransformer of these: see docs/importers.md.

    The columns of numbers are the input x, and each encoded column is an input of its own, a
    Categorical of the column's name. Columns that a ColumnTransformer drops are left out if the
    estimator was fitted with names, or with categories.

    The output has the columns of `predict_proba`, of `decision_function` if there are no
    probabilities, or of a regressor's `predict`. A binary classifier returns only the column of
    `classes_[1]` unless both_probabilities. A MultiOutputClassifier has an output for each target,
    named by their numbers, as in y0. Without input the features have the names with which the
    estimator was fitted; without labels the columns of a classifier have its classes, as text,
    both of a binary one. Columns that decide each by itself have the threshold of `predict`: 0.5
    of a probability, 0 of a decision function, or that of a FixedThresholdClassifier.

    The network is compared with the estimator's own prediction of a few rows, and with check:
    rows and the answers to them, as the output has them.

    Raises UnsupportedSourceError, which names the step, for what a Network cannot represent, for
    any other file, as those of scikit-learn are pickles, and for one with types that skops does
    not trust; and, naming row and output, if the answers differ by more than rounding explains.
    MissingLibraryError without skops.
    """
    if isinstance(model, str | os.PathLike):
        model = read_skops(model)
    import sklearn

    part = f"estimator ({type(model).__name__})"
    first = _first(model)
    names = tuple(map(str, getattr(first, "feature_names_in_", ())))
    width = getattr(first, "n_features_in_", 1)
    columns = Columns(names, width)
    reader = Reader(TRANSFORMS, SIMPLE, COMPOSED, columns)
    answers = reader.answers(part, model, Table.of(RAW, width))
    if not hasattr(first, "n_features_in_"):  # one that is not fitted is refused by its name
        raise unsupported(part, "no n_features_in_", "fit it again, on an array or a data frame")
    if both_probabilities:
        answers = [_both(reader, part, answer) for answer in answers]
    heads = _heads(reader, part, answers, output, labels, tuple(units))
    numbers = columns.numbers(reader.used())
    inputs: list[Input | Categorical] = list(columns.categories.values())
    source_name = ""
    if numbers:
        source = _numbers_input(columns, numbers, names, input)
        inputs.insert(0, source)
        source_name = source.name
    steps = reader.steps(source_name, numbers)
    made_from = {"source": f"scikit-learn {sklearn.__version__}: {reader.last}"}
    network = assemble(
        inputs, steps, heads, name=name, provenance=made_from | dict(provenance or {})
    )
    reading = Reading(inputs, steps, heads)
    widths = [len(answer.sums.b) for answer in answers]
    ask = Ask(model, columns, numbers, answers[0].method, widths)
    reading.check_source(network, ask, FLOAT64)
    if labels is None and answers[0].classes:
        ask.check_labels(network, reading)
    reading.check_rows(network, check)
    return network


def _first(model: Any) -> Any:
    """Return the part that was fitted with the features: a pipeline may not have their names."""
    from sklearn.pipeline import Pipeline

    while type(model) is Pipeline:
        steps = [step for _, step in model.steps if not (step is None or isinstance(step, str))]
        if not steps:
            break
        model = steps[0]
    return model


def _numbers_input(
    columns: Columns, numbers: Sequence[int], names: tuple[str, ...], given: Input | None
) -> Input:
    """Return the input of the columns of numbers, by what was given for it and what fills it in."""
    features = tuple(names[k] for k in numbers) if names else ()
    if not names and len(numbers) < len(columns.names):
        features = tuple(columns.names[k] for k in numbers)
    name = "x" if "x" not in columns.categories else "numbers"
    source = Input(len(numbers), name, features=features) if given is None else given
    if source.features != features and sorted(source.features) == sorted(features):
        raise NetworkError(
            f"input {source.name!r}",
            expected=f"features in the order of the fit, {', '.join(features)}",
            got=", ".join(source.features),
            fix="name them in that order, or leave input out",
        )
    fills = columns.fills(numbers)
    if fills is None:
        return source
    scale = 1.0 if source.scale is None else source.scale.astype(np.float64)
    mean = 0.0 if source.mean is None else source.mean.astype(np.float64)
    return replace(source, fill=fills * scale + mean)


def _both(reader: Reader, part: str, answer: Answer) -> Answer:
    """Return both probabilities of two classes, where an answer is one of them."""
    if not answer.is_binary:
        return answer
    if answer.method != "predict_proba":
        raise unsupported(
            part,
            "no probabilities, of which both were asked for",
            "leave both_probabilities out, or fit a CalibratedClassifierCV of it",
        )
    if answer.thresholds != (DEFAULT_THRESHOLD,):
        raise unsupported(
            part,
            f"a threshold of {answer.thresholds[0]:g}, which both probabilities cannot have",
            "leave both_probabilities out",
        )
    sums, activation = answer.sums, answer.activation
    if activation == "sigmoid":
        # The softmax of (0, z) is (1 - p, p), where p is the sigmoid of z.
        W, b = np.vstack([0 * sums.W, sums.W]), np.hstack([0 * sums.b, sums.b])
        return replace(answer, sums=Sums(sums.table, W, b), activation="softmax", thresholds=())
    p = reader.computed(part, answer)
    both = p.through(np.array([[-1.0], [1.0]]), np.array([1.0, 0.0]))
    return replace(answer, sums=both, activation="identity", thresholds=())


def _heads(
    reader: Reader,
    part: str,
    answers: Sequence[Answer],
    output: str,
    labels: Sequence[str] | None,
    units: tuple[str, ...],
) -> list[Head]:
    if len(answers) > 1 and (labels is not None or units):
        raise NetworkError(
            "labels" if units == () else "units",
            expected=f"none, as there are {len(answers)} outputs, labeled with their classes",
            got=", ".join(labels or units),
            fix="leave them out",
        )
    heads = []
    for number, answer in enumerate(answers):
        texts = answer.classes if labels is None else tuple(labels)
        heads.append(
            Head(
                name=output if len(answers) == 1 else f"{output}{number}",
                reads=(reader.shown(part, answer),),
                labels=texts,
                units=units,
                thresholds=answer.thresholds if texts else (),
            )
        )
    return heads
