"""Features by name: dicts and DataFrames, in any order."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
from support.clients import AnyClient

from forwardpass.client import InvalidInputError
from forwardpass.proto.metadata import INPUTS, ColumnNames, dump_columns

NAMES = ("age", "mean radius", "mass")
X = np.array([[1, 2, 3], [10, 20, 30]], np.float32)
TURNED = ("mass", "age", "mean radius")


@pytest.fixture
def server(server):
    columns = {"x": ColumnNames(labels=NAMES)}
    server.models["net"].properties = {INPUTS: dump_columns(columns)}
    return server


def column(name):
    return X[:, NAMES.index(name)]


def refused(text):
    return pytest.raises(InvalidInputError, match=re.escape(text))


def test_a_number_for_each_feature_is_a_row(client: AnyClient) -> None:
    prediction = client.predict("net", {"mass": 3, "mean radius": 2.0, "age": np.float64(1)})
    assert prediction["y"].tolist() == client.predict("net", X[0])["y"].tolist()
    assert prediction["total"].shape == ()


@pytest.mark.parametrize(
    "x",
    [
        {name: column(name) for name in TURNED},
        {name: column(name).tolist() for name in TURNED},
        {name: pd.Series(column(name), index=["p", "q"]) for name in TURNED},
        pd.DataFrame({name: column(name) for name in TURNED}, index=[7, 3]),
        pd.DataFrame({name: column(name).astype(int) for name in TURNED}, dtype="Int64"),
        pl.DataFrame({name: column(name) for name in TURNED}),
        {"x": {name: column(name) for name in TURNED}},
        {"x": pl.DataFrame({name: column(name) for name in TURNED})},
    ],
    ids=["arrays", "lists", "series", "pandas", "pandas Int64", "polars", "by input", "by input 2"],
)
def test_columns_are_rows_in_whatever_order_they_come(client: AnyClient, x) -> None:
    assert client.predict("net", x) == client.predict("net", X)


@pytest.mark.parametrize("frame", [pd.DataFrame, lambda x: pl.DataFrame(x, schema=list(NAMES))])
def test_a_frame_of_other_names_is_refused_and_one_without_names_goes_by_position(
    client: AnyClient, frame
) -> None:
    assert client.predict("net", frame(X)) == client.predict("net", X)
    wrong = pd.DataFrame(X, columns=["age", "radius", "mass"])
    with refused("none for 'mean radius', and one for 'radius', which the model does not have"):
        client.predict("net", wrong)


def test_one_input_named_as_such_may_be_an_array(client: AnyClient) -> None:
    assert client.predict("net", {"x": X}) == client.predict("net", X)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (
            {"age": 1, "mean radius": 2},
            "input 'x': expected one column for each of the model's 3 features, "
            "got none for 'mass'; name them as the model does ('age', 'mean radius', 'mass'), or "
            "send {'x': array}",
        ),
        (
            {"age": 1, "mean_radius": 2, "mass": 3},
            "got none for 'mean radius', and one for 'mean_radius', which the model does not "
            "have; is 'mean_radius' meant to be 'mean radius'?",
        ),
        (
            {"age": 1, "mean radius": 2, "mass": 3, "id": 7},
            "got one for 'id', which the model does not have; leave out 'id'",
        ),
        (
            pd.DataFrame([[1, 2, 3, 4]], columns=["age", "mass", "mass", "mean radius"]),
            "got more than one for 'mass'",
        ),
        (
            {"age": [1, 2], "mean radius": [1, 2], "mass": 3},
            "expected a number for each feature, or columns of one length, got 2 values for "
            "'age' and one value for 'mass'; send all features of the same rows",
        ),
        (
            {"age": [1, 2], "mean radius": [1, 2, 3], "mass": [1, 2]},
            "got 2 values for 'age' and 3 values for 'mean radius'",
        ),
        (
            {"age": 1, "mean radius": "2", "mass": 3},
            "input 'x', feature 'mean radius': expected datatype FP32, got BYTES",
        ),
        (
            {"age": 1, "mean radius": 1e39, "mass": 3},
            "input 'x', feature 'mean radius': expected FP32 values of magnitude",
        ),
        (
            {"age": [[1]], "mean radius": [[1]], "mass": [[1]]},
            "input 'x', feature 'age': expected a number or one column, got 2 axes",
        ),
        (
            pl.DataFrame({"age": [1], "mean radius": ["b"], "mass": [3]}),
            "input 'x', feature 'mean radius': expected datatype FP32",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_not_sent(client: AnyClient, server, x, text) -> None:
    with refused(text):
        client.predict("net", x)
    assert server.calls["ModelInfer"] == 0


def test_many_wrong_names_are_counted(client: AnyClient) -> None:
    with refused("and one for 'c0', 'c1', 'c2', 'c3', 'c4' and 5 more, which"):
        client.predict("net", {f"c{i}": 1 for i in range(10)})


def test_without_names_in_the_file_a_dict_is_of_inputs(client: AnyClient, server) -> None:
    server.models["net"].properties = {}
    with refused("input 'age': expected one of 'x', got 'age'"):
        client.predict("net", {"age": 1, "mean radius": 2, "mass": 3})
    with refused("input 'x': expected an array, as the model's file has no names for its columns"):
        client.predict("net", {"x": {"age": 1}})
    assert client.predict("net", pd.DataFrame(X, columns=list("abc"))) == client.predict("net", X)


@pytest.mark.parametrize("text", ["[]", "no JSON", '{"x":{"labels":["a","b"]}}', '{"x":5}'])
def test_names_that_make_no_sense_are_as_none(client: AnyClient, server, text) -> None:
    server.models["net"].properties = {INPUTS: text}
    assert client.predict("net", X)["y"].shape == (2, 2)


def test_inputs_of_several_take_features_each(client: AnyClient, server) -> None:
    server.models["pair"].inputs = {"a": ("FP64", (-1, 2)), "b": ("BYTES", (-1, 2))}
    server.models["pair"].outputs = server.models["pair"].inputs
    names = {"a": ColumnNames(labels=("l", "r")), "b": ColumnNames(labels=("first", "last"))}
    server.models["pair"].properties = {INPUTS: dump_columns(names)}
    prediction = client.predict(
        "pair",
        {"b": {"last": ["y", b"z"], "first": ["u", "v"]}, "a": {"r": [1, 2], "l": [True, False]}},
    )
    assert prediction["a"].tolist() == [[1, 1], [0, 2]]
    assert prediction["b"].tolist() == [[b"u", b"y"], [b"v", b"z"]]


def test_neither_pandas_nor_polars_is_imported_for_it(server) -> None:
    program = f"""
import sys
from forwardpass.client import Client
with Client("{server.target}") as client:
    client.predict("net", {{"age": 1, "mean radius": 2, "mass": 3}})
print({{"pandas", "polars", "rich", "opentelemetry", "onnx", "onnxruntime"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
