"""Rows to try a network on: typical ones, and edge cases."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.categorical import REFUSE, Categorical
from forwardpass.models.ports import Input
from forwardpass.models.scaling import Scaling

_ONE_HOTS = 16
"""Maximum number of features that are tried alone, to limit the time for wide inputs."""


def typical_feed(inputs: Sequence[Input | Categorical], count: int) -> dict[str, NDArray[Any]]:
    """Return as many typical rows of each input, at least `count`.

    The last one has no values, and unknown categories, where a network answers such a row.
    """
    parts = {
        source.name: _typical_categories(source, count)
        if isinstance(source, Categorical)
        else typical_rows(source, count, seed)
        for seed, source in enumerate(inputs)
    }
    last = [_absent(source, parts[source.name][:1]) for source in inputs]
    if any(row is not None for row in last):
        for source, row in zip(inputs, last, strict=True):
            rows = parts[source.name]
            parts[source.name] = np.concatenate([rows, rows[:1] if row is None else row])
    longest = max(map(len, parts.values()))
    return {name: np.resize(rows, (longest, rows.shape[1])) for name, rows in parts.items()}


def edge_feed(inputs: Sequence[Input | Categorical]) -> dict[str, dict[str, NDArray[Any]]]:
    """Return one row of each input by description: an edge of one input, the center of others."""
    center = {name: rows[:1] for name, rows in typical_feed(inputs, 1).items()}
    feeds = {}
    for source in inputs:
        edges = _edge_categories(source) if isinstance(source, Categorical) else edge_rows(source)
        what = "" if len(inputs) == 1 else f" of input {source.name!r}"
        for description, row in edges.items():
            feeds[description + what] = center | {source.name: row.reshape(1, -1)}
    return feeds


def stacked(feeds: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the rows of all feeds as one, in order."""
    every = list(feeds)
    return {name: np.concatenate([feed[name] for feed in every]) for name in every[0]}


def unanswered_feed(inputs: Sequence[Input | Categorical]) -> dict[str, NDArray[Any]] | None:
    """Return one row for each input that refuses unknown categories, which has one, or None."""
    center = {name: rows[:1] for name, rows in typical_feed(inputs, 1).items()}
    refusing = [
        source for source in inputs if isinstance(source, Categorical) and source.unknown == REFUSE
    ]
    rows = [center | {each.name: _column(each, [_no_category(each)])} for each in refusing]
    return stacked(rows) if rows else None


def _typical_categories(source: Categorical, count: int) -> NDArray[Any]:
    """Return the first categories, in order, as often as it takes: (count, 1)."""
    k = len(source.categories)
    return _column(source, [source.categories[row % k] for row in range(count)])


def _edge_categories(source: Categorical) -> dict[str, NDArray[Any]]:
    last = len(source.categories) - 1
    tried = {
        f"category {source.categories[k]!r}": source.categories[k]
        for k in np.unique(np.linspace(0, last, _ONE_HOTS, dtype=int))
    }
    if source.missing is not None:
        tried["a missing value"] = source.missing_value
    if source.unknown != REFUSE:
        tried["an unknown category"] = _no_category(source)
    return {description: _column(source, [value]) for description, value in tried.items()}


def _absent(source: Input | Categorical, row: NDArray[Any]) -> NDArray[Any] | None:
    """Return a row without values that can be filled, or of an unknown category; None if none."""
    if isinstance(source, Categorical):
        answered = source.unknown != REFUSE
        return _column(source, [_no_category(source)]) if answered else None
    if source.fill is None:
        return None
    return np.where(np.isnan(source.fill), row, np.float32(np.nan))


def _no_category(source: Categorical) -> str | int:
    """Return a value that is none of the categories, and not missing."""
    taken = {*source.categories, source.missing_value}
    if source.datatype == "INT64":
        return next(value for value in range(len(taken) + 1) if value not in taken)
    return next(text for n in range(len(taken) + 1) if (text := "?" * (n + 1)) not in taken)


