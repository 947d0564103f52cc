"""Sixty pipelines of scikit-learn, by Forwardpass and by skl2onnx: right, wrong or refused.

Usage: python -m benchmarks.skl2onnx [--write docs/importers.md]

Takes scikit-learn, skl2onnx and pandas. Both files are run by onnxruntime on the rows of the data
set. An answer is right if no value is off the estimator's own, in float64, by more than TOLERANCE
of the largest, and all labels are equal. With --write the table replaces the one between the marks
in the document.
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from sklearn.svm import LinearSVC

from benchmarks.documents import table, write_table
from benchmarks.pipelines import Case, pipelines, sent
from forwardpass.models import Output, from_sklearn, to_onnx
from forwardpass.models.feeds import read_feed

TOLERANCE = 1e-5
"""Maximum error relative to the largest magnitude of an output."""

HEADINGS = ("pipeline", "data", "Forwardpass", "skl2onnx")


@dataclass(frozen=True)
class Answers:
    """What a model answers: values of each output, and the labels of a classifier."""

    values: list[Any]
    labels: Any = None


def main() -> None:
    """Compare, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the document to put the table into")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for case in pipelines():
        rows.append(compared(case))
        print(" | ".join(rows[-1]), flush=True)
    counts = [Counter(row[column].split()[0] for row in rows) for column in (2, 3)]
    rows.append(
        [
            f"all {len(rows)}",
            "",
            *(
                f"{each['right']} right, {each['wrong']} wrong, {each['refused']} refused"
                for each in counts
            ),
        ]
    )
    print(" | ".join(rows[-1]))
    if options.write is not None:
        write_table(options.write, "benchmarks.skl2onnx", table(HEADINGS, rows))


def compared(case: Case) -> list[str]:
    """Return one row of the table."""
    model = case.model.fit(case.x, case.y)
    expected = own(model, case.x)
    return [
        case.name,
        case.data,
        *(judged(expected, answers, model, case.x) for answers in (ours, theirs)),
    ]


def judged(expected: Answers, answers: Callable[[Any, Any], Answers], model: Any, x: Any) -> str:
    """Return whether answers are right, wrong or refused, with the reason."""
    try:
        got = answers(model, x)
    except Exception as error:
        return f"refused ({type(error).__name__})"
    return "right" if is_right(expected, got) else "wrong"


def is_right(expected: Answers, got: Answers) -> bool:
    """Whether all values are within TOLERANCE, and all labels equal."""
    if len(expected.values) != len(got.values):
        return False
    for own_values, values in zip(expected.values, map(np.asarray, got.values), strict=True):
        if values.ndim < 2:
            values = values.reshape(len(own_values), -1)
        if values.shape[1] == 2 and own_values.shape[1] == 1:
            values = values[:, 1:]  # of two classes
        if own_values.shape[1] == 2 and values.shape[1] == 1:
            own_values = own_values[:, 1:]
        if values.shape != own_values.shape:
            return False
        if not np.abs(values - own_values).max() <= TOLERANCE * np.abs(own_values).max():
            return False
    if expected.labels is None:
        return True
    labels = np.asarray(got.labels)
    return labels.shape == expected.labels.shape and bool(
        (labels.astype(str) == expected.labels.astype(str)).all()
    )


def own(model: Any, x: Any) -> Answers:
    """Return an estimator's own answers, in float64."""
    methods = ("predict_proba", "decision_function", "predict")
    method = next(name for name in methods if hasattr(model, name))
    answers = getattr(model, method)(x)
    several = answers if isinstance(answers, list) else [answers]
    values = [np.asarray(each).reshape(len(x), -1) for each in several]
    return Answers(values, None if method == "predict" else np.asarray(model.predict(x)))


def ours(model: Any, x: Any) -> Answers:
    """Return the answers of the file that Forwardpass writes."""
    network = from_sklearn(model)
    session = onnxruntime.InferenceSession(to_onnx(network).SerializeToString())
    values = dict(
        zip(
            [each.name for each in session.get_outputs()],
            session.run(None, dict(read_feed(network, sent(network, x)).rows)),
            strict=True,
        )
    )
    values = {output.name: values[output.name] for output in network.outputs}
    labels = [_labels(output, values[output.name]) for output in network.outputs if output.labels]
    return Answers(list(values.values()), np.column_stack(labels).squeeze() if labels else None)


def _labels(output: Output, values: Any) -> Any:
    """Return the label of each row, or 1 for each label that applies."""
    labels = np.array(output.labels)
    if not output.thresholds:
        return labels[values.argmax(axis=1)]
    above = values > np.array(output.thresholds)
    return labels[above[:, 0].astype(int)] if above.shape[1] == 1 else above.astype(int)


def theirs(model: Any, x: Any) -> Answers:
    """Return the answers of the file that skl2onnx writes."""
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    if hasattr(x, "columns"):
        texts = [name for name in x.columns if x[name].dtype.kind not in "iuf"]
        types = [
            (name, StringTensorType([None, 1]) if name in texts else FloatTensorType([None, 1]))
            for name in x.columns
        ]
        feeds = {
            name: x[[name]].to_numpy(object if name in texts else np.float32) for name in x.columns
        }
    else:
        types, feeds = [("x", FloatTensorType([None, x.shape[1]]))], {"x": x.astype(np.float32)}
    session = onnxruntime.InferenceSession(_converted(model, types).SerializeToString())
    answers = session.run(None, feeds)
    if not hasattr(model, "classes_"):
        return Answers(answers)
    labels, *values = answers
    if len(values) == 1 and isinstance(values[0], list) and isinstance(values[0][0], dict):
        values = [np.array([[row[name] for name in sorted(row)] for row in values[0]])]
    elif len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    return Answers(values, np.asarray(labels))


def _converted(model: Any, types: list[Any]) -> Any:
    """Return the ONNX model, with the first of the options that an estimator in it takes."""
    from skl2onnx import to_onnx as convert

    raw = {"raw_scores": True}
    attempts: list[Any] = [
        {"zipmap": False}, raw, {LinearSVC: raw}, {LinearSVC: raw, id(model): {"zipmap": False}},
    ]  # fmt: skip
    for options in attempts:
        try:
            return convert(model, initial_types=types, options=options)
        except NameError:  # an option that an estimator in it has not
            continue
    return convert(model, initial_types=types)


if __name__ == "__main__":
    main()
