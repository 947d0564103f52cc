"""The steps of a pipeline, written as its estimators are read one after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import AnyActivation
from forwardpass.models.errors import UnsupportedSourceError
from forwardpass.models.importers.sklearn.columns import Columns, unsupported
from forwardpass.models.importers.sklearn.tables import RAW, Answer, Sums, Table
from forwardpass.models.importers.steps import Linear, Normalize, Select, Step

Transform: TypeAlias = "Callable[[Reader, str, Any, Table], Table]"
"""A function of the reader, the part of the source, its fitted transformer and what it reads."""
Estimate: TypeAlias = "Callable[[Reader, str, Any, Table], Sequence[Answer]]"
"""The same of an estimator: an answer for each output."""

_COMPOSITE = ("Pipeline", "ColumnTransformer", "FeatureUnion")


def named(kind: str, name: str, model: object) -> str:
    """Return a part of the source for errors, as in `step 'pca' (PCA)`."""
    return f"{kind} {name!r} ({type(model).__name__})"


class Reader:
    """Reads fitted estimators by the name of their class, and writes steps."""

    def __init__(
        self,
        transforms: Mapping[str, Transform],
        estimates: Mapping[str, Estimate],
        composed: Mapping[str, Estimate],
        columns: Columns,
    ) -> None:
        self._transforms = transforms
        self._estimates = {**estimates, **composed}
        self._composed = composed
        self.columns = columns
        self._steps: list[Step] = []
        self._widths: dict[str, int] = {}
        self._pieces: dict[tuple[object, ...], str] = {}
        self._raw: dict[str, tuple[Table, Table]] = {}
        self._usual: dict[int, tuple[float, float]] = {}
        self.last = ""
        """The class of the last estimator that reads no other."""

    def transformed(self, part: str, model: Any, table: Table) -> Table:
        """Return what a transformer makes of a table."""
        if model is None or (isinstance(model, str) and model == "passthrough"):
            return table
        name = _class_of(part, model)
        if name not in self._transforms:
            raise unsupported(part, "no part of a Network")
        if name not in _COMPOSITE:
            self.columns.give(table)
        return self._transforms[name](self, part, model, table)

    def answers(self, part: str, model: Any, table: Table) -> Sequence[Answer]:
        """Return what an estimator answers to a table: one for each output."""
        name = _class_of(part, model)
        if name in self._transforms and name not in self._estimates:
            raise unsupported(part, "no estimator at the end", "pass one that predicts")
        if name not in self._estimates:
            raise unsupported(part, "no part of a Network")
        self.last = name
        if name not in self._composed:
            self.columns.give(table)
        answers = self._estimates[name](self, part, model, table)
        return [
            replace(
                answer,
                sums=self._rebased(answer.sums),
                decision=answer.decision and self._rebased(answer.decision),
            )
            for answer in answers
        ]

    def answer(self, part: str, model: Any, table: Table) -> Answer:
        """Return the one answer of an estimator that is read by another."""
        answers = self.answers(part, model, table)
        if len(answers) != 1:
            raise unsupported(part, f"{len(answers)} outputs, which another estimator reads")
        return answers[0]

    def layer(self, part: str, sums: Sums, activation: AnyActivation = "identity") -> Table:
        """Write a layer; return its columns."""
        sums = self._rebased(sums)
        reads = self._reads(part, sums.table)
        name = f"L{len(self._widths) + 2}"
        self._steps.append(Step(name, Linear(sums.W, sums.b, activation), reads, part))
        self._widths[name] = len(sums.b)
        return Table.of(name, len(sums.b))

    def computed(self, part: str, answer: Answer) -> Sums:
        """Return the columns of an answer, after its activation."""
        if answer.activation == "identity":
            return answer.sums
        return Sums.of(self.layer(part, answer.sums, answer.activation))

    def table(self, part: str, sums: Sums) -> Table:
        """Return sums as columns: without a layer if they are columns already."""
        if np.array_equal(sums.W, np.eye(len(sums.table))) and not sums.b.any():
            return sums.table
        return self.layer(part, sums)

    def beside(self, part: str, answers: Sequence[Answer]) -> Answer:
        """Return several answers as one with the columns of all: one layer where it can be."""
        first = answers[0]
        joined = stacked([answer.sums for answer in answers])
        one = joined is not None and {answer.activation for answer in answers} == {first.activation}
        if joined is None or not one or first.activation == "softmax":
            columns = [self.computed(part, answer) for answer in answers]
            joined = stacked(columns)
            if joined is None:
                tables = [self.table(part, sums) for sums in columns]
                joined = Sums.of(Table.joined(tables))
            return replace(first, sums=joined, activation="identity", decision=None)
        return replace(first, sums=joined, decision=None)

    def mean(
        self, part: str, answers: Sequence[Answer], weights: Sequence[float] | None = None
    ) -> Answer:
        """Return the average of several answers of the same columns."""
        joined = self.computed(part, self.beside(part, answers))
        shares = np.ones(len(answers)) if weights is None else np.asarray(weights, np.float64)
        width = len(joined.b) // len(answers)
        average = np.kron(shares / shares.sum(), np.eye(width))
        return replace(
            answers[0], sums=joined.through(average), activation="identity", decision=None
        )

    def shown(self, part: str, answer: Answer) -> str:
        """Return the step that computes an answer, for an output."""
        sums = answer.sums
        source = sums.table.sources[0]
        if (
            answer.activation == "identity"
            and source in self._widths
            and sums.table.key() == Table.of(source, self._widths[source]).key()
            and np.array_equal(sums.W, np.eye(len(sums.b)))
            and not sums.b.any()
        ):
            return source
        return self.layer(part, sums, answer.activation).sources[0]

    def used(self) -> set[int]:
        """Return the columns of numbers that some layer reads."""
        return {int(at) for table, _ in self._raw.values() for at in table.at}

    def steps(self, source: str, numbers: Sequence[int]) -> list[Step]:
        """Return all steps; first those that scale and select the numbers that a caller sends."""
        place = np.full(max(numbers, default=0) + 1, -1)
        place[list(numbers)] = np.arange(len(numbers))
        groups: list[_Scalings] = []
        owners = {}
        for name, (_, together) in self._raw.items():
            fitting = next((group for group in groups if group.fits(together)), None)
            if fitting is None:
                fitting = _Scalings(len(place))
                groups.append(fitting)
            fitting.add(together)
            owners[name] = fitting
        first: list[Step] = []
        names = {}
        for number, group in enumerate(groups, start=1):
            names[group] = source
            if group.mean.any() or (group.scale != 1).any():
                names[group] = f"{source} scaled" + (f" {number}" if number > 1 else "")
                mean, scale = group.mean[list(numbers)], group.scale[list(numbers)]
                scaling = Normalize(mean, scale, apart=len(groups) > 1)
                first.append(Step(names[group], scaling, (source,), "scaling"))
        for name, (table, _) in self._raw.items():
            first.append(Step(name, Select(place[table.at]), (names[owners[name]],), "columns"))
        return first + self._steps

    def _reads(self, part: str, table: Table) -> tuple[str, ...]:
        """Return the steps of a table's columns, which are written once."""
        together: Table | None = None
        runs = []
        for run in table.runs():
            if run.sources[0] == RAW:
                joined = run if together is None else Table.joined([together, run])
                if len(list(joined.runs())) > 1:
                    # A layer reads the input scaled in one way, so another one comes between.
                    run = self.layer(part, Sums.of(run))
                else:
                    together = joined
            runs.append(run)
        return tuple(self._piece(part, run, together) for run in runs)

    def _piece(self, part: str, run: Table, together: Table | None) -> str:
        source = run.sources[0]
        raw = together is not None and source == RAW
        key = (*run.key(), *(together.key() if together is not None and raw else ()))
        if key in self._pieces:
            return self._pieces[key]
        name = source
        if together is not None and raw:
            name = f"columns {len(self._pieces) + 1}"
            self._raw[name] = run, together
        else:
            width = self._widths.get(source) or self.columns.categories[source].width
            if not np.array_equal(run.at, np.arange(width)):
                name = f"columns {len(self._pieces) + 1}"
                self._steps.append(Step(name, Select(run.at), (source,), part))
            if run.mean.any() or (run.scale != 1).any():
                before, name = name, f"scaled {len(self._pieces) + 1}"
                self._steps.append(Step(name, Normalize(run.mean, run.scale), (before,), part))
        self._pieces[key] = name
        return name

    def _rebased(self, sums: Sums) -> Sums:
        """Return sums of what a caller sends in the scaling in which it was read first.

        Folds of one table are scaled almost alike: they then share a scaling, at no loss.
        """
        table = sums.table
        means, scales = table.mean.copy(), table.scale.copy()
        for k, (source, at) in enumerate(zip(table.sources, table.at, strict=True)):
            if source == RAW:
                scaling = float(means[k]), float(scales[k])
                mean, scale = self._usual.setdefault(int(at), scaling)
                if max(abs(mean - scaling[0]), scale) <= _NEAR * scaling[1]:
                    means[k], scales[k] = mean, scale
        factor, offset = scales / table.scale, (means - table.mean) / table.scale
        if (factor == 1).all() and not offset.any():
            return sums
        rebased = Table(table.sources, table.at, means, scales)
        return Sums(rebased, sums.W * factor, sums.b + sums.W @ offset)


