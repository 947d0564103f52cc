"""Comparison of a network with its source: for probe rows, and for rows that the caller gives.

The allowed difference follows only from rounding: of the source's arithmetic, in each of its
steps, and of the network's parameters to float32.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import (
    UNIT_ROUNDOFF,
    AnyActivation,
    GroupedSoftmax,
    LayerNorm,
    activation_of,
)
from forwardpass.models.categorical import Categorical
from forwardpass.models.errors import ModelsError, UnsupportedSourceError
from forwardpass.models.feeds import read_feed
from forwardpass.models.forward import filled, forward, scaled
from forwardpass.models.importers.steps import Activate, Head, Linear, Normalize, Select, Step, Sum
from forwardpass.models.network import Inputs, Network, as_inputs
from forwardpass.models.normalization import normalized, normalized_bound
from forwardpass.models.ports import Input
from forwardpass.models.rounding import rounding_bound
from forwardpass.models.trial_rows import probe_feed
from forwardpass.proto.spec import TensorError

Check: TypeAlias = tuple[ArrayLike, ArrayLike | Mapping[str, ArrayLike]]
"""Rows as a caller sends them, and their answers: one array for a single output, or by output."""
Ask: TypeAlias = Callable[[Any], Sequence[Any]]
"""A function from float64 rows to the source's own answers: an array for each output, in the
network's order. Rows of several inputs, and categories, are given by the names of the inputs."""


@dataclass(frozen=True)
class Arithmetic:
    """The precision of a source's arithmetic."""

    roundoff: float
    """Maximum relative error of an operand or a result."""
    sums: float
    """Maximum relative error of each addition inside a matrix product."""
    largest: float
    """The largest number."""


_MAX = float(np.finfo(np.float32).max)
FLOAT64 = Arithmetic(2.0**-53, 2.0**-53, float(np.finfo(np.float64).max))
FLOAT32 = Arithmetic(UNIT_ROUNDOFF, UNIT_ROUNDOFF, _MAX)
# Matrix products of all three are summed in float32. TensorFloat-32 rounds only the operands;
# accelerators use it for float32 unless that is switched off.
TENSOR_FLOAT32 = Arithmetic(2.0**-11, UNIT_ROUNDOFF, _MAX)
FLOAT16 = Arithmetic(2.0**-11, UNIT_ROUNDOFF, 65504.0)
BFLOAT16 = Arithmetic(2.0**-8, UNIT_ROUNDOFF, _MAX)


