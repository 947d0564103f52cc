"""A model file run in this process: the only part of the client that needs onnxruntime."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Read when onnxruntime is imported: from 1.29 on it sends telemetry unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

from forwardpass.client.model import ModelSpec
from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.metadata import published
from forwardpass.proto.spec import TensorSpec

_ELEMENTS = {"FP16": "float16", "FP32": "float", "FP64": "double", "BYTES": "string"}
_DATATYPES = {f"tensor({_ELEMENTS.get(name, name.lower())})": name for name in DATATYPES}
"""Datatypes by onnxruntime's names."""

_FATAL = 4


class Session:
    """A loaded model; `run` may be called from several threads at once."""

    def __init__(self, path: Path, model: str, version: str) -> None:
        """Load a file; raises ValueError, with onnxruntime's reason, if it cannot be."""
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), _options(), providers=["CPUExecutionProvider"]
            )
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise ValueError(f"{path}: onnxruntime refuses it: {error}") from error
        self.spec = ModelSpec(
            name=model,
            versions=(version,),
            platform="onnx_onnxv1",
            inputs=tuple(_spec(path, arg) for arg in self._session.get_inputs()),
            outputs=tuple(_spec(path, arg) for arg in self._session.get_outputs()),
            properties=published(self._session.get_modelmeta().custom_metadata_map),
        )

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run the model: arrays by input name in, those of `outputs` in that order out.

        BYTES are object arrays, of bytes coming in and of str going out.
        """
        feeds = {
            name: _as_text(array) if array.dtype == object else array
            for name, array in feeds.items()
        }
        arrays: list[NDArray[Any]] = self._session.run(outputs, feeds)
        return arrays


def _options() -> Any:
    # The server's own: the same arithmetic gives the same bits, and no threads but the caller's.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _FATAL
    return options


def _spec(path: Path, arg: Any) -> TensorSpec:
    if arg.type not in _DATATYPES:
        raise ValueError(f"{path}: {arg.name!r} is of type {arg.type}, not one of {_DATATYPES}")
    shape = tuple(size if isinstance(size, int) else -1 for size in arg.shape)
    return TensorSpec(arg.name, _DATATYPES[arg.type], shape)


def _as_text(array: NDArray[Any]) -> NDArray[Any]:
    # onnxruntime takes str and hands back str; bytes objects it would turn into their repr().
    texts = np.empty(array.shape, dtype=object)
    texts.ravel()[:] = [element.decode() for element in array.ravel()]
    return texts
