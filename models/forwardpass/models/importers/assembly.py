"""From the steps of another library's model to a network of dense layers.

Steps that are not layers are folded into layers: an activation into the layer before it, a
normalization into the input's scaling, into the layer before it or into those after it. If
another step reads the value before it, it becomes a layer with an identity matrix, so that no
model is rejected for the order of its steps. Sums of layers become one layer that reads what
they read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from forwardpass.models.activations import AnyActivation, LayerNorm, activation_of
from forwardpass.models.arrays import parameter
from forwardpass.models.categorical import Categorical
from forwardpass.models.errors import NetworkError, UnsupportedSourceError
from forwardpass.models.importers.steps import Activate, Head, Linear, Normalize, Select, Step, Sum
from forwardpass.models.layers import Layer
from forwardpass.models.network import Inputs, Network, as_inputs
from forwardpass.models.ports import Input, Output
from forwardpass.models.scaling import Scaling


def assemble(
    source: Inputs,
    steps: Sequence[Step],
    heads: Sequence[Head],
    *,
    name: str,
    provenance: Mapping[str, str],
) -> Network:
    """Return the network that computes the steps, which are in an order of computation.

    The scaling of source, one input or several, comes before them. Raises UnsupportedSourceError
    for what a Network cannot represent, NetworkError for names and parameters that no network has.
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
    layers = assembly.layers({output.layer for output in outputs})
    return Network(assembly.inputs(), layers, tuple(outputs), name, provenance)


_Stretch: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
_Blocks: TypeAlias = dict[str, NDArray[np.float64]]

_MADE = 2**26
"""Maximum elements of all identity matrices: a small file may claim widths that fill any memory."""


@dataclass(eq=False)
class _Draft:
    """A layer that later steps may still change."""

    blocks: _Blocks
    """Blocks of columns of W, by the value that they weight."""
    b: NDArray[np.float64] | None
    """The bias; None is zero until something is added, since 0 + -0 would not be -0."""
    activation: AnyActivation
    part: str
    """The part of the source that has the activation, for errors."""


@dataclass(frozen=True, eq=False)
class _Columns:
    """Activations of a layer or of the input, as a part of a value."""

    layer: str
    width: int
    stretch: _Stretch | None = None
    """factor and offset of factor * a + offset; None is a itself, bit for bit."""
    of: Literal["a", "z"] = "a"
    """`z` if the layer got an activation later: for outputs of its sums."""
    at: NDArray[np.intp] | None = None
    """The numbers of the activations; None is all of them in order."""

    @property
    def whole(self) -> bool:
        """Whether it is all activations as they are."""
        return self.stretch is None and self.at is None