@dataclass(frozen=True, eq=False)
class Reading:
    """The result of reading a source: its steps, before they become layers."""

    source: Inputs
    """The input, or several, only with the scaling that comes before the steps."""
    steps: Sequence[Step]
    heads: Sequence[Head]

    def check_source(self, network: Network, ask: Ask, arithmetic: Arithmetic) -> None:
        """Compare a network's answers to probe rows with the source's own prediction.

        Raises UnsupportedSourceError, which names the row and the output, if they differ by more
        than rounding explains, and if the source's prediction fails.
        """
        rows = probe_feed(network.inputs)
        try:
            # Warnings of a source do not apply to probe rows, which have no names, for example.
            with warnings.catch_warnings(action="ignore"):
                predicted = list(ask(self.asked(rows)))
        except ModelsError:
            raise
        except Exception as error:
            raise UnsupportedSourceError(
                "the source's own prediction",
                f"it fails for rows of {network.sizes[0]} values ({shorten(repr(error), 300)})",
                "an import is compared with it: make it predict such rows first",
            ) from error
        names = [output.name for output in network.outputs]
        expected = dict(zip(names, predicted, strict=True))
        self._compare(network, rows, expected, arithmetic, _SOURCE)

    def check_rows(self, network: Network, check: Check | None) -> None:
        """Compare a network's answers to rows with those of `check`, if it is given.

        Raises UnsupportedSourceError as `check_source` does.
        """
        if check is None:
            return
        x, y = check
        try:
            (first, *others) = network.inputs
            if isinstance(first, Input) and not others:
                x = _in_order("x", x, first.features)
            rows, single = read_feed(network, x)
        except TensorError as error:
            raise UnsupportedSourceError("x of check", str(error), _SHAPES) from error
        if not len(next(iter(rows.values()))):
            raise UnsupportedSourceError("x of check", "no rows", "give at least one")
        names = [output.name for output in network.outputs]
        given = y if isinstance(y, Mapping) else {names[0]: y} if len(names) == 1 else {}
        if sorted(given) != sorted(names):
            raise UnsupportedSourceError(
                "y of check",
                f"expected the answers of {', '.join(names)}, got "
                + (f"those of {', '.join(map(str, given))}" if given else "one array"),
                "give a mapping with an array for each output",
            )
        expected = {
            each.name: _in_order("y", given[each.name], each.labels) for each in network.outputs
        }
        if single:
            expected = {name: np.asarray(values)[np.newaxis] for name, values in expected.items()}
        self._compare(network, rows, expected, FLOAT32, _CHECK)

    def _compare(
        self,
        network: Network,
        rows: Mapping[str, NDArray[Any]],
        expected: Mapping[str, Any],
        arithmetic: Arithmetic,
        words: "_Words",
    ) -> None:
        with np.errstate(all="ignore"):
            one = len(rows) == 1 and isinstance(network.inputs[0], Input)
            x = next(iter(rows.values())) if one else rows
            answers = forward(network, x)
            network_bounds = rounding_bound(network, x)
            source_bounds = self._bounds(rows, arithmetic)
        for head in self.heads:
            got = answers[head.name]
            own = np.asarray(expected[head.name])
            theirs = own.astype(np.float64) if own.dtype.kind in "biuf" else own
            if theirs.shape == (len(got),) and got.shape[1] == 1:
                theirs = theirs[:, np.newaxis]
            if theirs.shape != got.shape or theirs.dtype.kind != "f":
                raise UnsupportedSourceError(
                    f"output {head.name!r}",
                    f"expected numbers of shape {got.shape}, got {theirs.dtype} of shape "
                    f"{theirs.shape} {words.origin}",
                    words.fix,
                )
            allowed = network_bounds[head.name] + source_bounds[head.name]
            if own.dtype == np.float16:
                allowed = allowed + FLOAT16.roundoff * np.abs(got)
            with np.errstate(invalid="ignore"):
                agrees = (got == theirs) | (np.abs(got - theirs) <= allowed)
            agrees |= np.isnan(got) & np.isnan(theirs)
            # Where float32 may overflow, any answer of a source is accepted.
            agrees |= np.isposinf(allowed) & ~np.isnan(got)
            if not agrees.all():
                row, column = (int(index[0]) for index in np.nonzero(~agrees))
                raise UnsupportedSourceError(
                    f"output {head.name!r}, column {column}, {words.row} {row}"
                    f" ({_text([*np.concatenate([each[row] for each in rows.values()])])})",
                    f"expected {theirs[row, column]:.6g} {words.origin}, got "
                    f"{got[row, column]:.6g}, where rounding explains {allowed[row, column]:.1g}",
                    words.fix,
                )

    def asked(self, rows: Mapping[str, NDArray[Any]]) -> Any:
        """Return rows as the source reads them: scaled, but not filled."""
        asked = {
            each.name: rows[each.name]
            if isinstance(each, Categorical)
            else scaled(rows[each.name].astype(np.float64), each)
            for each in as_inputs(self.source)
        }
        first = as_inputs(self.source)[0]
        return asked[first.name] if len(asked) == 1 and isinstance(first, Input) else asked

    def _bounds(
        self, rows: Mapping[str, NDArray[Any]], arithmetic: Arithmetic
    ) -> dict[str, NDArray[np.float64]]:
        """Return, for each head, a bound of the rounding errors of the source's arithmetic."""
        values = {
            each.name: _sent(each, rows[each.name], arithmetic) for each in as_inputs(self.source)
        }
        for step in self.steps:
            values[step.name] = _computed(step, [values[name] for name in step.reads], arithmetic)
        return {
            head.name: np.concatenate([values[name][1] for name in head.reads], axis=1)
            for head in self.heads
        }


@dataclass(frozen=True)
class _Words:
    """The words of an error for what was compared."""

    row: str
    origin: str
    fix: str


_SHAPES = "give rows as a caller sends them"
_SOURCE = _Words(
    "probe row",
    "by the source's own prediction",
    "it computes something that its layers and parameters do not show: leave that out, or "
    "export it to ONNX, which the server runs as it is",
)
_CHECK = _Words(
    "row",
    "by check",
    "compare the order and orientation of the weights, the activations and the scaling with the "
    "source's; y has to be what it predicts for x, unrounded",
)

_Value: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Numbers, and bounds of the errors of the source's own."""


def _sent(source: Input | Categorical, rows: NDArray[Any], arithmetic: Arithmetic) -> _Value:
    """Return what the steps read of an input, and a bound of its error."""
    if isinstance(source, Categorical):
        a = source.read(rows)
        return a, arithmetic.roundoff * np.abs(a)
    a = scaled(filled(rows, source).astype(np.float64), source)
    # A fill is rounded to float32, like what callers send, and the source's is not.
    scale = 1.0 if source.scale is None else source.scale
    fill = 0.0 if source.fill is None else np.abs(source.fill) * UNIT_ROUNDOFF / scale
    return a, arithmetic.roundoff * np.abs(a) + np.where(np.isnan(rows), fill, 0.0)


