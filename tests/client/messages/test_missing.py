"""Values that are missing: refused by column and row, or sent as NaN where the caller says so."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from forwardpass.client import InvalidInputError
from forwardpass.proto.metadata import INPUTS, ColumnNames, dump_columns

NAMES = ("a", "b", "c")
X = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
FILLED = np.array([[1, 2, 3], [4, np.nan, 6], [7, 8, 9]], np.float32)
LISTS = {"a": [1, 4, 7], "b": [2, None, 8], "c": [3, 6, 9]}
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in zip(*LISTS.values(), strict=True)]


@pytest.fixture
def named(server):
    columns = {"x": ColumnNames(labels=NAMES)}
    server.models["net"].properties = {INPUTS: dump_columns(columns)}
    return server


def masked(mask):
    return np.ma.array(X, mask=mask)


MASK = np.isnan(FILLED)

TABLES = {
    "dict of lists": LISTS,
    "records": RECORDS,
    "pandas NaN": pd.DataFrame(LISTS),
    "pandas NA": pd.DataFrame(LISTS, dtype="Int64"),
    "pandas None": pd.DataFrame(LISTS, dtype=object),
    "pandas of Arrow": pd.DataFrame(LISTS).convert_dtypes(dtype_backend="pyarrow"),
    "dict of Series": {name: pd.Series(values) for name, values in LISTS.items()},
    "iterrows": [row for _, row in pd.DataFrame(LISTS).iterrows()],
    "polars": pl.DataFrame(LISTS),
    "dict of polars": dict(pl.DataFrame(LISTS).to_dict()),
    "Arrow": pa.table(LISTS),
    "Arrow floats": pa.table({n: pa.array(values, pa.float32()) for n, values in LISTS.items()}),
    "Arrow batch": pa.RecordBatch.from_pydict(LISTS),
    "dict of masked": {name: masked(MASK)[:, i] for i, name in enumerate(NAMES)},
    "masked records": np.ma.array(
        np.array([tuple(row) for row in X], [(name, "f4") for name in NAMES]),
        mask=[tuple(row) for row in MASK],
    ),
}
BLOCKS = {
    "masked": masked(MASK),
    "lists": [[1, 2, 3], [4, None, 6], [7, 8, 9]],
    "a list of masked": list(masked(MASK)),
    "lists with a masked one": [[1, 2, 3], [4, np.ma.masked, 6], [7, 8, 9]],
    "objects": np.array([[1, 2, 3], [4, None, 6], [7, 8, 9]], object),
    "lists with NA": [[1, 2, 3], [4, pd.NA, 6], [7, 8, 9]],
    "pandas": pd.DataFrame(LISTS).set_axis(range(3), axis=1),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_missing_value_is_refused_by_column_and_row(client, named, kind):
    text = (
        "input 'x', feature 'b': expected a value everywhere, got a missing one in row 1, counting "
        'from 0 (1 of 3); fill it in, or pass missing="nan" to send NaN'
    )
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        client.predict("net", TABLES[kind])
    assert named.calls["ModelInfer"] == 0


@pytest.mark.parametrize("kind", BLOCKS)
def test_of_an_array_the_place_is_reported(client, server, kind):
    text = "got a missing one in row 1, counting from 0, column 1 (1 of 9); fill it in, or pass"
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        client.predict("net", BLOCKS[kind])
    assert server.calls["ModelInfer"] == 0


@pytest.mark.parametrize("kind", TABLES)
def test_a_missing_value_is_sent_as_nan_if_the_caller_says_so(client, named, kind):
    got = client.predict("net", TABLES[kind], missing="nan")["total"]
    np.testing.assert_array_equal(got, np.array([6, np.nan, 24], np.float32))
    stream = list(client.predict_stream("net", [TABLES[kind]] * 2, missing="nan"))
    assert [each["total"].tolist()[2] for each in stream] == [24, 24]


@pytest.mark.parametrize("kind", [*BLOCKS, *TABLES])
def test_without_names_in_the_file_nulls_are_found_too(client, server, kind):
    x = BLOCKS[kind] if kind in BLOCKS else TABLES[kind]
    if kind in ("dict of lists", "records", "dict of Series", "dict of polars", "dict of masked",
                "masked records"):  # fmt: skip
        with pytest.raises(InvalidInputError):
            client.predict("net", x, missing="nan")
        return
    with pytest.raises(InvalidInputError, match="expected a value everywhere"):
        client.predict("net", x)
    got = client.predict("net", x, missing="nan")["total"]
    np.testing.assert_array_equal(got, np.array([6, np.nan, 24], np.float32))


@pytest.mark.parametrize("row", [{"a": 1, "b": None, "c": 3}, pd.DataFrame(LISTS).iloc[1]])
def test_a_row_with_a_missing_cell_is_no_other(client, named, row):
    with pytest.raises(InvalidInputError, match="feature 'b': expected a value everywhere"):
        client.predict("net", row)
    assert np.isnan(client.predict("net", row, missing="nan")["total"])


@pytest.mark.parametrize("x", [FILLED, FILLED.tolist(), pl.DataFrame(FILLED, schema=list(NAMES))])
def test_a_nan_of_an_array_is_a_value(client, named, x):
    got = client.predict("net", x)["total"]
    np.testing.assert_array_equal(got, np.array([6, np.nan, 24], np.float32))


def test_whole_numbers_have_no_nan(client, server):
    server.models["net"].inputs = {"x": ("INT64", (-1, 3))}
    for missing in ("refuse", "nan"):
        with pytest.raises(InvalidInputError, match="fill it in, as INT64 has no NaN"):
            client.predict("net", BLOCKS["lists"], missing=missing)


def test_texts_are_not_read_as_numbers_beside_a_missing_value(client):
    with pytest.raises(InvalidInputError, match="expected datatype FP32"):
        client.predict("net", [["1", None, "3"]], missing="nan")


def test_another_setting_is_refused(client):
    with pytest.raises(ValueError, match="missing: expected 'refuse' or 'nan', got 'drop'"):
        client.predict("net", X, missing="drop")


def test_a_column_of_nothing_is_nan_throughout(client, named):
    x = {"a": [1, 2], "b": [None, None], "c": [1, 2]}
    assert np.isnan(client.predict("net", x, missing="nan")["total"]).all()
