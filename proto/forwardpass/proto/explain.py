"""What is asked for when an answer is to be explained, and how what comes is named."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from forwardpass.proto.spec import TensorError, TensorSpec, format_shape, quote

if TYPE_CHECKING:
    from forwardpass.proto.metadata import ColumnNames

PARAMETER, STEPS_PARAMETER = "explain", "explain_steps"
"""Parameters of a ModelInferRequest: the text of a Target, and one of STEPS."""
DEFAULT_STEPS = 64
"""Number of cells or points for each row."""
STEPS = (16, 32, DEFAULT_STEPS, 128, 256)
"""Numbers of them that a server can be asked for."""


class Target(NamedTuple):
    """What is explained: one column of an output."""

    output: str
    column: int


def names(output: str) -> tuple[str, str]:
    """Return the names of the attributions (N, features) and of their completeness error (N,)."""
    return f"explain.{output}", f"explain.{output}.error"


def feature_names(
    inputs: Iterable[TensorSpec], labels: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Return the names of the attributions' columns: the features of all inputs, in their order.

    labels: Names of the features by input. Without some, features are called after the input, `x`
    or `x[0]`, `x[1]`; those of one input alone have no names then. A name of several inputs gets
    that of the input before it, as in `x.age`.
    """
    specs = [*inputs]
    if len(specs) == 1 and specs[0].name not in labels and specs[0].datatype == "FP32":
        return ()
    named = [
        (spec.name, label)
        for spec in specs
        for label in labels.get(spec.name, ()) or _own(spec.name, spec.shape[-1])
    ]
    times = Counter(label for _, label in named)
    return tuple(label if times[label] == 1 else f"{name}.{label}" for name, label in named)


def _own(name: str, width: int) -> list[str]:
    return [name] if width == 1 else [f"{name}[{column}]" for column in range(width)]


def is_explained(output: TensorSpec) -> bool:
    """Whether an output has columns of numbers that a Target can name."""
    return output.datatype == "FP32" and len(output.shape) == 2 and output.shape[1] > 0


def read_target(
    text: str, outputs: Iterable[TensorSpec], columns: "Mapping[str, ColumnNames]"
) -> Target:
    """Return what `OUTPUT` or `OUTPUT:COLUMN` names; COLUMN is an index, or a label.

    Raises TensorError for an output that cannot be explained, or a column that there is not.
    """
    subject = f"parameter {PARAMETER!r}"
    known = {output.name: output for output in outputs}
    # Names may hold colons: the longest that fits.
    fitting = (name for name in known if text == name or text.startswith(f"{name}:"))
    name = max(fitting, key=len, default=None)
    if name is None:
        raise TensorError(
            subject,
            expected=f"an output of the model ({', '.join(known)})",
            got=quote(text),
            fix="send OUTPUT, or OUTPUT:COLUMN",
        )
    spec, column = known[name], text[len(name) + 1 :]
    if not is_explained(spec):
        raise TensorError(
            subject,
            expected="an output that is FP32 of shape [-1, columns]",
            got=f"{quote(name)}, {spec.datatype} of shape {format_shape(spec.shape)}",
            fix="explain another output",
        )
    # Imported here: clients name what they ask for, and leave it to the server to read it.
    from forwardpass.proto.verdicts import column_labels

    width = spec.shape[1]
    labels = column_labels(columns[name].labels, width) if name in columns else ()
    if not column and text == name and width == 1:
        return Target(name, 0)
    if column in labels:
        return Target(name, labels.index(column))
    if column.isdecimal() and len(column) < 10 and int(column) < width:
        return Target(name, int(column))
    named = f", or a label ({', '.join(labels)})" if labels else ""
    raise TensorError(
        subject,
        expected=f"a column of {quote(name)}: {'0' if width == 1 else f'0 to {width - 1}'}{named}",
        got=quote(column) if column else "none",
        fix=f"send {name}:COLUMN",
    )
