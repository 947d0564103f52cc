"""Whatever carries names is matched by them: tables, records and rows, in any order of columns."""

import re
import sqlite3
from collections import UserDict, namedtuple
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xarray as xr
from onnx import TensorProto, helper, numpy_helper

from forwardpass.client import InvalidInputError, LocalClient, load
from forwardpass.models import Input, Network, export

NAMES = ("a", "b", "c", "d")
X = np.random.default_rng(0).integers(-8, 9, (5, 4)).astype(np.float32)
"""Whole numbers: their sums are exact."""


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> LocalClient:
    path = tmp_path_factory.mktemp("tables") / "net.onnx"
    network = Network.chain([4, 3, 2], "tanh", "identity", input=Input(4, features=NAMES))
    export(network, path)
    return load(path)


@pytest.fixture(scope="module")
def by_column(tmp_path_factory) -> LocalClient:
    """A model with an input a column, as skl2onnx writes one of a table."""
    path = tmp_path_factory.mktemp("columns") / "net.onnx"
    weights = np.array([[1], [10], [100], [1000]], np.float32)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 1]) for n in NAMES]
    graph = helper.make_graph(
        [
            helper.make_node("Concat", NAMES, ["x"], axis=1),
            helper.make_node("MatMul", ["x", "W"], ["y"]),
        ],
        "columns",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(weights, "W")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return load(path)


def sqlite_rows(names, rows):
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        db.execute(f"create table t ({','.join(names)})")
        db.executemany(f"insert into t values ({','.join('?' * len(names))})", rows.tolist())
        return db.execute("select * from t").fetchall()


def structured(names, rows):
    return np.array([tuple(row) for row in rows], [(name, "f4") for name in names])


def frame(names, rows):
    return pd.DataFrame(rows, columns=list(names))


TABLES = {
    "dict of arrays": lambda n, x: dict(zip(n, x.T, strict=True)),
    "dict of lists": lambda n, x: dict(zip(n, x.T.tolist(), strict=True)),
    "another mapping": lambda n, x: UserDict(zip(n, x.T, strict=True)),
    "pandas": frame,
    "pandas with texts as index": lambda n, x: frame(n, x).set_axis(list("vwxyz"), axis=0),
    "pandas nullable": lambda n, x: frame(n, x).convert_dtypes(),
    "pandas of Arrow": lambda n, x: frame(n, x).convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda n, x: pl.DataFrame(x, schema=list(n)),
    "polars struct": lambda n, x: pl.DataFrame(x, schema=list(n)).to_struct("s"),
    "Arrow table": lambda n, x: pa.table(frame(n, x)),
    "Arrow table in chunks": lambda n, x: pa.concat_tables(
        [pa.table(frame(n, x[:2])), pa.table(frame(n, x[2:]))]
    ),
    "Arrow batch": lambda n, x: pa.RecordBatch.from_pandas(frame(n, x)),
    "structured": structured,
    "recarray": lambda n, x: structured(n, x).view(np.recarray),
    "masked structured": lambda n, x: np.ma.array(structured(n, x)),
    "list of structured": lambda n, x: list(structured(n, x)),
    "list of dicts": lambda n, x: frame(n, x).to_dict("records"),
    "tuple of dicts": lambda n, x: tuple(frame(n, x).to_dict("records")),
    "dicts each in its order": lambda n, x: [
        dict(sorted(row.items(), reverse=i % 2 == 1)) for i, row in
        enumerate(frame(n, x).to_dict("records"))
    ],
    "iterrows": lambda n, x: [row for _, row in frame(n, x).iterrows()],
    "itertuples": lambda n, x: list(frame(n, x).itertuples(index=False)),
    "named tuples": lambda n, x: [namedtuple("Row", n)(*row) for row in x],
    "a database's rows": sqlite_rows,
    "polars rows": lambda n, x: pl.DataFrame(x, schema=list(n)).rows(named=True),
    "Arrow's list": lambda n, x: pa.table(frame(n, x)).to_pylist(),
    "xarray": lambda n, x: xr.DataArray(x, dims=("row", "feature"), coords={"feature": list(n)}),
    "xarray dataset": lambda n, x: xr.Dataset({name: ("row", x[:, i]) for i, name in enumerate(n)}),
}  # fmt: skip

ROWS = {
    "dict": lambda n, x: dict(zip(n, x.tolist(), strict=True)),
    "Series": lambda n, x: frame(n, x[np.newaxis]).iloc[0],
    "nullable Series": lambda n, x: frame(n, x[np.newaxis]).convert_dtypes().iloc[0],
    "named tuple": lambda n, x: namedtuple("Row", n)(*x),
    "void": lambda n, x: structured(n, x[np.newaxis])[0],
    "record": lambda n, x: structured(n, x[np.newaxis]).view(np.recarray)[0],
    "a database's row": lambda n, x: sqlite_rows(n, x[np.newaxis])[0],
    "xarray": lambda n, x: xr.DataArray(x, dims="feature", coords={"feature": list(n)}),
}


def turned(order, x):
    return [NAMES[i] for i in order], x[..., list(order)]


ORDERS = ((3, 0, 2, 1), (1, 2, 3, 0))


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_is_matched_by_its_names(client, by_column, kind):
    for order in ORDERS:
        x = TABLES[kind](*turned(order, X))
        assert client.predict("net", x) == client.predict("net", X)
        assert by_column.predict("net", x)["y"].tolist() == expected(X)


def test_a_text_among_numbers_is_named_with_its_row(client):
    rows = frame(NAMES, X).astype(object)
    rows.loc[3, "b"] = "abc"
    text = "feature 'b': expected datatype FP32, got 'abc' at [3]; convert it to a number"
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        client.predict("net", rows)


def test_numbers_along_an_axis_of_xarray_are_no_names(client):
    for coords in ({}, {"feature": [400.0, 500.0, 600.0, 700.0]}, {"row": list("vwxyz")}):
        x = xr.DataArray(X, dims=("row", "feature"), coords=coords)
        assert client.predict("net", x) == client.predict("net", X)


@pytest.mark.parametrize("kind", [kind for kind in TABLES if "index" not in kind])
def test_a_table_of_one_row_keeps_its_row_axis(client, by_column, kind):
    x = TABLES[kind](*turned(ORDERS[0], X[:1]))
    assert client.predict("net", x) == client.predict("net", X[:1])
    assert by_column.predict("net", x)["y"].tolist() == expected(X[:1])


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_with_names_is_matched_by_them(client, by_column, kind):
    for order in ORDERS:
        x = ROWS[kind](*turned(order, X[0]))
        assert client.predict("net", x) == client.predict("net", X[0])
        assert by_column.predict("net", x)["y"].tolist() == expected(X[:1])[0]


def expected(x):
    columns = {name: x[:, i : i + 1] for i, name in enumerate(NAMES)}
    sums = columns["a"] + 10 * columns["b"] + 100 * columns["c"] + 1000 * columns["d"]
    return np.asarray(sums, np.float32).tolist()


@pytest.mark.parametrize("kind", [*TABLES, *ROWS])
def test_other_names_are_refused(client, by_column, kind):
    names = ["a", "b", "c", "e"]
    x = TABLES[kind](names, X) if kind in TABLES else ROWS[kind](names, X[0])
    with pytest.raises(InvalidInputError, match="none for 'd', and one for 'e'"):
        client.predict("net", x)
    with pytest.raises(InvalidInputError, match="expected one of 'a', 'b', 'c', 'd', got 'e'"):
        by_column.predict("net", x)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (pd.DataFrame(X, columns=[2, 0, 1, 3]), "none for 'a', 'b', 'c', 'd', and one for 2, 0,"),
        (pd.DataFrame(X, columns=pd.MultiIndex.from_product([["x"], NAMES])), "one for ('x', 'a')"),
        (pd.Series(X[0], index=[3, 4, 5, 6]), "none for 'a', 'b', 'c', 'd', and one for 3, 4,"),
        (pd.DataFrame(X, columns=[*"aabc"]), "none for 'd', and more than one for 'a'"),
        (pa.table([*X.T], names=[*"aabc"]), "none for 'd', and more than one for 'a'"),
        (pl.LazyFrame(X, schema=list(NAMES)), "got a LazyFrame, which is a query; send .collect()"),
        ([{"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2, "c": 3}], "row 1 to have the names"),
        ([{"a": 1, "b": 2, "c": 3, "d": 4}, [1, 2, 3, 4]], "expected row 1 to have the names"),
        ([{"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2, "c": 3, "e": 4}], "got 'd' in only"),
    ],
)
def test_what_cannot_be_matched_is_refused(client, x, text):
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        client.predict("net", x)


@pytest.mark.parametrize(
    "x", [pd.DataFrame(X), pd.DataFrame(X, index=list("vwxyz")), X.tolist(), tuple(map(tuple, X))]
)
def test_what_has_no_names_goes_by_position(client, x):
    assert client.predict("net", x) == client.predict("net", X)
    assert client.predict("net", pd.Series(X[0])) == client.predict("net", X[0])


def test_a_feature_may_have_the_name_of_the_input(tmp_path: Path) -> None:
    source = Input(2, features=("y", "x"))
    network = Network.chain([2, 1], output_activation="identity", input=source, output="sum")
    export(network, tmp_path / "m.onnx")
    with load(tmp_path / "m.onnx") as client:
        by_name = client.predict("m", {"x": [1, 2], "y": [3, 4]})
        assert by_name == client.predict("m", [[3, 1], [4, 2]])


def test_columns_of_unlike_lengths_are_refused(by_column):
    with pytest.raises(InvalidInputError, match="all inputs as single rows, or none"):
        by_column.predict("net", {"a": [1, 2], "b": [1, 2], "c": [1, 2], "d": 1})
    with pytest.raises(InvalidInputError, match="expected 2 rows as for 'a', got 3"):
        by_column.predict("net", {"a": [1, 2], "b": [1, 2, 3], "c": [1, 2], "d": [1, 2]})
    with pytest.raises(InvalidInputError, match="expected 2 rows as for 'a', got 1"):
        by_column.predict("net", {"a": [1, 2], "b": [1], "c": [1, 2], "d": [1, 2]})