_NEAR = 8.0
"""Maximum distance of means and of scales, in scales, of scalings that are taken as one: rounding
errors grow by no more."""


class _Scalings:
    """Means and scales of what a caller sends, as far as they are decided."""

    def __init__(self, size: int) -> None:
        self.mean = np.zeros(size)
        self.scale = np.ones(size)
        self._decided = np.zeros(size, bool)

    def fits(self, table: Table) -> bool:
        """Whether no column is decided otherwise."""
        same = (self.mean[table.at] == table.mean) & (self.scale[table.at] == table.scale)
        return bool((same | ~self._decided[table.at]).all())

    def add(self, table: Table) -> None:
        """Decide the columns of a table that fits."""
        self.mean[table.at] = table.mean
        self.scale[table.at] = table.scale
        self._decided[table.at] = True


def stacked(sums: Sequence[Sums]) -> Sums | None:
    """Return sums of one table as one; None if they are of several."""
    first = sums[0].table
    if any(each.table.key() != first.key() for each in sums[1:]):
        return None
    W: NDArray[np.float64] = np.concatenate([each.W for each in sums])
    return Sums(first, W, np.concatenate([each.b for each in sums]))


def _class_of(part: str, model: Any) -> str:
    """Return the name of a fitted estimator's class; empty if it is none of scikit-learn's."""
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    if type(model) is Pipeline:
        return "Pipeline"  # its steps are asked
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise UnsupportedSourceError(part, "not fitted", "fit it first") from error
    except TypeError as error:
        raise unsupported(part, "not an estimator", "pass a fitted estimator") from error
    kind = type(model)
    return kind.__name__ if kind.__module__.partition(".")[0] == "sklearn" else ""
