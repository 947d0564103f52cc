"""From the steps of another library's model to a network of dense layers.

Steps that are no layer of their own vanish into those that are: an activation into the layer
before it, a normalization into the input's scaling, into the layer before it or into those
after it. One whose place something else reads becomes a layer with an identity matrix, so
that nothing is refused for the order of its steps.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.arrays import parameter
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.steps import Activate, Head, Linear, Normalize, Step


def assemble(
    source: Input,
    steps: Sequence[Step],
    heads: Sequence[Head],
    *,
    name: str,
    provenance: Mapping[str, str],
) -> Network:
    """Return the network that computes the steps, which are in an order of computation.

    The scaling that source has comes before them. Raises UnsupportedSourceError for what a
    Network cannot represent, NetworkError for names and parameters that no network has.
    """
    assembly = _Assembly(source, steps, heads)
    for step in steps:
        assembly.add(step)
    outputs = [
        Output(head.name, assembly.layer_of(head), labels=head.labels, units=head.units)
        for head in heads
    ]
    return Network(assembly.scaled_input(), assembly.layers(), tuple(outputs), name, provenance)


_Stretch: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(eq=False)
class _Draft:
    """A layer that later steps may still change."""

    blocks: dict[str, NDArray[np.float64]]
    """W's columns by what they weigh."""
    b: NDArray[np.float64]
    activation: str
    part: str
    """The source's part that the activation comes from."""


@dataclass(frozen=True, eq=False)
class _Columns:
    """All of a layer's, or the input's, activations a, as a value has them."""

    layer: str
    width: int
    stretch: _Stretch | None = None
    """factor and offset of factor * a + offset; None is a itself, to the last bit."""


