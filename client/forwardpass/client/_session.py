"""A model file run in this process: the only part of the client that needs onnxruntime."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from forwardpass.client.errors import ModelFileError
from forwardpass.client.model import ModelSpec
from forwardpass.proto.explain import STEPS, Target, names, read_target
from forwardpass.proto.gradients import NoGradientError, explained
from forwardpass.proto.metadata import OUTPUTS, SAMPLES, Samples, load_columns, published
from forwardpass.proto.runtime import (
    TYPES,
    as_text,
    open_session,
    read_model,
    session_options,
    tensor_spec,
)
from forwardpass.proto.spec import TensorSpec, quote

Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], list[NDArray[Any]]]

_EXPORT = "export the network with forwardpass.models.export, or another exporter of ONNX"
_COPY = "copy or export it again"
_CHECK = "check the path, and who may read it"
_INSIDE = ("*.onnx", "*/*.onnx", "*/*/*.onnx")
"""Where models are in a folder: alone, of one model in versions, in a repository."""
_CUT_OFF = ("rotobuf parsing failed", "No graph was found")
"""What onnxruntime says of bytes that are no whole message."""
_BEGIN_BYTES = 200
_OTHERS = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS in place of the file",
        "run `git lfs pull`",
    ),
    (b"PK\x03\x04", "a zip archive, as those of Keras, NumPy and PyTorch are", _EXPORT),
    (b"\x89HDF", "an HDF5 file, as those of old Keras are", _EXPORT),
    (b"\x80\x04\x95", "a pickle of Python", _EXPORT),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
)
"""Files of other kinds: how they begin, what they are, and what to do."""


class Session:
    """A loaded model; `run` may be called from several threads at once."""

    def __init__(
        self, path: Path, content: bytes | None, model: str, version: str, threads: int
    ) -> None:
        """Load a file, or its content; raises ModelFileError, with the reason, if that fails."""
        self._path = path
        self._content = content
        self._written_ns = path.stat().st_mtime_ns if content is None else 0
        self._threads = threads
        self._explained: dict[tuple[Target, int], Any] = {}
        try:
            # As the server does: the same arithmetic gives the same bits.
            options = session_options(threads=threads)
            self._session = open_session(str(path) if content is None else content, options)
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            if content is None:
                with path.open("rb") as file:
                    content = file.read(_BEGIN_BYTES)
            raise _no_model(path, content[:_BEGIN_BYTES], str(error)) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._samples = metadata.get(SAMPLES)
        self.spec = ModelSpec(
            name=model,
            versions=(version,),
            platform="onnx_onnxv1",
            inputs=tuple(_spec(path, arg) for arg in self._session.get_inputs()),
            outputs=tuple(_spec(path, arg) for arg in self._session.get_outputs()),
            properties=published(metadata),
        )

    def explained(self, text: str, steps: int) -> tuple[Run, tuple[TensorSpec, TensorSpec]]:
        """Return `run` for a session that also explains what `text` names, and what it adds.

        Raises NoGradientError if the model cannot be explained, OSError if its file is gone.
        """
        columns = load_columns(OUTPUTS, self.spec.properties.get(OUTPUTS, "{}"))
        target = read_target(text, self.spec.outputs, columns)
        session = self._explained.get((target, steps))
        if session is None:
            if steps not in STEPS:
                raise NoGradientError(f"{steps} steps are not one of {', '.join(map(str, STEPS))}")
            content = self._path.read_bytes() if self._content is None else self._content
            model = read_model(content)
            if self._content is None and self._path.stat().st_mtime_ns != self._written_ns:
                raise NoGradientError("its file changed since it was loaded; load it again")
            graph = explained(model, target, steps)
            session = open_session(
                graph.SerializeToString(), session_options(threads=self._threads)
            )
            self._explained[target, steps] = session
        attributions, error = (
            _spec(self._path, arg)
            for arg in session.get_outputs()
            if arg.name in names(target.output)
        )
        return partial(_run, session), (attributions, error)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run the model: arrays by input name in, those of `outputs` in that order out.

        BYTES are object arrays, of bytes as inputs and of str as outputs.
        """
        return _run(self._session, feeds, outputs)

    def prove(self) -> bool:
        """Run the samples of the file; return whether it has some.

        Raises ModelFileError if an answer is wrong, or the samples are those of another model.
        """
        if self._samples is None:
            return False
        try:
            samples = Samples.load(self._samples)
            outputs = list(samples.outputs)
            answers = self.run(samples.inputs, outputs)
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise _error(self._path, f"one whose samples do not run ({error})", _COPY) from error
        if wrong := samples.difference(dict(zip(outputs, answers, strict=True))):
            raise _error(self._path, f"one with a wrong {wrong}", _COPY)
        return True


def _run(
    session: Any, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]
) -> list[NDArray[Any]]:
    feeds = {
        name: as_text(array) if array.dtype == object else array for name, array in feeds.items()
    }
    arrays: list[NDArray[Any]] = session.run(outputs, feeds)
    return arrays


def check_file(path: Path, content: bytes | None) -> None:
    """Raise ModelFileError unless there is content, in place of the file or in it, unread yet."""
    if content:
        return
    if content is not None:
        raise _error(path, "an empty file", _COPY)
    if path.is_dir():
        found = (each for pattern in _INSIDE for each in sorted(path.glob(pattern)))
        inside = next(found, None)
        fix = _EXPORT if inside is None else f"pass the path of the file, as {str(inside)!r}"
        raise _error(path, "a folder", fix)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise _error(path, "neither a file nor a folder", _EXPORT)
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise _error(path, "nothing at this path", _CHECK) from error
    except OSError as error:
        raise _error(path, f"one that cannot be read ({error.strerror})", _CHECK) from error
    if not size:
        raise _error(path, "an empty file", _COPY)


def _no_model(path: Path, begin: bytes, reason: str) -> ModelFileError:
    """Return the error for a file that onnxruntime rejects: what it is, as far as it shows."""
    for magic, kind, fix in _OTHERS:
        if begin.startswith(magic):
            return _error(path, kind, fix)
    try:
        text = begin.decode()
    except UnicodeDecodeError as error:
        # A character may be cut at the end.
        text = begin[: error.start].decode() if error.start >= len(begin) - 3 else ""
    if text and all(char.isprintable() or char in "\t\r\n" for char in text):
        line = next(iter(text.strip().splitlines()), "")
        return _error(path, f"text, which begins with {quote(line)}", _EXPORT)
    if any(words in reason for words in _CUT_OFF):
        return _error(path, "a file that is cut off or damaged, or of another kind", _COPY)
    return _error(path, f"one that onnxruntime rejects ({reason})", _EXPORT)


def _error(path: Path, got: str, fix: str) -> ModelFileError:
    return ModelFileError(f"expected the .onnx file of a model, got {got}; {fix}", target=str(path))


def _spec(path: Path, arg: Any) -> TensorSpec:
    spec = tensor_spec(arg)
    if spec is None:
        got = f"one whose {arg.name!r} is of type {arg.type}, not one of {', '.join(TYPES)}"
        raise _error(path, got, "change the graph to tensors of these types")
    return spec
