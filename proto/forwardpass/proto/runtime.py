"""The set-up of onnxruntime, for the server, the models and the client.

Only functions import it, not this module: messages are read and written without it.
"""

import os
from collections.abc import Mapping
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.spec import TensorSpec

TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""Environment variable that turns onnxruntime's telemetry off if it is 1."""

_REGISTERING = Lock()
_arena_bytes: int | None = None
"""Maximum of the arena that sessions get now that ask for one."""

ERROR, FATAL = 3, 4
"""Minimum severities of onnxruntime's log on stderr."""

_ELEMENTS = {"FP16": "float16", "FP32": "float", "FP64": "double", "BYTES": "string"}
TYPES: Mapping[str, str] = {
    f"tensor({_ELEMENTS.get(name, name.lower())})": name for name in DATATYPES
}
"""Wire datatypes by onnxruntime's type names."""


def import_onnxruntime() -> ModuleType:
    """Return onnxruntime, with its telemetry off unless the environment turns it on.

    Raises ModuleNotFoundError if it is not installed.
    """
    # Read by the import, from 1.29 on; an operator's setting stays.
    os.environ.setdefault(TELEMETRY, "1")
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def session_options(
    *,
    threads: int = 1,
    arena: bool = False,
    log_severity: int = FATAL,
) -> Any:
    """Return the options of a session; the defaults are those for serving a model.

    threads: Threads of a run. Small networks gain nothing from more, which cost CPU: measured
    35.8 % against 2.2 %.
    arena: Whether freed memory is kept, as much as the largest request ever took.
    log_severity: Minimum severity to log; FATAL, since failures raise exceptions anyway.
    """
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = log_severity
    return options


def open_session(model: str | bytes, options: Any) -> Any:
    """Load a model file from its path or bytes; onnxruntime's errors have no common base."""
    return import_onnxruntime().InferenceSession(model, options, providers=["CPUExecutionProvider"])


def read_model(content: bytes) -> Any:
    """Return the ModelProto of a file's bytes; raises ModuleNotFoundError without onnx."""
    from onnx import ModelProto

    return ModelProto.FromString(content)


def open_bounded_session(model: str | bytes, options: Any, max_run_bytes: int) -> tuple[Any, Any]:
    """Load a model file whose runs take their memory from an arena of so many bytes.

    All sessions of one maximum share one arena; their weights are not in it. A run that wants
    more fails: `wants_memory`. Returns the session, and the options with which a run gives back
    what is free in the arena when it ends.
    """
    global _arena_bytes
    runtime = import_onnxruntime()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    with _REGISTERING:
        if _arena_bytes != max_run_bytes:
            device = runtime.OrtMemoryInfo(
                "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
            )
            # As much as is asked for: the default doubles, and would be full when half is used.
            arena = {"arena_extend_strategy": 1, "initial_chunk_size_bytes": 4096}
            limited = runtime.OrtArenaCfg(arena | {"max_mem": max_run_bytes})
            runtime.create_and_register_allocator(device, limited)
            _arena_bytes = max_run_bytes
        # A session keeps the arena that it was made with.
        session = open_session(model, options)
    return session, bounded_run_options()


def bounded_run_options() -> Any:
    """Return the options with which a run gives back what is free in its arena when it ends."""
    run_options = import_onnxruntime().RunOptions()
    run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return run_options


def wants_memory(error: str) -> bool:
    """Whether onnxruntime says in an error that a run would take more than it may."""
    return "Available memory of" in error


def tensor_spec(value: Any) -> TensorSpec | None:
    """Return the spec of a session's input or output; None for a type without a wire datatype."""
    datatype = TYPES.get(value.type)
    if datatype is None:
        return None
    return TensorSpec(
        name=value.name,
        datatype=datatype,
        shape=tuple(size if isinstance(size, int) else -1 for size in value.shape),
        # PaddlePaddle writes a "?" for every unknown length: that is not a name.
        symbols=tuple(
            size if isinstance(size, str) and size not in ("", "?") else None
            for size in value.shape
        ),
    )


def as_text(array: NDArray[Any]) -> NDArray[Any]:
    """Return BYTES elements as str for onnxruntime; raises UnicodeDecodeError."""
    # It takes str and returns str; it would turn bytes objects into their repr().
    texts = np.empty(array.shape, dtype=object)
    texts.ravel()[:] = [element.decode() for element in array.ravel()]
    return texts
