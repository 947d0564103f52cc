"""Files of named arrays that hold no code: .npz and .safetensors."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.models.errors import MissingLibraryError, UnsupportedSourceError
from forwardpass.models.importers.pickles import unread

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_state(path: Path) -> dict[str, NDArray[Any]]:
    """Return a file's arrays by name.

    Raises UnsupportedSourceError for a file of another kind and for arrays that are not plain
    numbers, MissingLibraryError if safetensors is needed and not installed.
    """
    match path.suffix.lower():
        case ".npz":
            return _read_npz(path)
        case ".safetensors":
            return _read_safetensors(path)
    raise unread(path, "neither .npz nor .safetensors", "save the state as one of them")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    arrays = {}
    part = f"file {str(path)!r}"
    with path.open("rb") as file:
        # NumPy has no single exception for what it cannot read.
        try:
            with np.load(file, allow_pickle=False) as entries:
                for name in entries:
                    part = f"array {name!r} of file {str(path)!r}"
                    arrays[name] = entries[name]
        except Exception as error:
            raise UnsupportedSourceError(
                part,
                "not readable as plain numbers, and pickled objects are never loaded",
                "save numbers, as in np.savez(path, **state)",
            ) from error
    return arrays


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        import safetensors
    except ImportError as error:
        raise MissingLibraryError(str(path), "safetensors") from error
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise UnsupportedSourceError(
            f"file {str(path)!r}", f"not a .safetensors file ({error})", "save it again"
        ) from error
    arrays = {}
    for name, entry in entries:
        dtype = entry["dtype"]
        if dtype not in _DTYPES:
            raise UnsupportedSourceError(
                f"tensor {name!r} of file {str(path)!r}",
                f"of dtype {dtype}",
                f"save it as one of {', '.join(_DTYPES)}",
            )
        values = np.frombuffer(entry["data"], _DTYPES[dtype])
        if dtype == "BF16":  # the upper half of a float32, which NumPy has no dtype for
            values = (values.astype("<u4") << 16).view("<f4")
        arrays[name] = values.reshape(entry["shape"])
    return arrays
