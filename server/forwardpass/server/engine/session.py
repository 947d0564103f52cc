"""One ONNX Runtime session: arrays in, arrays out; no messages."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.pickling import PicklableError
from forwardpass.proto.runtime import (
    as_text,
    import_onnxruntime,
    open_session,
    session_options,
    tensor_spec,
)
from forwardpass.proto.spec import TensorError, TensorSpec
from forwardpass.server.guard.files import ModelBytes

# Imported here, not by the first model, so that its time and memory do not count as the model's.
import_onnxruntime()

_NODE = re.compile(
    r"running (?P<operator>\w+) node\. Name:'(?P<name>[^']*)'(?: Status Message: (?P<why>.*))?",
    re.DOTALL,
)
_SOURCE = re.compile(r"^\S+\.(?:cc|h):\d+ (?:.* was false\. |\S+ )", re.DOTALL)
"""The prefix of a message that names the place in onnxruntime's sources where a check failed."""
_MEMORY = re.compile("alloc|memory", re.IGNORECASE)
_MAX_REASON = 200


class SessionError(Exception):
    """onnxruntime rejected a file or failed in a run; the text holds no path of its sources."""


class InputsError(SessionError):
    """A node of the graph cannot take the values or shapes that reached it in a run."""


class UnwantedError(SessionError):
    """A run was ended, since nobody waits for its answers any more."""


class TooLargeError(PicklableError, SessionError):
    """A run would take more memory than it may; the text says where."""

    def __init__(self, where: str, limit: int) -> None:
        """Prepare; limit: in bytes."""
        super().__init__(where)
        self.limit = limit


class Session:
    """A loaded model; `run` may be called from several threads at once."""

    def __init__(self, path: Path, content: ModelBytes | None = None) -> None:
        """Load a file.

        content: The bytes that were read and checked, if any: the file may have changed since.

        Raises SessionError if onnxruntime rejects it or if one of its inputs or outputs is of a
        type that the protocol cannot carry.
        """
        # By its path, from which onnxruntime reads it piece by piece; bytes it copies twice.
        place = str(path if content is None else content.path)
        try:
            session = self._open(place)
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            message = str(error).replace(place, str(path))
            raise SessionError(_without_paths(message, path)) from error
        self._session = session
        self.inputs = tuple(_spec("input", arg) for arg in session.get_inputs())
        self.outputs = tuple(_spec("output", arg) for arg in session.get_outputs())
        self.metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        """The file's metadata_props."""
        self._texts = frozenset(spec.name for spec in self.inputs if spec.datatype == "BYTES")

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        wanted: Callable[[], bool] | None = None,
    ) -> list[NDArray[Any]]:
        """Run the model: arrays by input name in, the arrays of `outputs` in that order out.

        wanted: Returns whether somebody still waits; a run that may take long asks for it.

        Arrays have the dtype and the shape of their spec; BYTES are object arrays, of bytes as
        inputs and of str as outputs. Raises TensorError for bytes that are not UTF-8,
        InputsError if a node cannot take the values computed from the inputs, SessionError if
        the run fails otherwise.
        """
        if self._texts:
            feeds = {
                name: _as_text(name, array) if name in self._texts else array
                for name, array in feeds.items()
            }
        try:
            return self._run(feeds, outputs, wanted)
        except SessionError:
            raise
        except Exception as error:
            raise self._failure(str(error)) from error

    def fixed(
        self, feeds: Mapping[str, NDArray[Any]], answers: Mapping[str, NDArray[Any]]
    ) -> "FixedRun":
        """Return the run that `feeds` and `answers` are from, to be run again with other values."""
        return FixedRun(self._session, feeds, answers)

    def _open(self, place: str) -> Any:
        return open_session(place, session_options())

    def _failure(self, message: str) -> SessionError:
        return _failure(message)

    def _run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        wanted: Callable[[], bool] | None,
    ) -> list[NDArray[Any]]:
        del wanted
        arrays: list[NDArray[Any]] = self._session.run(outputs, feeds)
        return arrays


