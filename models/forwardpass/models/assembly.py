"""From the steps of another library's model to a network of dense layers.

Steps that are no layer of their own vanish into those that are: an activation into the layer
before it, a normalization into the input's scaling, into the layer before it or into those
after it. One whose place something else reads becomes a layer with an identity matrix, so
that nothing is refused for the order of its steps. Sums of layers become one layer that reads
what they read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import ACTIVATIONS
from forwardpass.models.arrays import parameter
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.layers import Layer
from forwardpass.models.network import Network
from forwardpass.models.ports import Input, Output
from forwardpass.models.steps import Activate, Head, Linear, Normalize, Step, Sum


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
        Output(
            head.name,
            *assembly.shown_by(head),
            labels=head.labels,
            units=head.units,
            description=head.description,
            thresholds=head.thresholds,
        )
        for head in heads
    ]
    return Network(assembly.scaled_input(), assembly.layers(), tuple(outputs), name, provenance)


_Stretch: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
_Blocks: TypeAlias = dict[str, NDArray[np.float64]]

_MADE = 2**26
"""Most elements of identity matrices: a small file may claim widths that would fill any memory."""


@dataclass(eq=False)
class _Draft:
    """A layer that later steps may still change."""

    blocks: _Blocks
    """W's columns by what they weigh."""
    b: NDArray[np.float64] | None
    """None is zero, until something is added: 0 + -0 would not be -0."""
    activation: str
    part: str
    """The source's part that the activation comes from."""


@dataclass(frozen=True, eq=False)
class _Columns:
    """All of a layer's, or the input's, activations, as a value has them."""

    layer: str
    width: int
    stretch: _Stretch | None = None
    """factor and offset of factor * a + offset; None is a itself, to the last bit."""
    of: Literal["a", "z"] = "a"
    """`z` where the layer got an activation after: for outputs that show its sums."""


