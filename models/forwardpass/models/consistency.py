"""Checks that input, layers and outputs make a network; for connections see `connections`."""

from collections.abc import Sequence
from dataclasses import replace

from forwardpass.models import graph_names
from forwardpass.models.activations import activation_of, last_of
from forwardpass.models.categorical import Categorical
from forwardpass.models.checks import check_one_each
from forwardpass.models.connections import check_connections
from forwardpass.models.errors import NetworkError
from forwardpass.models.layers import Layer
from forwardpass.models.ports import Input, Output
from forwardpass.proto.verdicts import DEFAULT_THRESHOLD, is_two_class


def check_inputs(inputs: Sequence[Input | Categorical]) -> None:
    """Raise NetworkError unless there are inputs whose columns have different names."""
    if not inputs or not all(isinstance(each, Input | Categorical) for each in inputs):
        odd = next((each for each in inputs if not isinstance(each, Input | Categorical)), None)
        raise NetworkError(
            "network",
            expected="inputs that are Input or Categorical",
            got="none" if odd is None else repr(odd),
            fix="write for example Input(3)",
        )
    _check_distinct("inputs", [each.name for each in inputs])
    if len(inputs) > 1:
        # One table may have the columns of all.
        columns = [
            name
            for each in inputs
            for name in ((each.features if isinstance(each, Input) else ()) or (each.name,))
        ]
        _check_distinct("columns of the inputs", columns)


def check_layers(inputs: Sequence[Input | Categorical], layers: Sequence[Layer]) -> None:
    """Raise NetworkError unless names are distinct, connections feed-forward and shapes fit."""
    if not layers:
        raise NetworkError(
            "network",
            expected="at least one layer",
            got="none",
            fix="a network computes something: add a layer",
        )
    widths = {each.name: source.width for source in inputs for each in source.scaled}
    names = [each.name for source in inputs for each in source.scaled]
    _check_distinct("layers (the input is one)", [*names, *(layer.name for layer in layers)])
    taken = graph_names.taken(inputs, layers)
    for source in inputs:
        if source.name in taken:
            raise _name_taken(f"input {source.name!r}", source.name)
    check_connections(names, {layer.name: layer.reads for layer in layers})
    read = {name for layer in layers for name in layer.reads}
    for source in inputs:
        if not any(each.name in read for each in source.scaled):
            raise NetworkError(
                f"input {source.name!r}",
                expected="to be read by a layer",
                got="none that does",
                fix="remove it, or read it",
            )
        if isinstance(source, Input):
            _check_scalings(source, layers)
    widths |= {layer.name: layer.units for layer in layers}
    for layer in layers:
        width = sum(widths[name] for name in layer.reads)
        if layer.W.shape[1] != width:
            columns = " and ".join(f"{name} ({widths[name]})" for name in layer.reads)
            transposed = layer.W.shape == (width, layer.units)
            raise NetworkError(
                f"layer {layer.name!r}",
                expected=f"W of shape ({layer.units}, {width}), a column for each unit of "
                f"{columns}",
                got=f"shape {layer.W.shape}",
                fix="pass W.T" if transposed else "fit W's columns to what the layer reads",
            )


def _check_scalings(source: Input, layers: Sequence[Layer]) -> None:
    """Raise NetworkError unless each scaling is read, and only one notation is possible."""
    read = {name for layer in layers for name in layer.reads}
    for each in source.scalings:
        if each.name not in read:
            raise NetworkError(
                f"scaling {each.name!r}",
                expected="to be read by a layer",
                got="none that does",
                fix="remove it, or read it",
            )
    if len(source.scalings) == 1 and source.name not in read:
        raise NetworkError(
            f"scaling {source.scalings[0].name!r}",
            expected="layers that read the input, or another of its scalings, beside it",
            got="none that does",
            fix="make it the mean and scale of the input",
        )
    for layer in layers:
        several = [each.name for each in source.scaled if each.name in layer.reads]
        if len(several) > 1:
            raise NetworkError(
                f"layer {layer.name!r}",
                expected="to read the input scaled one way",
                got=" and ".join(several),
                fix="scale the columns of W instead",
            )


