"""scikit-learn's transformers, as what they make of a table."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.activations import ActivationName, HardSigmoid
from forwardpass.models.importers.sklearn.columns import is_absent, unsupported
from forwardpass.models.importers.sklearn.reader import Reader, Transform, named
from forwardpass.models.importers.sklearn.tables import Sums, Table
from forwardpass.models.importers.steps import real


def _pipeline(reader: Reader, part: str, model: Any, table: Table) -> Table:
    for name, step in model.steps:
        table = reader.transformed(named("step", name, step), step, table)
    return table


def _union(reader: Reader, part: str, model: Any, table: Table) -> Table:
    weights = model.transformer_weights or {}
    tables = []
    for name, each in model.transformer_list:
        if isinstance(each, str) and each == "drop":
            continue
        made, weight = (
            reader.transformed(named("transformer", name, each), each, table),
            (weights.get(name, 1.0)),
        )
        if not weight > 0:
            raise unsupported(part, f"weight {weight}", "expected weights above zero")
        tables.append(made.scaled(0.0, 1.0 / weight))
    return Table.joined(tables)


def _column_transformer(reader: Reader, part: str, model: Any, table: Table) -> Table:
    return Table.joined(
        [
            reader.transformed(named("transformer", name, each), each, table.columns(at))
            for name, each, at in _of_columns(part, model)
        ]
    )


def _of_columns(part: str, model: Any) -> Iterator[tuple[str, Any, NDArray[np.intp]]]:
    """Yield the name of each transformer, itself, and the numbers of its columns."""
    for name, each, _ in model.transformers_:
        at = np.asarray(model._transformer_to_input_indices[name], np.intp)
        if len(at) and not (isinstance(each, str) and each == "drop"):
            yield name, each, at


def _standard(reader: Reader, part: str, model: Any, table: Table) -> Table:
    # Without centering or scaling the attributes may still be there, and are not used.
    return table.scaled(
        real(part, "mean_", model.mean_) if model.with_mean else 0.0,
        real(part, "scale_", model.scale_) if model.with_std else 1.0,
    )


def _robust(reader: Reader, part: str, model: Any, table: Table) -> Table:
    return table.scaled(
        real(part, "center_", model.center_) if model.with_centering else 0.0,
        real(part, "scale_", model.scale_) if model.with_scaling else 1.0,
    )


def _min_max(reader: Reader, part: str, model: Any, table: Table) -> Table:
    # It computes x * scale_ + min_.
    scale = 1.0 / real(part, "scale_", model.scale_)
    scaled = table.scaled(-real(part, "min_", model.min_) * scale, scale)
    return _clipped(reader, part, scaled, *model.feature_range) if model.clip else scaled


def _max_abs(reader: Reader, part: str, model: Any, table: Table) -> Table:
    scaled = table.scaled(0.0, real(part, "scale_", model.scale_))
    return _clipped(reader, part, scaled, -1, 1) if getattr(model, "clip", False) else scaled


def _clipped(reader: Reader, part: str, table: Table, low: float, high: float) -> Table:
    """Return a table within low and high."""
    # hard_sigmoid of slope 1 is z + 1/2 within 0 and 1.
    width = high - low
    sums = Sums.of(table).stretched(1 / width, -low / width - 0.5)
    return reader.layer(part, sums, HardSigmoid(1.0)).scaled(-low / width, 1 / width)


def _components(reader: Reader, part: str, model: Any, table: Table) -> Table:
    # FastICA's components_ whiten, PCA's do not.
    W = real(part, "components_", model.components_)
    mean = getattr(model, "mean_", None)
    if mean is not None:
        table = table.scaled(real(part, "mean_", mean), 1.0)
    if getattr(model, "whiten", False) is True:
        variance = real(part, "explained_variance_", model.explained_variance_)
        smallest = np.finfo(model.explained_variance_.dtype).eps
        W = W / np.maximum(np.sqrt(variance), smallest)[:, np.newaxis]
    return reader.layer(part, Sums(table, W, np.zeros(len(W))))


def _discriminants(reader: Reader, part: str, model: Any, table: Table) -> Table:
    if model.solver == "svd":
        table = table.scaled(real(part, "xbar_", model.xbar_), 1.0)
    W = real(part, "scalings_", model.scalings_)[:, : model._max_components].T
    return reader.layer(part, Sums(table, W, np.zeros(len(W))))


def _selected(reader: Reader, part: str, model: Any, table: Table) -> Table:
    at = np.asarray(model.get_support(indices=True), np.intp)
    if not len(at):
        raise unsupported(part, "no column selected", "select at least one")
    return table.columns(at)


_FUNCTIONS: Mapping[str, ActivationName] = {"tanh": "tanh", "expit": "sigmoid"}


def _function(reader: Reader, part: str, model: Any, table: Table) -> Table:
    if model.func is None:
        return table
    import scipy.special

    name = getattr(model.func, "__name__", repr(model.func))
    sums = Sums.of(table)
    if not model.kw_args:
        if model.func in (np.tanh, scipy.special.expit):
            return reader.layer(part, sums, _FUNCTIONS[name])
        if model.func is np.negative:
            return reader.layer(part, sums.stretched(-1.0))
        if model.func is np.abs:
            eye = np.eye(len(table))
            either = reader.layer(part, sums.through(np.vstack([eye, -eye])), "relu")
            return reader.layer(part, Sums(either, np.hstack([eye, eye]), np.zeros(len(table))))
    raise unsupported(
        part,
        f"the function {name}, which a Network cannot represent",
        "apply it before the call: fit the pipeline without it, on rows to which it was applied",
    )


def _imputed(reader: Reader, part: str, model: Any, table: Table) -> Table:
    if model.add_indicator:
        raise unsupported(part, "add_indicator=True", "leave it out, or add such a column yourself")
    if not is_absent(model.missing_values):
        raise unsupported(
            part, f"missing_values={model.missing_values!r}", "mark missing values by NaN"
        )
    every = model.strategy == "constant" or model.keep_empty_features
    statistics = model.statistics_
    kept = [k for k, each in enumerate(statistics) if every or not is_absent(each)]
    for k in kept:
        reader.columns.fill(part, table, k, statistics[k])
    return table.columns(np.array(kept, np.intp))


def _encoded(reader: Reader, part: str, model: Any, table: Table) -> Table:
    """Return what an encoder of each column by itself makes of its categories."""
    rows = np.arange(max(map(len, model.categories_)))
    every = [np.asarray(each, object)[rows % len(each)] for each in model.categories_]
    codes = _transformed(model, every)
    unseen = [np.array([_unseen(each)], object) for each in model.categories_]
    try:
        unknown = _transformed(model, unseen)[0]
    except ValueError:
        unknown = None
    widths = getattr(model, "_n_features_outs", [codes.shape[1] // len(every)] * len(every))
    ends = np.cumsum(widths)
    tables = []
    for k, (categories, end, width) in enumerate(zip(model.categories_, ends, widths, strict=True)):
        block = slice(end - width, end)
        if not width:  # a single category, which is dropped
            reader.columns.drop(table, k)
            continue
        tables.append(
            reader.columns.encode(
                part,
                table,
                k,
                np.asarray(categories, object),
                codes[: len(categories), block],
                None if unknown is None else unknown[block],
            )
        )
    return Table.joined(tables)


def _transformed(model: Any, columns: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    numbers = all(isinstance(each, int | float) for column in columns for each in column)
    given = np.column_stack(columns).astype(np.float64 if numbers else object)
    with warnings.catch_warnings(action="ignore"):
        codes = model.transform(given)
    return np.asarray(codes.toarray() if hasattr(codes, "toarray") else codes, np.float64)


def _unseen(categories: NDArray[Any]) -> Any:
    known = [each for each in categories if each is not None and each == each]
    if all(isinstance(each, str) for each in known):
        return "?" * (1 + max(map(len, known), default=0))
    return max(known) + 1


_SELECTORS = (
    "VarianceThreshold", "SelectKBest", "SelectPercentile", "SelectFpr", "SelectFdr", "SelectFwe",
    "GenericUnivariateSelect", "SelectFromModel", "RFE", "RFECV", "SequentialFeatureSelector",
)  # fmt: skip
_DECOMPOSITIONS = (
    "PCA", "IncrementalPCA", "TruncatedSVD", "FastICA", "GaussianRandomProjection",
    "SparseRandomProjection",
)  # fmt: skip

TRANSFORMS: Mapping[str, Transform] = {
    "Pipeline": _pipeline,
    "FeatureUnion": _union,
    "ColumnTransformer": _column_transformer,
    "StandardScaler": _standard,
    "RobustScaler": _robust,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": _max_abs,
    "LinearDiscriminantAnalysis": _discriminants,
    "FunctionTransformer": _function,
    "SimpleImputer": _imputed,
    **dict.fromkeys(("OneHotEncoder", "OrdinalEncoder", "TargetEncoder"), _encoded),
    **dict.fromkeys(_SELECTORS, _selected),
    **dict.fromkeys(_DECOMPOSITIONS, _components),
}
"""What each transformer makes of a table, by the name of its class."""