class _Assembly:
    def __init__(self, source: Inputs, steps: Sequence[Step], heads: Sequence[Head]) -> None:
        self._inputs = {each.name: each for each in as_inputs(source)}
        # Of each input of numbers its own under its name, and those that some layers read.
        self._scalings = {
            each.name: _given(each) for each in self._inputs.values() if isinstance(each, Input)
        }
        self._apart: dict[str, str] = {}
        self._readers = Counter(name for step in steps for name in step.reads)
        self._shown = Counter(head.reads[0] for head in heads if len(head.reads) == 1)
        self._readers.update(name for head in heads for name in head.reads)
        self._values = {name: [_Columns(name, each.width)] for name, each in self._inputs.items()}
        self._drafts: dict[str, _Draft] = {}
        self._shared: set[str] = set()
        self._made = 0

    def add(self, step: Step) -> None:
        """Add the next step."""
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
            case Select(at):
                self._is_alone(step.reads, columns)
                self._values[step.name] = _selected(columns, at)

    def shown_by(self, head: Head) -> tuple[str, Literal["a", "z"]]:
        """Return the layer whose a or z a head is; a new one, if it is that of no layer."""
        columns = self._read(head.reads)
        if len(columns) == 1 and columns[0].layer in self._drafts and columns[0].whole:
            return columns[0].layer, columns[0].of
        if len(head.reads) == 1 and head.reads[0] not in {
            *self._drafts,
            *self._scalings,
            *self._inputs,
        }:
            (name,) = head.reads  # the same value, which now belongs to a layer
        else:
            name = head.name
            while name in self._values:
                name += " output"
        identity = self._identity(f"output {head.name!r}", columns)
        self._linear(Step(name, identity, head.reads, f"output {head.name!r}"), identity, columns)
        return name, "a"

    def inputs(self) -> tuple[Input | Categorical, ...]:
        """Return the inputs, those of numbers with the scaling with which the steps begin."""
        return tuple(
            self._scaled(each) if isinstance(each, Input) else each
            for each in self._inputs.values()
        )

    def _scaled(self, source: Input) -> Input:
        mean, scale = _needed(self._scalings[source.name])
        scalings = tuple(
            Scaling(name, *_needed(self._scalings[name]))
            for name, of in self._apart.items()
            if of == source.name
        )
        return replace(source, mean=mean, scale=scale, scalings=source.scalings + scalings)

    def layers(self, shown: set[str]) -> tuple[Layer, ...]:
        """Return the layers that lead to those shown, rounded to float32.

        A Select may take no column of a layer that its step reads.
        """
        needed = set(shown)
        for name, draft in reversed(self._drafts.items()):
            if name in needed:
                needed.update(draft.blocks)
        return tuple(
            Layer(
                name,
                parameter(f"layer {name!r}", "W", np.hstack(list(draft.blocks.values()))),
                parameter(f"layer {name!r}", "b", _bias(draft)),
                draft.activation,
                tuple(draft.blocks),
            )
            for name, draft in self._drafts.items()
            if name in needed
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
            if each.at is not None:
                block = _spread(block, each.at, self._width(each.layer))
            _add_block(draft, each.layer, block)

    def _sum(self, step: Step) -> None:
        """Add a sum: layers that nothing else reads become one layer, which reads other values."""
        values = {name: self._read((name,)) for name in step.reads}
        widths = [sum(each.width for each in columns) for columns in values.values()]
        if len(set(widths)) != 1:
            raise NetworkError(
                step.part,
                expected="values of one width",
                got=f"widths {', '.join(map(str, widths))}",
                fix="add values of one width",
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
        layer = columns[0].layer
        if alone and layer in self._scalings:
            own_mean, own_scale = self._scalings[layer]
            self._scalings[layer] = own_mean + own_scale * mean, own_scale * scale
        elif normalize.apart and self._is_raw(columns):
            self._scalings[step.name] = mean, scale
            self._apart[step.name] = layer
            columns = [_Columns(step.name, width)]
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

    def _activate(self, step: Step, activation: AnyActivation, columns: list[_Columns]) -> None:
        norm = self._norm(columns)
        but_for_outputs = activation != "identity" and norm is None
        alone = self._is_alone(step.reads, columns, but_for_outputs=but_for_outputs)
        draft = self._sums(columns) if alone else None
        if activation == "identity":
            self._values[step.name] = columns
        elif norm is not None and alone and not isinstance(activation, LayerNorm):
            self._drafts[columns[0].layer].activation = replace(norm, then=activation)
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
        """Whether the value is one layer, or the input, unchanged, and nothing else reads it.

        If not, that is stored: the reader's value may be the same one by another name.
        """
        readers = self._readers[reads[0]] - (self._shown[reads[0]] if but_for_outputs else 0)
        if len(reads) != 1 or len(columns) != 1 or readers != 1:
            self._shared.update(each.layer for each in columns)
        return columns[0].layer not in self._shared and columns[0].whole

    def _sums(self, columns: list[_Columns]) -> _Draft | None:
        """Return the layer whose z a value is, if that layer has no activation yet."""
        draft = self._drafts.get(columns[0].layer)
        return draft if draft is not None and draft.activation == "identity" else None

    def _norm(self, columns: list[_Columns]) -> LayerNorm | None:
        """Return the LayerNorm whose result a value is, without a function after it."""
        draft = self._drafts.get(columns[0].layer)
        norm = None if draft is None else draft.activation
        return norm if isinstance(norm, LayerNorm) and norm.then == "identity" else None

    def _stretch_of(self, columns: _Columns) -> _Stretch | None:
        if columns.layer not in self._scalings:
            return columns.stretch
        mean, scale = self._scalings[columns.layer]
        # The rounding error of the mean is added to the biases: for a feature far from zero and
        # nearly constant it is large compared with the scale.
        with np.errstate(over="ignore"):
            rounding = (mean.astype(np.float32) - mean) / scale
        if not rounding.any():
            return columns.stretch
        if columns.at is not None:
            rounding = rounding[columns.at]
        factor, offset = columns.stretch or (np.ones(columns.width), np.zeros(columns.width))
        return factor, factor * rounding + offset

    def _is_raw(self, columns: list[_Columns]) -> bool:
        """Whether a value is an input of numbers, whole, without a scaling of its own."""
        name = columns[0].layer
        if name in self._apart or name not in self._scalings:
            return False
        mean, scale = self._scalings[name]
        unscaled = not mean.any() and (scale == 1).all()
        return len(columns) == 1 and columns[0].whole and bool(unscaled)

    def _identity(self, part: str, columns: list[_Columns]) -> Linear:
        """Return an identity of columns; raises UnsupportedSourceError if they are too wide."""
        width = sum(each.width for each in columns)
        self._made += width**2
        if self._made > _MADE:
            raise UnsupportedSourceError(
                part,
                f"a separate step on {width} values, which takes an identity matrix of that size",
                "put it after a layer that nothing else reads",
            )
        return Linear(np.eye(width))

    def _width(self, layer: str) -> int:
        if layer in self._drafts:
            return _units(self._drafts[layer])
        source = self._inputs[self._apart.get(layer, layer)]
        return source.width

    def _check_readable(self, layer: str, step: Step) -> None:
        draft = self._drafts.get(layer)
        if draft is not None and activation_of(draft.activation).outputs_only:
            raise UnsupportedSourceError(
                draft.part,
                f"{draft.activation}, which {step.part} reads",
                "a Network has it only on outputs: leave out what comes after it",
            )


def _given(source: Input) -> _Stretch:
    return (
        np.zeros(source.size) if source.mean is None else source.mean.astype(np.float64),
        np.ones(source.size) if source.scale is None else source.scale.astype(np.float64),
    )


def _needed(scaling: _Stretch) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    mean, scale = scaling
    return mean if mean.any() else None, scale if (scale != 1).any() else None


def _spread(block: NDArray[np.float64], at: NDArray[np.intp], width: int) -> NDArray[np.float64]:
    """Return a block of weights of some activations as one of all activations of a layer."""
    spread = np.zeros((width, len(block)))
    np.add.at(spread, at, block.T)
    return np.ascontiguousarray(spread.T)


def _selected(columns: list[_Columns], at: NDArray[np.intp]) -> list[_Columns]:
    """Return some columns of a value, as parts of neighbors from one layer."""
    ends = np.cumsum([each.width for each in columns])
    if np.array_equal(at, np.arange(ends[-1])):
        return columns
    owners = np.searchsorted(ends, at, side="right")
    selected = []
    for run in np.split(np.arange(len(at)), np.flatnonzero(np.diff(owners)) + 1):
        each = columns[owners[run[0]]]
        local = at[run] - (ends[owners[run[0]]] - each.width)
        selected.append(
            replace(
                each,
                width=len(run),
                at=local if each.at is None else each.at[local],
                stretch=each.stretch and (each.stretch[0][local], each.stretch[1][local]),
            )
        )
    return selected


def _add_block(draft: _Draft, layer: str, block: NDArray[np.float64]) -> None:
    seen = draft.blocks.get(layer)
    draft.blocks[layer] = block if seen is None else seen + block


def _add_to_bias(draft: _Draft, b: NDArray[np.float64]) -> None:
    draft.b = b if draft.b is None else draft.b + b


def _units(draft: _Draft) -> int:
    return len(next(iter(draft.blocks.values())))


def _bias(draft: _Draft) -> NDArray[np.float64]:
    return np.zeros(_units(draft)) if draft.b is None else draft.b


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
