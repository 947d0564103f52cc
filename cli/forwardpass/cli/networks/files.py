"""Networks in files: ONNX of any producer, Keras, skops, and weights by name. Never a pickle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from forwardpass.cli.errors import UsageError
from forwardpass.models import (
    ACTIVATIONS,
    AnyActivation,
    Elu,
    HardSigmoid,
    LeakyRelu,
    Network,
    from_keras,
    from_onnx,
    from_sklearn,
    from_state,
    load,
)
from forwardpass.models.activations import is_name
from forwardpass.models.file.load import parse
from forwardpass.models.importers.pickles import is_pickle, unread
from forwardpass.proto import metadata


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Options for what a file does not contain; None for one that was not given."""

    activations: Sequence[str] | None = None
    """The activation of each layer, for weights by name."""
    layers: Sequence[str] | None = None
    """The order of the layers, for weights by name."""
    select: Sequence[str] | None = None
    """The outputs to keep, for an ONNX file."""
    round_float64: bool | None = None
    """Whether float64 weights may be rounded, for an ONNX file."""


NO_OPTIONS = FileOptions()

_OPTIONS = {
    ".onnx": ("select", "round_float64"),
    ".keras": (),
    ".skops": (),
    ".npz": ("activations", "layers"),
    ".safetensors": ("activations", "layers"),
}
"""The kinds of files, and the options of each."""

KINDS = ", ".join(_OPTIONS)

_PARAMETERS: Mapping[str, Callable[[float], AnyActivation]] = {
    "leaky_relu": LeakyRelu,
    "elu": Elu,
    "hard_sigmoid": HardSigmoid,
}


def is_file(source: str) -> bool:
    """Whether a source names a file of a network, readable or not."""
    path = Path(source)
    return path.suffix.lower() in _OPTIONS or is_pickle(path)


def check_options(source: str, options: FileOptions) -> None:
    """Raise UsageError for an option that does not apply to a source."""
    own = _OPTIONS.get(Path(source).suffix.lower(), ())
    for field in fields(options):
        if getattr(options, field.name) is not None and field.name not in own:
            kinds = [kind for kind, names in _OPTIONS.items() if field.name in names]
            flag = "--" + field.name.replace("_", "-")
            raise UsageError(f"{flag}: for {' and '.join(kinds)} files, not for {source}")


def read_network(path: Path, options: FileOptions) -> Network:
    """Return the network of a file.

    A file of Forwardpass' own keeps its bits and its name; any other network gets the file's
    name. Raises UnsupportedSourceError for pickles, and the errors of the importers.
    """
    if is_pickle(path):
        raise unread(
            path,
            "",
            "if you trust its author, load it in a Python file of yours, in a function that "
            "returns from_sklearn(...) or from_torch(...), and export FILE.py:FUNCTION",
        )
    match path.suffix.lower():
        case ".onnx":
            return _read_onnx(path, options)
        case ".keras":
            return from_keras(path, name=path.stem)
        case ".skops":
            return from_sklearn(path, name=path.stem)
    if options.activations is None:
        raise UsageError(
            f"{path}: weights have no activations; pass `forwardpass export` one for each layer, "
            "the last one included, as in --activations relu,softmax"
        )
    activations = [_activation(path, text) for text in options.activations]
    return from_state(path, activations, layers=options.layers, name=path.stem)


def _activation(path: Path, text: str) -> AnyActivation:
    """Return the activation that a text names; a parameter follows a colon, as leaky_relu:0.2."""
    name, colon, parameter = text.partition(":")
    if is_name(text):
        return text
    if colon and name in _PARAMETERS:
        try:
            return _PARAMETERS[name](float(parameter))
        except ValueError:
            pass
    raise UsageError(
        f"{path}: no activation {text!r}; expected some of {', '.join(ACTIVATIONS)}, where "
        f"{', '.join(_PARAMETERS)} may have a parameter, as in leaky_relu:0.2"
    )


def _read_onnx(path: Path, options: FileOptions) -> Network:
    model = parse(path)
    is_ours = any(prop.key == metadata.FORMAT for prop in model.metadata_props)
    if is_ours and options.select is None:
        return load(model)
    return from_onnx(
        model,
        outputs=options.select,
        round_float64=bool(options.round_float64),
        name=model.graph.name if is_ours else path.stem,
    )
