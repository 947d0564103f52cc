"""What a client's program found, as the JSON that the tests read.

A program is run as `PROGRAM ... TASK.json REPORT.json` in an environment that has the client and
not this project. The task has `target`, and `rest` for HTTP; `model` and its inputs `x`; `proto`,
the path of inference.proto. The report has

- `client`: the package and the version of it that was tried;
- `rows`: for each row of the support table that was tried "yes", or the status code with which
  the server refuses it by design;
- `faults`: for each row that failed, why;
- `answers`: for each way in which `x` was predicted the outputs by name.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

TURNS = 5000
"""Of the model `slow`: more than a tenth of a second, the deadline that is tried with it."""

NUMBERS = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""The datatypes of numbers; the models `echo_DATATYPE` answer y = x."""


def extremes(datatype: str) -> np.ndarray:
    """Return an array of rank 2 with the least, the greatest and more of a datatype's values."""
    dtype: np.dtype[Any] = np.dtype(NUMBERS[datatype])
    if datatype == "BOOL":
        return np.array([[True, False], [False, True]])
    bounds = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return np.array([[bounds.min, bounds.max], [0, 1]], dtype)


class Report:
    """Collects rows; a context manager that writes them."""

    def __init__(self, package: str, version: str | None = None) -> None:
        """Begin the report on a package; version: None if it is a package of Python."""
        found = metadata.version(package) if version is None else version
        self._client = f"{package} {found}".strip()
        task, self._path = map(Path, sys.argv[-2:])
        self.task: dict[str, Any] = json.loads(task.read_text())
        self.target: str = self.task["target"]
        self.rest: str = self.task["rest"]
        self.model: str = self.task["model"]
        self.x = np.array(self.task["x"], np.float32)
        self._rows: dict[str, str] = {}
        self._faults: dict[str, str] = {}
        self._answers: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        report = {
            "client": self._client,
            "rows": self._rows,
            "faults": self._faults,
            "answers": self._answers,
        }
        self._path.write_text(json.dumps(report))

    @contextmanager
    def row(self, *names: str) -> Iterator[None]:
        """Say that rows work, if the block ends well; of a row tried twice, if both do."""
        try:
            yield
        except Exception:
            self._faults |= dict.fromkeys(names, traceback.format_exc())
        else:
            self._rows |= dict.fromkeys(names, "yes")

    def refused(self, name: str, code: str, call: Callable[[], str]) -> None:
        """Say that a call ends with the status code with which the server refuses it by design."""
        got = call()
        if got == code:
            self._rows[name] = code
        else:
            self._faults[name] = f"expected {code}, got {got}"

    def predicted(self, way: str, outputs: Mapping[str, Any]) -> None:
        """Keep what the model answered to all rows of `x`."""
        assert outputs, way
        self._answers[way] = {name: np.asarray(array).tolist() for name, array in outputs.items()}

    def first(self, name: str) -> list[float]:
        """Return an output of the first row of `x`, as it was predicted first."""
        row: list[float] = next(iter(self._answers.values()))[name][0]
        return row