class _Assembly:
    def __init__(self, source: Input, steps: Sequence[Step], heads: Sequence[Head]) -> None:
        self._input = source
        self._mean, self._scale = np.zeros(source.size), np.ones(source.size)
        if source.mean is not None:
            self._mean = source.mean.astype(np.float64)
        if source.scale is not None:
            self._scale = source.scale.astype(np.float64)
        self._readers = Counter(name for step in steps for name in step.reads)
        self._shown = Counter(head.reads[0] for head in heads if len(head.reads) == 1)
        self._readers.update(name for head in heads for name in head.reads)
        self._values = {source.name: [_Columns(source.name, source.size)]}
        self._drafts: dict[str, _Draft] = {}
        self._shared: set[str] = set()
        self._made = 0

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
            case Sum():
                self._sum(step)

    def shown_by(self, head: Head) -> tuple[str, Literal["a", "z"]]:
        """Return the layer whose a or z a head is: one made for it, if it is none's."""
        columns = self._read(head.reads)
        if len(columns) == 1 and columns[0].layer in self._drafts and columns[0].stretch is None:
            return columns[0].layer, columns[0].of
        if len(head.reads) == 1 and head.reads[0] not in {*self._drafts, self._input.name}:
            (name,) = head.reads  # the same value, which is a layer's now
        else:
            name = head.name
            while name in self._values:
                name += " output"
        identity = self._identity(f"output {head.name!r}", columns)
        self._linear(Step(name, identity, head.reads, f"output {head.name!r}"), identity, columns)
        return name, "a"

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
                parameter(f"layer {name!r}", "b", _bias(draft)),
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
        draft = _Draft({}, linear.b, linear.activation, step.part)
        self._weigh(draft, columns, W, step)
        self._drafts[step.name] = draft
        self._values[step.name] = [_Columns(step.name, len(W))]

    def _weigh(
        self, draft: _Draft, columns: list[_Columns], W: NDArray[np.float64], step: Step
    ) -> None:
        """Add W times the columns to a layer's sums."""
        ends = np.cumsum([each.width for each in columns])
        for each, block in zip(columns, np.split(W, ends[:-1], axis=1), strict=True):
            self._check_readable(each.layer, step)
            stretch = self._stretch_of(each)
            if stretch is not None:
                factor, offset = stretch
                _add_to_bias(draft, block @ offset)
                block = block * factor
            _add_block(draft, each.layer, block)

    def _sum(self, step: Step) -> None:
        """Take in a sum: layers that nothing else reads become one, other values are read by it."""
        values = {name: self._read((name,)) for name in step.reads}
        widths = [sum(each.width for each in columns) for columns in values.values()]
        if len(set(widths)) != 1:
            raise NetworkError(
                step.part,
                expected="values of one width",
                got=f"widths {', '.join(map(str, widths))}",
                fix="add what fits",
            )
        draft, own_name = _Draft({}, None, "identity", step.part), None
        for name in step.reads:
            columns = values[name]
            term = self._sums(columns) if self._is_alone((name,), columns) else None
            if term is None:
                self._weigh(draft, columns, self._identity(step.part, columns).W, step)
                continue
            own_name = own_name or columns[0].layer
            del self._drafts[columns[0].layer]
            for layer, block in term.blocks.items():
                _add_block(draft, layer, block)
            if term.b is not None:
                _add_to_bias(draft, term.b)
        own_name = own_name or step.name
        self._drafts[own_name] = draft
        self._values[step.name] = [_Columns(own_name, widths[0])]

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
        alone = self._is_alone(step.reads, columns)
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
            draft.b = offset if draft.b is None else draft.b * factor + offset
        self._values[step.name] = columns

    def _activate(self, step: Step, activation: str, columns: list[_Columns]) -> None:
        alone = self._is_alone(step.reads, columns, but_for_outputs=activation != "identity")
        draft = self._sums(columns) if alone else None
        if activation == "identity":
            self._values[step.name] = columns
        elif draft is None:
            identity = self._identity(step.part, columns)
            self._linear(step, replace(identity, activation=activation), columns)
        else:
            draft.activation, draft.part = activation, step.part
            self._values[step.reads[0]] = [replace(columns[0], of="z")]
            self._values[step.name] = columns

    def _read(self, names: tuple[str, ...]) -> list[_Columns]:
        return [columns for name in names for columns in self._values[name]]

    def _is_alone(
        self, reads: tuple[str, ...], columns: list[_Columns], *, but_for_outputs: bool = False
    ) -> bool:
        """Whether one layer, or the input, is read as it is, and nothing else reads that.

        Remembered where it is not so: the reader's value may be another name of the same thing.
        """
        readers = self._readers[reads[0]] - (self._shown[reads[0]] if but_for_outputs else 0)
        if len(reads) != 1 or len(columns) != 1 or readers != 1:
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

    def _identity(self, part: str, columns: list[_Columns]) -> Linear:
        """Return what hands columns on; raises UnsupportedSourceError where they are too wide."""
        width = sum(each.width for each in columns)
        self._made += width**2
        if self._made > _MADE:
            raise UnsupportedSourceError(
                part,
                f"a step of its own on {width} values, which takes an identity matrix of that size",
                "put it behind a layer that nothing else reads",
            )
        return Linear(np.eye(width))

    def _check_readable(self, layer: str, step: Step) -> None:
        draft = self._drafts.get(layer)
        if draft is not None and ACTIVATIONS[draft.activation].outputs_only:
            raise UnsupportedSourceError(
                draft.part,
                f"{draft.activation}, which {step.part} reads",
                "a Network has it on outputs alone: leave out what comes after it",
            )


def _add_block(draft: _Draft, layer: str, block: NDArray[np.float64]) -> None:
    seen = draft.blocks.get(layer)
    draft.blocks[layer] = block if seen is None else seen + block


def _add_to_bias(draft: _Draft, b: NDArray[np.float64]) -> None:
    draft.b = b if draft.b is None else draft.b + b


def _bias(draft: _Draft) -> NDArray[np.float64]:
    units = len(next(iter(draft.blocks.values())))
    return np.zeros(units) if draft.b is None else draft.b


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
