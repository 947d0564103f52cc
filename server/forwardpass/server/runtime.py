"""One ONNX Runtime session: arrays in, arrays out; no messages."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Read when onnxruntime is imported: from 1.29 on it sends telemetry unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from forwardpass.proto.spec import TensorError, TensorSpec

_FATAL = 4
"""onnxruntime writes its log to stderr itself; failures come as exceptions anyway."""

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_NODE = re.compile(r"running (?P<operator>\w+) node\. Name:'(?P<name>[^']*)'")


class SessionError(Exception):
    """onnxruntime refused a file or failed in a run; the text holds no path of its sources."""


class Session:
    """A loaded model; `run` may be called from several threads at once."""

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """Load a file.

        content: What was read from it, where that was checked: the file may be another by now.

        Raises SessionError if onnxruntime refuses it or if one of its inputs or outputs is of a
        type that the protocol cannot carry.
        """
        try:
            session = onnxruntime.InferenceSession(
                str(path) if content is None else content,
                session_options(path.parent),
                providers=["CPUExecutionProvider"],
            )
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise SessionError(_without_paths(str(error), path)) from error
        # Kept by onnxruntime to start over on another device, which never comes to pass here.
        session._model_bytes = None
        self._session = session
        self.inputs = tuple(_spec("input", arg) for arg in session.get_inputs())
        self.outputs = tuple(_spec("output", arg) for arg in session.get_outputs())
        self.metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        """The file's metadata_props."""
        self._texts = frozenset(spec.name for spec in self.inputs if spec.datatype == "BYTES")

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run the model: arrays by input name in, the arrays of `outputs` in that order out.

        Arrays have the dtype and the shape of their spec; BYTES are object arrays, of bytes
        coming in and of str going out. Raises TensorError for bytes that are not UTF-8 and
        SessionError if the run fails.
        """
        if self._texts:
            feeds = {
                name: _as_text(name, array) if name in self._texts else array
                for name, array in feeds.items()
            }
        try:
            arrays: list[NDArray[Any]] = self._session.run(outputs, feeds)
        except Exception as error:
            raise SessionError(_node(str(error))) from error
        return arrays


def session_options(folder: Path) -> Any:
    """Return what every session here is told."""
    options = onnxruntime.SessionOptions()
    # Where a model that is loaded from bytes may have further data.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    # Small networks: more threads cost CPU and gain nothing (35.8 % against 2.2 % measured).
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # The arena keeps what the largest request ever took.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _FATAL
    return options


def _spec(role: str, arg: Any) -> TensorSpec:
    datatype = _DATATYPES.get(arg.type)
    if datatype is None:
        raise SessionError(
            f"{role} {arg.name!r} is of type {arg.type}, which the Open Inference Protocol "
            "cannot carry; export the model with tensors only (skl2onnx: zipmap=False)"
        )
    return TensorSpec(
        name=arg.name,
        datatype=datatype,
        shape=tuple(size if isinstance(size, int) else -1 for size in arg.shape),
        symbols=tuple(size if isinstance(size, str) else None for size in arg.shape),
    )


def _as_text(name: str, array: NDArray[Any]) -> NDArray[Any]:
    # onnxruntime takes str and hands back str; bytes objects it would turn into their repr().
    texts = np.empty(array.shape, dtype=object)
    try:
        texts.ravel()[:] = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError as error:
        raise TensorError(
            f"input {name!r}",
            expected="BYTES elements in UTF-8",
            got=repr(bytes(error.object[:32])),
            fix="encode the text as UTF-8; onnxruntime's strings hold nothing else",
        ) from error
    return texts


def _node(message: str) -> str:
    found = _NODE.search(message)
    if found is None:
        return "while running the graph"
    return f"while running node {found['name']!r} ({found['operator']})"


def _without_paths(message: str, path: Path) -> str:
    """Drop the paths of onnxruntime's source files and of our disk; callers may see the text."""
    message = re.sub(r"\S*\.(cc|h):\d+ \S+ ", "", message)
    for folder in (path.parent, path.parent.resolve()):
        message = message.replace(f"{folder}{os.sep}", "").replace(str(folder), ".")
    # What is left lies elsewhere, as external data that want out of their folder.
    message = re.sub(r"(/[^/\s\"]+)+/", "", message)
    return message.strip()
