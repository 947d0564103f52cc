"""`config.pbtxt`: Triton's configuration of a model, in the model's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from google.protobuf import text_format

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.engine.terms import TensorTerms, Terms
from forwardpass.server.repository.sidecar import SidecarError, read_sidecar
from forwardpass.server.repository.version_policy import VersionPolicy

CONFIG_FILE = "config.pbtxt"

_MAX_BYTES = 2**16
_MAX_LABEL_BYTES = 2**20
_PLATFORMS = ("", "onnxruntime_onnx")
_BACKENDS = ("", "onnxruntime")

_TENSOR = ("name", "data_type", "dims", "reshape", "reshape.shape")
_HONORED = frozenset(
    {
        "name",
        "platform",
        "backend",
        "max_batch_size",
        "default_model_filename",
        "version_policy",
        "version_policy.all",
        "version_policy.latest",
        "version_policy.latest.num_versions",
        "version_policy.specific",
        "version_policy.specific.versions",
        "input",
        "input.format",
        "output",
        "output.label_filename",
        *(f"{kind}.{name}" for kind in ("input", "output") for name in _TENSOR),
    }
)


class ConfigFileError(Exception):
    """A configuration with which its model cannot be served."""


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """The parts of a configuration that are honored."""

    policy: VersionPolicy | None = None
    """The versions to serve; None if not set."""
    model_file: str = ""
    """Name of the file in each version's folder; empty if not set."""
    terms: Terms = field(default_factory=Terms)
    """The terms of serving it, without labels until `read_config` has read their files."""
    label_files: tuple[tuple[str, str], ...] = ()
    """Outputs, each with the name of its file of labels."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Input -> the order of an image's axes, as in `FORMAT_NCHW`; returned to callers."""
    ignored: tuple[str, ...] = ()
    """Fields that are set and have no effect here, as in `input.optional`."""


def read_config(folder: Path, root: Path) -> TritonConfig | None:
    """Read the configuration in a model's folder, and the labels; None if there is none.

    root: The repository, out of which no link may lead.

    Raises ConfigFileError.
    """
    try:
        content = read_sidecar(folder / CONFIG_FILE, root, _MAX_BYTES)
        if content is None:
            return None
        config = parse_config(content, folder.name)
        labels = {
            output: _read_labels(folder / name, root, output) for output, name in config.label_files
        }
    except SidecarError as error:
        raise ConfigFileError(str(error)) from error
    return replace(config, terms=replace(config.terms, labels=labels))


def parse_config(content: bytes, folder: str) -> TritonConfig:
    """Read a configuration; folder: the name of the model's folder.

    Raises ConfigFileError.
    """
    message = pb.ModelConfig()
    try:
        honored, ignored = _without_ignored(content.decode())
        text_format.Parse(honored, message)
    except text_format.ParseError as error:
        line, what = error.GetLine(), str(error).partition(" : ")[2] or str(error)
        raise _fault(f"line {line}: {what}" if line is not None else what) from error
    except ValueError as error:
        raise _fault(f"is not the text of a ModelConfig: {error}") from error
    if message.name not in ("", folder):
        raise _fault(f"name: expected {folder!r} as its folder, got {message.name!r}")
    if message.platform not in _PLATFORMS or message.backend not in _BACKENDS:
        raise _fault(
            f"expected platform {_PLATFORMS[1]!r} or backend {_BACKENDS[1]!r}, got "
            f"{message.platform or message.backend!r}; only ONNX files are served"
        )
    if message.max_batch_size < 0:
        raise _fault(f"max_batch_size: expected 0 or more, got {message.max_batch_size}")
    batched = message.max_batch_size > 0
    return TritonConfig(
        policy=_policy(message.version_policy),
        model_file=_file_name(message.default_model_filename),
        terms=Terms(
            max_rows=message.max_batch_size or None,
            inputs=_tensors("input", message.input, batched=batched),
            outputs=_tensors("output", message.output, batched=batched),
        ),
        label_files=tuple(
            (output.name, output.label_filename)
            for output in message.output
            if output.label_filename
        ),
        formats={
            tensor.name: pb.ModelInput.Format.Name(tensor.format)
            for tensor in message.input
            if tensor.format
        },
        ignored=ignored,
    )


def _policy(message: pb.ModelVersionPolicy) -> VersionPolicy | None:
    match message.WhichOneof("policy_choice"):
        case "latest":
            return VersionPolicy(latest=message.latest.num_versions or 1)
        case "specific":
            versions = tuple(sorted(set(message.specific.versions)))
            if not versions or versions[0] < 1:
                raise _fault(f"version_policy: expected versions of at least 1, got {versions}")
            return VersionPolicy(named=versions)
        case "all":
            return VersionPolicy()
    return None