class _Assembly:
    def __init__(self, source: Input, steps: Sequence[Step], heads: Sequence[Head]) -> None:
        self._input = source
        self._mean, self._scale = np.zeros(source.size), np.ones(source.size)
        if source.mean is not None:
            self._mean = source.mean.astype(np.float64)
        if source.scale is not None:
            self._scale = source.scale.astype(np.float64)
        self._readers = Counter(name for step in steps for name in step.reads)
        self._readers.update(name for head in heads for name in head.reads)
        self._values = {source.name: [_Columns(source.name, source.size)]}
        self._drafts: dict[str, _Draft] = {}
        self._shared: set[str] = set()

    def add(self, step: Step) -> None:
        """Take in the next step."""
        if step.name in self._values:
            raise NetworkError(
                step.part,
                expected="a name of its own",
                got=f"{step.name!r}, which the input or an earlier part has",
                fix="rename one; the input by input=Input(...)",
            )
        columns = self._read(step.reads)
        match step.operation:
            case Linear():
                self._linear(step, step.operation, columns)
            case Normalize():
                self._normalize(step, step.operation, columns)
            case Activate():
                self._activate(step, step.operation.activation, columns)

    def layer_of(self, head: Head) -> str:
        """Return the layer whose activations a head is: one made for it, if it is none's."""
        columns = self._read(head.reads)
        if len(columns) == 1 and columns[0].layer in self._drafts and columns[0].stretch is None:
            return columns[0].layer
        taken = {*self._drafts, self._input.name}
        names = (*head.reads, head.name, f"{head.name} output")
        name = next(name for name in names if name not in taken)
        step = Step(name, _identity(columns), head.reads, f"output {head.name!r}")
        self._linear(step, _identity(columns), columns)
        return name

    def scaled_input(self) -> Input:
        """Return the input with the scaling that the steps begin with."""
        return replace(
            self._input,
            mean=self._mean if self._mean.any() else None,
            scale=self._scale if (self._scale != 1).any() else None,
        )

    def layers(self) -> tuple[Layer, ...]:
        """Return the layers, rounded to float32."""
        return tuple(
            Layer(
                name,
                parameter(f"layer {name!r}", "W", np.hstack(list(draft.blocks.values()))),
                parameter(f"layer {name!r}", "b", draft.b),
                draft.activation,
                tuple(draft.blocks),
            )
            for name, draft in self._drafts.items()
        )

    def _linear(self, step: Step, linear: Linear, columns: list[_Columns]) -> None:
        W, width = linear.W, sum(each.width for each in columns)
        b = np.zeros(W.shape[:1]) if linear.b is None else linear.b
        if W.ndim != 2 or W.shape[1] != width or b.shape != W.shape[:1]:
            raise NetworkError(
                step.part,
                expected=f"W of shape (s_out, {width}) and b of shape (s_out,), as it reads {width}"
                " values",
                got=f"shapes {W.shape} and {b.shape}",
                fix="fit it to what it reads",
            )
        blocks: dict[str, NDArray[np.float64]] = {}
        ends = np.cumsum([each.width for each in columns])
        for each, block in zip(columns, np.split(W, ends[:-1], axis=1), strict=True):
            self._check_readable(each.layer, step)
            stretch = self._stretch_of(each)
            if stretch is not None:
                factor, offset = stretch
                block, b = block * factor, b + block @ offset
            seen = blocks.get(each.layer)
            blocks[each.layer] = block if seen is None else seen + block
        self._drafts[step.name] = _Draft(blocks, b, linear.activation, step.part)
        self._values[step.name] = [_Columns(step.name, len(W))]

    def _normalize(self, step: Step, normalize: Normalize, columns: list[_Columns]) -> None:
        width = sum(each.width for each in columns)
        mean = _per_feature(step, normalize.mean, width)
        scale = _per_feature(step, normalize.scale, width)
        factor = _per_feature(step, normalize.factor, width)
        offset = _per_feature(step, normalize.offset, width)
        if not (scale > 0).all():
            raise NetworkError(
                step.part,
                expected="a scale above zero for every feature",
                got=f"{scale[~(scale > 0)][0]:g}",
                fix="use 1 for a feature that does not vary",
            )
        alone = self._reads_alone(step, columns)
        if alone and columns[0].layer == self._input.name:
            self._mean = self._mean + self._scale * mean
            self._scale = self._scale * scale
        else:
            factor = factor / scale
            offset = offset - factor * mean
        draft = self._sums(columns) if alone else None
        if draft is None:
            columns = _stretched(columns, factor, offset)
        else:
            draft.blocks = {name: W * factor[:, np.newaxis] for name, W in draft.blocks.items()}
            draft.b = draft.b * factor + offset
        self._values[step.name] = columns

    def _activate(self, step: Step, activation: str, columns: list[_Columns]) -> None:
        draft = self._sums(columns) if self._reads_alone(step, columns) else None
        if activation == "identity":
            self._values[step.name] = columns
        elif draft is None:
            self._linear(step, replace(_identity(columns), activation=activation), columns)
        else:
            draft.activation, draft.part = activation, step.part
            self._values[step.name] = columns

    def _read(self, names: tuple[str, ...]) -> list[_Columns]:
        return [columns for name in names for columns in self._values[name]]

    def _reads_alone(self, step: Step, columns: list[_Columns]) -> bool:
        """Whether a step reads one layer, or the input, as it is, and nothing else reads that.

        Remembered where it is not so: the step's value may be another name of the same thing.
        """
        if len(step.reads) != 1 or len(columns) != 1 or self._readers[step.reads[0]] != 1:
            self._shared.update(each.layer for each in columns)
        return columns[0].layer not in self._shared and columns[0].stretch is None

    def _sums(self, columns: list[_Columns]) -> _Draft | None:
        """Return the layer whose z a value is, if it is one's that has no activation yet."""
        draft = self._drafts.get(columns[0].layer)
        return draft if draft is not None and draft.activation == "identity" else None

    def _stretch_of(self, columns: _Columns) -> _Stretch | None:
        if columns.layer != self._input.name:
            return columns.stretch
        # What rounding takes from the mean goes into the biases: for a feature far from zero
        # and nearly constant it is a good part of a scale.
        with np.errstate(over="ignore"):
            rounding = (self._mean.astype(np.float32) - self._mean) / self._scale
        if not rounding.any():
            return columns.stretch
        factor, offset = columns.stretch or (np.ones(columns.width), np.zeros(columns.width))
        return factor, factor * rounding + offset

    def _check_readable(self, layer: str, step: Step) -> None:
        draft = self._drafts.get(layer)
        if draft is not None and ACTIVATIONS[draft.activation].outputs_only:
            raise UnsupportedSourceError(
                draft.part,
                f"{draft.activation}, which {step.part} reads",
                "a Network has it on outputs alone: leave out what comes after it",
            )


def _identity(columns: list[_Columns]) -> Linear:
    return Linear(np.eye(sum(each.width for each in columns)))


def _per_feature(step: Step, values: ArrayLike, width: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape not in ((), (width,)):
        raise NetworkError(
            step.part,
            expected=f"one number for each of the {width} features that it reads",
            got=f"shape {array.shape}",
            fix="fit it to what it reads",
        )
    return np.broadcast_to(array, (width,))


def _stretched(
    columns: list[_Columns], factor: NDArray[np.float64], offset: NDArray[np.float64]
) -> list[_Columns]:
    """Return factor * value + offset."""
    if (factor == 1).all() and not offset.any():
        return columns
    stretched = []
    ends = np.cumsum([each.width for each in columns])[:-1]
    for each, f, o in zip(columns, np.split(factor, ends), np.split(offset, ends), strict=True):
        if each.stretch is not None:
            f, o = f * each.stretch[0], f * each.stretch[1] + o
        stretched.append(replace(each, stretch=(f, o)))
    return stretched