class FixedRun:
    """Runs whose inputs and outputs have fixed shapes, in memory that is kept for them.

    What onnxruntime does for every run in Python and for every array is done once: it takes longer
    than a small network. For one thread at a time; not for BYTES.
    """

    __slots__ = ("_answers", "_binding", "_places", "_session", "feeds", "shapes")

    def __init__(
        self, session: Any, feeds: Mapping[str, NDArray[Any]], answers: Mapping[str, NDArray[Any]]
    ) -> None:
        """Prepare; feeds, answers: arrays of the shapes and dtypes, by name."""
        self._session = session
        self.feeds = {name: array.copy() for name, array in feeds.items()}
        """The inputs of the latest run."""
        self.shapes = [array.shape for array in answers.values()]
        """The shapes of the outputs."""
        self._places = [array.reshape(-1).view(np.uint8).data for array in self.feeds.values()]
        self._answers = [np.empty(array.shape, array.dtype) for array in answers.values()]
        self._binding = session.io_binding()
        for name, array in self.feeds.items():
            self._binding.bind_cpu_input(name, array)
        for name, array in zip(answers, self._answers, strict=True):
            self._binding.bind_output(
                name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )

    def run(self, tensors: Sequence[bytes | memoryview]) -> list[bytes]:
        """Run with the bytes of the inputs; return those of the outputs.

        Raises SessionError.
        """
        for place, tensor in zip(self._places, tensors, strict=True):
            place[:] = tensor
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise _failure(str(error)) from error
        return [array.tobytes() for array in self._answers]


def _spec(role: str, arg: Any) -> TensorSpec:
    spec = tensor_spec(arg)
    if spec is None:
        raise SessionError(
            f"{role} {arg.name!r} is of type {arg.type}, which the Open Inference Protocol "
            f"cannot carry; {_carried_instead(role, arg.type)}"
        )
    return spec


def _carried_instead(role: str, kind: str) -> str:
    """Return the fix for an input or output that no message can carry."""
    if kind.startswith("seq(map("):
        return "export the model with tensors only (skl2onnx: zipmap=False)"
    if kind.startswith("tensor("):
        where = "after the input" if role == "input" else "before the output"
        return f"put a Cast {where}, and declare it as float16 or float"
    return f"export the model with only tensors as its {role}s, one for each part"


def _as_text(name: str, array: NDArray[Any]) -> NDArray[Any]:
    try:
        return as_text(array)
    except UnicodeDecodeError as error:
        raise TensorError(
            f"input {name!r}",
            expected="BYTES elements in UTF-8",
            got=repr(bytes(error.object[:32])),
            fix="encode the text as UTF-8; onnxruntime's strings hold nothing else",
        ) from error


def _failure(message: str) -> SessionError:
    """Return the error of a run that failed.

    A graph computes the same for the same inputs, and it answered when it was loaded: a node
    that fails now fails for the inputs of this call, unless memory ran out.
    """
    found = _NODE.search(message)
    if found is None:
        return SessionError("while running the graph")
    node = f"while running node {found['name']!r} ({found['operator']})"
    why = found["why"] or ""
    if _MEMORY.search(why):
        return SessionError(node)
    why = _SOURCE.sub("", why).strip()
    # A text that still names a file of onnxruntime's sources does not help a caller.
    if not why or re.search(r"\.(cc|h):", why):
        return InputsError(node)
    return InputsError(f"{node}: {why[:_MAX_REASON]}")


def _without_paths(message: str, path: Path) -> str:
    """Drop the paths of onnxruntime's source files and of our disk; callers may see the text."""
    message = re.sub(r"\S*\.(cc|h):\d+ \S+ ", "", message)
    for folder in {str(path.parent), str(path.parent.resolve())} - {"."}:
        # Only as a whole path: a relative folder may be named as a letter or a word of the text.
        message = re.sub(rf"(?<![\w./-]){re.escape(folder + os.sep)}", "", message)
    message = re.sub(rf"{re.escape(str(path.parent.resolve()))}(?![\w-])", ".", message)
    # The paths left are elsewhere, as of external data outside of the model's folder.
    message = re.sub(r"(/[^/\s\"]+)+/", "", message)
    return message.strip()
