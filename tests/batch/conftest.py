"""Rows, a model's file, and the answers of `load` that every engine has to give."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from batch.rows import FEATURES, Expected, frame, network

from forwardpass.batch import opening
from forwardpass.client import load
from forwardpass.models import publish


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(network(), tmp_path_factory.mktemp("models")).path


@pytest.fixture(scope="session")
def rows() -> pa.Table:
    return frame(100_000)


@pytest.fixture(scope="session")
def expected(file: Path, rows: pa.Table) -> Expected:
    """The answers to all rows at once."""
    x = np.column_stack([rows[name].to_numpy() for name in FEATURES])
    return Expected(load(file).predict("plants", x))


@pytest.fixture
def fresh() -> Iterator[None]:
    """As in a new process: no model is open."""
    opening._opened.clear()
    yield
    opening._opened.clear()