def checked_outputs(
    inputs: Sequence[Input | Categorical], layers: Sequence[Layer], outputs: Sequence[Output]
) -> tuple[Output, ...]:
    """Return the outputs of layers checked by `check_layers`, in a canonical notation.

    z of an identity layer becomes its a, and one threshold for all columns one per column.
    Raises NetworkError unless they name layers, labels, units and thresholds fit, names are
    distinct, and each layer leads to an output.
    """
    if not outputs:
        raise NetworkError(
            "network",
            expected="at least one output",
            got="none",
            fix="name the layer whose activations are the answer",
        )
    _check_distinct(
        "tensors", [*(each.name for each in inputs), *(output.name for output in outputs)]
    )
    numbered = {layer.name: (number, layer) for number, layer in enumerate(layers, start=2)}
    taken = graph_names.taken(inputs, layers)
    checked = []
    for output in outputs:
        subject = f"output {output.name!r}"
        if output.layer not in numbered:
            raise NetworkError(
                subject,
                expected=f"to show one of the layers {', '.join(numbered)}",
                got=repr(output.layer),
                fix="name one of them",
            )
        number, layer = numbered[output.layer]
        own = {graph_names.shown(output, number)}
        if layer.activation == "identity":
            # z and a are one tensor: a single notation gives equal networks equal files.
            own = {graph_names.z(number), graph_names.a(number)}
            output = replace(output, of="a")
        if output.name in taken - own:
            raise _name_taken(subject, output.name)
        if not is_two_class(output.labels, layer.units):
            check_one_each(subject, "labels", output.labels, layer.units)
        check_one_each(subject, "units", output.units, layer.units)
        checked.append(replace(output, thresholds=_thresholds(output, layer)))
    _check_use(layers, checked)
    return tuple(checked)


def _thresholds(output: Output, layer: Layer) -> tuple[float, ...]:
    """Return one threshold per column of an output, or none."""
    thresholds = output.thresholds
    if not thresholds and is_two_class(output.labels, layer.units):
        # Sums before a sigmoid or tanh, and tanh itself, are as far from both classes at zero.
        name = activation_of(layer.activation).name
        centered = name in ("tanh", "softsign", "log_softmax") or (
            output.of == "z" and name in ("sigmoid", "hard_sigmoid")
        )
        return (0.0 if centered else DEFAULT_THRESHOLD,)
    if len(thresholds) not in (0, 1, layer.units):
        raise NetworkError(
            f"output {output.name!r}",
            expected=f"{layer.units} thresholds, one per column, or one for all",
            got=str(len(thresholds)),
            fix="give as many as columns, one or none",
        )
    activation = activation_of(layer.activation)
    last = activation_of(last_of(layer.activation))
    if last.name == "grouped_softmax" and output.of == "a" and output.labels:
        # The largest of all columns would be the answer of one group alone.
        thresholds = thresholds or (DEFAULT_THRESHOLD,)
    for threshold in thresholds if output.of == "a" else ():
        if not activation.low <= threshold <= activation.high:
            raise NetworkError(
                f"output {output.name!r}",
                expected=f"thresholds from {activation.low:g} to {activation.high:g}, the range of "
                f"{activation.name}",
                got=f"{threshold:g}",
                fix="give it in the units of the output",
            )
    return thresholds * layer.units if len(thresholds) == 1 else thresholds


def _check_use(layers: Sequence[Layer], outputs: Sequence[Output]) -> None:
    read = {name for layer in layers for name in layer.reads}
    shown = {(output.layer, output.of) for output in outputs}
    for layer in layers:
        subject = f"layer {layer.name!r}"
        if activation_of(layer.activation).outputs_only and layer.name in read:
            raise NetworkError(
                subject,
                expected=f"{layer.activation} only on a layer that no other reads",
                got="a layer that reads it",
                fix="read the layer before it, or use another activation",
            )
        if layer.name in read or (layer.name, "a") in shown:
            continue
        if (layer.name, "z") in shown:
            raise NetworkError(
                subject,
                expected="its activations to be read or shown",
                got="an output of its z alone",
                fix="give it activation 'identity', or the output of='a'",
            )
        raise NetworkError(
            subject,
            expected="to be read by a layer or shown by an output",
            got="neither",
            fix="remove it, read it, or make it an output",
        )


def _check_distinct(what: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise NetworkError(
                "network",
                expected=f"{what} of different names",
                got=f"{name!r} twice",
                fix="rename one",
            )


def _name_taken(subject: str, name: str) -> NetworkError:
    return NetworkError(
        subject,
        expected="a name of its own",
        got=f"{name!r}, which is another tensor of the graph",
        fix="choose another: z, a, W and b with a number are reserved",
    )