def _file_name(name: str) -> str:
    if "/" in name or "\0" in name or name in (".", ".."):
        raise _fault(f"default_model_filename: expected the name of a file, got {name!r}")
    return name


def _tensors(
    kind: str, tensors: Sequence[pb.ModelInput] | Sequence[pb.ModelOutput], *, batched: bool
) -> dict[str, TensorTerms]:
    rows = (-1,) if batched else ()
    terms: dict[str, TensorTerms] = {}
    for tensor in tensors:
        what = f"{kind} {tensor.name!r}"
        if tensor.name in terms:
            raise _fault(f"{what}: expected once, got twice")
        dims, reshape = tuple(tensor.dims), tuple(tensor.reshape.shape)
        if any(length != -1 and length < 1 for length in dims + reshape):
            raise _fault(f"{what}: expected dims of at least 1, or -1 for any length, got {dims}")
        reshaped = tensor.HasField("reshape")
        if reshaped and not dims:
            raise _fault(f"{what}: expected dims beside reshape, got none")
        datatype = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
        terms[tensor.name] = TensorTerms(
            datatype={"INVALID": None, "STRING": "BYTES"}.get(datatype, datatype),
            shape=(*rows, *dims) if dims else None,
            graph_shape=(*rows, *reshape) if reshaped else None,
        )
    return terms


def _read_labels(path: Path, root: Path, output: str) -> tuple[str, ...]:
    """Read labels, one for each line."""
    content = read_sidecar(path, root, _MAX_LABEL_BYTES)
    if content is None:
        raise _fault(f"output {output!r}: label_filename {path.name!r} is not in the folder")
    try:
        # Windows writes a mark before UTF-8, which is no part of the first label.
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise _fault(f"output {output!r}: {path.name!r} is not UTF-8") from error
    if not lines[-1]:
        # The end of the last line is not a label.
        del lines[-1]
    return tuple(line.removesuffix("\r") for line in lines)


_OPEN = ("{", "<", "[")
_CLOSE = ("}", ">", "]")


def _without_ignored(text: str) -> tuple[str, tuple[str, ...]]:
    """Split a text: all that is honored, each token in its line, and the fields that are not.

    protobuf can skip unknown fields, but does not report them, and fails at a list of messages
    without a colon, as Triton's users write them.

    Raises text_format.ParseError.
    """
    tokens = text_format.Tokenizer(text.splitlines())
    honored: list[list[str]] = [[] for _ in text.splitlines()]
    ignored: dict[str, None] = {}
    # For each open bracket, the name of its field; empty for a message in a list.
    path: list[str] = []
    name = ""
    while not tokens.AtEnd():
        word, line = tokens.token, _line(tokens)
        tokens.NextToken()
        if word in _OPEN:
            path.append(name)
            name = ""
        elif word in _CLOSE:
            # protobuf reports one too many.
            del path[-1:]
            name = ""
        elif word not in (":", ",", ";"):
            # A value, unless what follows makes it the name of a field.
            name = word if tokens.token in (":", *_OPEN) else ""
            field_path = _not_honored([*filter(None, path), name]) if name else ""
            if field_path:
                ignored[field_path] = None
                _skip_value(tokens)
                continue
        honored[line - 1].append(word)
    return "\n".join(map(" ".join, honored)), tuple(ignored)


def _not_honored(path: Sequence[str]) -> str:
    """Return the outermost field on a path that is not honored; empty if all are."""
    names = [".".join(path[: depth + 1]) for depth in range(len(path))]
    return next((name for name in names if name not in _HONORED), "")


def _skip_value(tokens: text_format.Tokenizer) -> None:
    """Skip what follows the name of a field, up to the next one."""
    tokens.TryConsume(":")
    depth = 0
    while not tokens.AtEnd():
        word = tokens.token
        tokens.NextToken()
        depth += (word in _OPEN) - (word in _CLOSE)
        # A number may have a sign, and a string may have several parts.
        if depth == 0 and word != "-" and tokens.token[:1] not in ("'", '"'):
            break
    else:
        raise text_format.ParseError("Expected a value.", _line(tokens))
    _ = tokens.TryConsume(",") or tokens.TryConsume(";")


def _line(tokens: text_format.Tokenizer) -> int:
    """Return the line of the next token, counted from 1."""
    # The stubs give the text of an error the type of a message.
    return tokens.ParseError("").GetLine() or 1  # type: ignore[arg-type]


def _fault(why: str) -> ConfigFileError:
    return ConfigFileError(f"{CONFIG_FILE}: {why}")