def _computed(step: Step, read: Sequence[_Value], arithmetic: Arithmetic) -> _Value:
    """Return a step's value in float64, and a bound of the source's error of it."""
    u = arithmetic.roundoff
    match step.operation:
        case Sum():
            a = np.sum([value for value, _ in read], axis=0)
            off = sum(bound + len(read) * u * np.abs(value) for value, bound in read)
            return a, np.asarray(off)
        case Linear(W, b, activation):
            a, off = _beside(read)
            b = np.zeros(len(W)) if b is None else b
            n = W.shape[1] + 1
            # Both operands, the product, the sum with b and the result are rounded.
            gamma = n * arithmetic.sums / (1 - n * arithmetic.sums) + 5 * u
            magnitudes = (np.abs(a) + off) @ np.abs(W.T) + np.abs(b)
            z, off = a @ W.T + b, off @ np.abs(W.T) + gamma * magnitudes
            off[~(magnitudes * (1 + gamma) < arithmetic.largest)] = np.inf
            return _activated(activation, z, off, u)
        case Normalize(mean, scale, factor, offset):
            a, off = _beside(read)
            slope = np.asarray(factor) / np.asarray(scale)
            # In any order in which a source computes it, also x * slope + (offset - mean * slope).
            magnitudes = np.abs(slope) * (np.abs(a) + off + np.abs(mean)) + np.abs(offset)
            off = np.abs(slope) * off + 8 * u * magnitudes
            off[~(magnitudes < arithmetic.largest)] = np.inf
            return (a - np.asarray(mean)) * slope + np.asarray(offset), off
        case Select(columns):
            a, off = _beside(read)
            return a[:, columns], off[:, columns]
        case Activate(activation):
            return _activated(activation, *_beside(read), u)


def _activated(
    activation: AnyActivation, z: NDArray[np.float64], off: NDArray[np.float64], u: float
) -> _Value:
    if isinstance(activation, GroupedSoftmax):
        groups = zip(activation.split(z), activation.split(off), strict=True)
        return _beside([_activated("softmax", *group, u) for group in groups])
    if isinstance(activation, LayerNorm):
        x = normalized(z, activation.epsilon)
        x_off = normalized_bound(z, off, activation.epsilon, u, flush=0.0, largest=np.inf)
        scale, bias = activation.parameters(z.shape[1])
        grown = np.abs(scale) * (np.abs(x) + x_off) + np.abs(bias)
        n_off = np.abs(scale) * x_off + 4 * u * grown
        return _activated(activation.then, x * scale + bias, n_off, u)
    f = activation_of(activation)
    a = f.function(z)
    coarser = max(1.0, u / UNIT_ROUNDOFF)
    error = f.error * coarser
    if f.name == "exp":
        bound = a * np.expm1(off) + error * a * np.exp(off)
        return a, np.where(np.isfinite(off), bound, np.inf)
    if f.name in ("softmax", "log_softmax"):
        off = np.broadcast_to(off.max(axis=1, keepdims=True), z.shape)
        error += z.shape[1] * u
    bound = np.minimum(f.lipschitz * off, f.span) + error
    if f.relative_error:
        grown = np.abs(a) if f.name == "log_softmax" else np.abs(z)
        bound = bound + f.relative_error * coarser * (grown + f.lipschitz * off)
    return a, bound


def _beside(read: Sequence[_Value]) -> _Value:
    values, bounds = zip(*read, strict=True)
    return np.concatenate(values, axis=1), np.concatenate(bounds, axis=1)


def _in_order(what: str, given: Any, names: Sequence[str]) -> Any:
    """Return the values given, with the columns of a table in the order of the names."""
    columns = getattr(given, "columns", None)
    # A list has a method of this name.
    index = getattr(given, "index", None)
    if columns is None and (what == "y" or index is None or callable(index)):
        return given
    if columns is not None and sorted(map(str, columns)) == sorted(names):
        return given[list(names)]
    raise UnsupportedSourceError(
        f"{what} of check",
        f"a {type(given).__name__} with names, where the network's are "
        + (", ".join(names) if names else "unknown"),
        "name its columns like the network's, or pass its to_numpy()",
    )


def _text(row: Sequence[Any]) -> str:
    shown = ", ".join(f"{x:.4g}" if isinstance(x, float | np.floating) else str(x) for x in row[:4])
    return f"{shown}, ..." if len(row) > 4 else shown