def _column(source: Categorical, values: Sequence[str | int]) -> NDArray[Any]:
    dtype = object if source.datatype == "BYTES" else np.int64
    return np.array(values, dtype).reshape(-1, 1)


def typical_rows(source: Input, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return the center of the input's range, then random rows around it: (count, s_1).

    Adds as many for each further scaling of the input.
    """
    rng = np.random.default_rng(seed)
    scaled = np.vstack([np.zeros(source.size), rng.standard_normal((count - 1, source.size))])
    return np.vstack([_unscaled(each, scaled) for each in source.scaled])


def edge_rows(source: Input) -> dict[str, NDArray[np.float32]]:
    """Return rows (s_1,) by description; one scale is one standard deviation."""
    size = source.size
    edges = {
        "one scale above the mean": _unscaled(source, np.ones(size)),
        "one scale below the mean": _unscaled(source, -np.ones(size)),
        "1000 scales above the mean": _unscaled(source, np.full(size, 1e3)),
        "1000 scales below the mean": _unscaled(source, np.full(size, -1e3)),
        "zeros": np.zeros(size, np.float32),
        "ones": np.ones(size, np.float32),
        "minus ones": -np.ones(size, np.float32),
        "smallest subnormals": np.full(size, np.finfo(np.float32).smallest_subnormal),
    }
    for feature in np.unique(np.linspace(0, size - 1, _ONE_HOTS, dtype=int)):
        one_hot = np.zeros(size)
        one_hot[feature] = 10.0
        edges[f"feature {feature} alone 10 scales above its mean"] = _unscaled(source, one_hot)
    if source.fill is not None:
        edges["no values"] = np.where(np.isnan(source.fill), np.float32(0), np.float32(np.nan))
    return edges


def probe_feed(inputs: Sequence[Input | Categorical]) -> dict[str, NDArray[Any]]:
    """Return a handful of rows of each input, and more until each category occurs.

    Missing values and unknown categories are among them, where a network answers such rows.
    """
    parts: dict[str, NDArray[Any]] = {}
    for seed, source in enumerate(inputs):
        if isinstance(source, Categorical):
            values = list(source.categories)
            values += [_no_category(source)] if source.unknown != REFUSE else []
            values += [source.missing_value] if source.missing is not None else []
            # In an order of its own, so that two inputs of the same categories differ.
            order = np.random.default_rng(seed).permutation(len(values))
            parts[source.name] = _column(source, [values[k] for k in order])
        else:
            rows = probe_rows(source)
            absent = _absent(source, rows[:1])
            parts[source.name] = rows if absent is None else np.concatenate([rows, absent])
    longest = max(map(len, parts.values()))
    return {name: np.resize(rows, (longest, rows.shape[1])) for name, rows in parts.items()}


def probe_rows(source: Input) -> NDArray[np.float32]:
    """Return a handful of rows, of either sign after the scaling: (15, s_1).

    Adds as many for each further scaling of the input. They are within the input's range, if it
    has one.
    """
    near = np.vstack([np.zeros(source.size), np.ones(source.size), -np.ones(source.size)])
    rng = np.random.default_rng(0)
    around = [spread * rng.standard_normal((4, source.size)) for spread in (0.3, 1.0, 3.0)]
    scaled = np.vstack([near, *around])
    rows = np.vstack([_unscaled(each, scaled) for each in source.scaled])
    if source.low is None or source.high is None:
        return rows
    return np.clip(rows, source.low, source.high)


def _unscaled(source: Input | Scaling, scaled: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return x such that (x - mean) / scale is about `scaled`, within float32."""
    if source.scale is not None:
        scaled = source.scale * scaled
    if source.mean is not None:
        scaled = source.mean + scaled
    limit = np.finfo(np.float32).max
    return np.clip(scaled, -limit, limit).astype(np.float32)
