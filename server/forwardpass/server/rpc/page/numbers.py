"""Tensors as JSON has them: each number in the shortest text that gives the same bits again."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardpass.proto.metadata import MetadataError, load_json
from forwardpass.server.rpc.rest.infer_replies import dumps, word

_SHORT = (np.dtype(np.float16), np.dtype(np.float32))
"""Floats whose shortest text is shorter than that of the same number as float64."""
_STEP = 4096
"""Elements that are written together: Python's lock is held for the whole of a part."""
_TEXT_CHARS = 16
"""Maximum length of that text."""


def listed(array: NDArray[Any]) -> Any:
    """Return an array as nested lists; NaN and the infinities, and BYTES, are texts."""
    if array.dtype == object:
        return _nested(array.tolist(), _text)
    if array.dtype.kind != "f":
        return array.tolist()
    shortest = array
    if array.dtype in _SHORT:
        flat, numbers = array.ravel(), np.empty(array.size)
        for start in range(0, array.size, _STEP):
            texts = flat[start : start + _STEP].astype(f"U{_TEXT_CHARS}").tolist()
            numbers[start : start + _STEP] = list(map(float, texts))
        shortest = numbers.reshape(array.shape)
    values = shortest.tolist()
    return values if np.isfinite(shortest).all() else _nested(values, word)


def written(value: Any) -> str:
    """Return what `dumps` does, in parts: others run between them."""
    if type(value) is dict:
        return f"{{{','.join([f'{dumps(key)}:{written(each)}' for key, each in value.items()])}}}"
    if type(value) is not list:
        return dumps(value)
    if any(type(each) in (dict, list) for each in value[:1]):
        return f"[{','.join(list(map(written, value)))}]"
    parts = [dumps(value[start : start + _STEP])[1:-1] for start in range(0, len(value), _STEP)]
    return f"[{','.join(parts)}]"


def read(name: str, text: str) -> Any:
    """Return what is read of JSON in a file; None for what is none: it may be anything."""
    try:
        return load_json(name, text)
    except MetadataError:
        return None


def _nested(value: Any, of: Any) -> Any:
    return [_nested(each, of) for each in value] if type(value) is list else of(value)


def _text(element: Any) -> str:
    return element.decode("utf-8", "replace") if type(element) is bytes else str(element)
