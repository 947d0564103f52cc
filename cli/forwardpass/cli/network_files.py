"""Networks in files: ONNX of any producer, Keras, and weights by name. Never a pickle."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from forwardpass.cli.errors import UsageError
from forwardpass.models import Network, from_keras, from_onnx, from_state, load
from forwardpass.models.onnx_import import parse
from forwardpass.models.pickles import is_pickle, unread
from forwardpass.proto import metadata


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What a file does not say of itself; None where nothing was given."""

    activations: Sequence[str] | None = None
    """One a layer, of weights by name."""
    layers: Sequence[str] | None = None
    """The order of the layers, of weights by name."""
    select: Sequence[str] | None = None
    """The outputs wanted, of an ONNX file."""
    round_float64: bool | None = None
    """Whether float64 of an ONNX file may be rounded."""


NO_OPTIONS = FileOptions()

_OPTIONS = {
    ".onnx": ("select", "round_float64"),
    ".keras": (),
    ".npz": ("activations", "layers"),
    ".safetensors": ("activations", "layers"),
}
"""The kinds of files, and the options of each."""

KINDS = ", ".join(_OPTIONS)


def is_file(source: str) -> bool:
    """Whether a source is meant as a file by itself, readable or not."""
    path = Path(source)
    return path.suffix.lower() in _OPTIONS or is_pickle(path)


def check_options(source: str, options: FileOptions) -> None:
    """Raise UsageError for an option that says nothing of a source."""
    own = _OPTIONS.get(Path(source).suffix.lower(), ())
    for field in fields(options):
        if getattr(options, field.name) is not None and field.name not in own:
            kinds = [kind for kind, names in _OPTIONS.items() if field.name in names]
            flag = "--" + field.name.replace("_", "-")
            raise UsageError(f"{flag}: for {' and '.join(kinds)} files, not for {source}")


def read_network(path: Path, options: FileOptions) -> Network:
    """Return the network of a file.

    A file of Forwardpass' own keeps its bits and its name; any other network gets the file's
    name. Raises UnsupportedSourceError for pickles, and what the importers do.
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
    if options.activations is None:
        raise UsageError(
            f"{path}: weights say nothing of activations; `forwardpass export` takes one a layer, "
            "the last one's too, as in --activations relu,softmax"
        )
    return from_state(path, options.activations, layers=options.layers, name=path.stem)


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
