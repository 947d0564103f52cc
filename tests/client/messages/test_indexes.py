"""Values whose rows have labels: paired by them or refused, and the answer has the labels, too."""

import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr

from forwardpass.client import InvalidInputError, LocalClient, load
from forwardpass.models import Dense, Input, Network, Output, export
from forwardpass.proto.metadata import INPUTS, ColumnNames, dump_columns

MASS = pd.Series([1.0, 2.0, 3.0], index=["p", "q", "r"])
LENGTH = pd.Series([10.0, 20.0, 30.0], index=["p", "q", "r"])


def coordinates(series: pd.Series) -> xr.DataArray:
    return xr.DataArray(series.to_numpy(), dims="patient", coords={"patient": list(series.index)})


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> LocalClient:
    """sum = mass + length."""
    path = tmp_path_factory.mktemp("indexes") / "net.onnx"
    network = Network.define(
        Input(2, features=("mass", "length")),
        [Dense("sum", activation="identity", W=[[1, 1]])],
        [Output("sum", "sum")],
    )
    export(network, path)
    return load(path)


UNLIKE = {
    "another order": LENGTH[["r", "p", "q"]],
    "other patients": LENGTH.set_axis(["p", "q", "s"]),
    "numbers": LENGTH.reset_index(drop=True),
    "coordinates": coordinates(LENGTH[["r", "p", "q"]]),
    "missing labels": LENGTH.set_axis(["p", "q", None]),
}


@pytest.mark.parametrize("length", UNLIKE.values(), ids=UNLIKE)
@pytest.mark.parametrize("mass", [MASS, coordinates(MASS)], ids=["Series", "xarray"])
def test_columns_of_other_rows_are_refused(client, mass, length):
    text = "input 'x': expected the index of 'mass' for 'length' too, as their values are of the "
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        client.predict("net", {"length": length, "mass": mass})


def test_the_error_names_the_row_and_a_fix_that_works(client):
    x = {"mass": MASS, "length": UNLIKE["another order"]}
    with pytest.raises(InvalidInputError) as refusal:
        client.predict("net", x)
    assert "got 'r' in row 0 in place of 'p'; align them, as pandas.DataFrame(x)" in str(
        refusal.value
    )
    frame = client.predict("net", pd.DataFrame(x)).to_pandas()
    assert frame["sum"].to_dict() == {"p": 11.0, "q": 22.0, "r": 33.0}
    by_position = {name: column.to_numpy() for name, column in x.items()}
    assert client.predict("net", by_position)["sum"].ravel().tolist() == [31, 12, 23]


def test_what_the_labels_of_rows_cannot_align_is_not_sent(client):
    # pandas fills what only one of them has with a missing value.
    with pytest.raises(InvalidInputError, match=r"'s' in row \d.*; send \.to_numpy\(\) of each if"):
        client.predict("net", {"mass": MASS, "length": UNLIKE["other patients"]})
    x = pd.DataFrame({"mass": MASS, "length": UNLIKE["other patients"]})
    with pytest.raises(InvalidInputError, match="a missing one in row 3"):
        client.predict("net", x)


ALIKE = {
    "Series": {"mass": MASS, "length": LENGTH},
    "a copy of the index": {"mass": MASS, "length": LENGTH.set_axis(list("pqr"))},
    "Series and array": {"mass": MASS, "length": LENGTH.to_numpy()},
    "list and Series": {"mass": MASS.tolist(), "length": LENGTH},
    "Series and polars": {"mass": MASS, "length": pl.Series(LENGTH.to_numpy())},
    "xarray": {"mass": coordinates(MASS), "length": coordinates(LENGTH)},
    "xarray and Series": {"mass": coordinates(MASS), "length": LENGTH},
    "dataset": xr.Dataset({"mass": coordinates(MASS), "length": coordinates(LENGTH)}),
    "DataFrame": pd.DataFrame({"length": LENGTH, "mass": MASS}),
    "by input": {"x": pd.DataFrame({"length": LENGTH, "mass": MASS})},
    "iterrows": [row for _, row in pd.DataFrame({"length": LENGTH, "mass": MASS}).iterrows()],
    "array of xarray": xr.DataArray(
        np.stack([MASS, LENGTH], axis=1),
        dims=("patient", "column"),
        coords={"patient": list("pqr"), "column": ["mass", "length"]},
    ),
}


@pytest.mark.parametrize("x", ALIKE.values(), ids=ALIKE)
def test_the_answer_has_the_labels_of_the_rows(client, x):
    frame = client.predict("net", x).to_pandas()
    assert frame["sum"].to_dict() == {"p": 11.0, "q": 22.0, "r": 33.0}


def test_one_row_has_the_name_of_its_series(client):
    row = pd.DataFrame({"length": LENGTH, "mass": MASS}).loc["q"]
    assert client.predict("net", row).to_pandas()["sum"].to_dict() == {"q": 22.0}
    nameless = pd.Series({"mass": 1.0, "length": 2.0})
    assert client.predict("net", nameless).to_pandas()["sum"].to_dict() == {0: 3.0}


@pytest.mark.parametrize(
    "index",
    [
        pd.MultiIndex.from_product([["a"], [1, 2, 3]], names=["ward", "bed"]),
        pd.date_range("2026-01-01", periods=3, tz="UTC", name="day"),
        pd.Index([7, 7, 8], name="id"),
    ],
)
def test_an_index_comes_back_as_it_was(client, index):
    x = pd.DataFrame({"length": LENGTH, "mass": MASS}).set_axis(index)
    pd.testing.assert_index_equal(client.predict("net", x).to_pandas().index, index)


def test_without_labels_rows_are_numbered(client):
    for x in (np.ones((2, 2)), pl.DataFrame({"mass": [1.0, 1.0], "length": [1.0, 1.0]})):
        assert client.predict("net", x).to_pandas()["sum"].to_dict() == {0: 2.0, 1: 2.0}


# Over the wire, by both clients.


@pytest.fixture
def named(server):
    properties = {INPUTS: dump_columns({"x": ColumnNames(labels=("a", "b", "c"))})}
    server.models["net"].properties = properties
    server.models["pair"].inputs = {"a": ("FP64", (-1, 2)), "b": ("FP64", (-1,))}
    server.models["pair"].outputs = dict(server.models["pair"].inputs)
    return server


def test_an_answer_in_pieces_has_the_labels_of_all_rows(client_of_net):
    x = pd.DataFrame(np.ones((7, 3)), columns=list("abc"), index=list("tuvwxyz"))
    frame = client_of_net.predict("net", x, rows_per_call=3).to_pandas()
    assert frame["total"].to_dict() == dict.fromkeys("tuvwxyz", 3.0)
    frames = [each.to_pandas() for each in client_of_net.predict_stream("net", [x[:2], x[2:]])]
    assert pd.concat(frames)["total"].to_dict() == dict.fromkeys("tuvwxyz", 3.0)


@pytest.fixture
def client_of_net(named, connect):
    with connect(named.target, timeout_s=10) as both:
        yield both


def test_inputs_of_other_rows_are_refused(named, client_of_net):
    a = pd.DataFrame(np.ones((2, 2)), index=["p", "q"])
    b = pd.Series([1.0, 2.0], index=["q", "p"])
    with pytest.raises(InvalidInputError, match="x: expected the index of 'a' for 'b' too"):
        client_of_net.predict("pair", {"a": a, "b": b})
    frame = client_of_net.predict("pair", {"a": a, "b": b[["p", "q"]]}).to_pandas()
    assert frame["b"].to_dict() == {"p": 2.0, "q": 1.0}
    # A server that does not describe its model gets what the caller says: the same rows as well.
    named.models["bare"] = named.models["pair"]
    named.models["bare"].inputs = {}
    with pytest.raises(InvalidInputError, match="x: expected the index of 'a' for 'b' too"):
        client_of_net.predict("bare", {"a": a, "b": b})


def test_rows_with_names_of_their_own_may_differ_from_input_to_input(named, client_of_net):
    named.models["two"] = named.models["pair"]
    named.models["two"].inputs = {"a": ("FP64", (-1, 2)), "b": ("FP64", (-1, 3))}
    x = {"a": pd.Series([1.0, 2.0], index=["m", "l"]), "b": pd.Series([3.0, 4.0, 5.0], list("xyz"))}
    assert client_of_net.predict("two", x)["b"].tolist() == [3, 4, 5]


# Lists, of which NumPy would make one array by position.


SWAPPED = pd.DataFrame({"b": [3.0], "a": [4.0], "c": [5.0]})


@pytest.mark.parametrize(
    "x",
    [
        [pd.Series([1.0, 2.0, 3.0]), pd.Series([2.0, 1.0, 3.0], index=[1, 0, 2])],
        [pd.Series([1.0, 2.0, 3.0]), pd.Series([2.0, 1.0, 3.0], index=list("bac"))],
        [np.ones(3), pd.Series([2.0, 1.0, 3.0], index=list("bac"))],
        [[1.0, 2.0, 3.0], {"a": 1.0, "b": 2.0, "c": 3.0}],
        [
            xr.DataArray([1.0, 2.0, 3.0], dims="f", coords={"f": list("abc")}),
            xr.DataArray([2.0, 1.0, 3.0], dims="f", coords={"f": list("bad")}),
        ],
    ],
)
def test_rows_whose_names_differ_are_refused(client_of_net, x):
    with pytest.raises(InvalidInputError, match=r"element 0|names of row 0"):
        client_of_net.predict("net", x)


def test_rows_of_xarray_are_matched_by_their_coordinates(client_of_net):
    x = [
        xr.DataArray([1.0, 2.0, 3.0], dims="f", coords={"f": list("abc")}),
        xr.DataArray([5.0, 4.0, 6.0], dims="f", coords={"f": list("bac")}),
    ]
    assert client_of_net.predict("net", x) == client_of_net.predict("net", [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("of", [pd.DataFrame, pl.from_pandas])
def test_tables_in_a_list_have_equal_columns(named, client_of_net, of):
    named.models["cube"] = named.models["pair"]
    named.models["cube"].inputs = {"a": ("FP64", (-1, 1, 3))}
    named.models["cube"].outputs = {"a": ("FP64", (-1, 1, 3))}
    one = pd.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0]})
    assert client_of_net.predict("cube", [of(one), of(one)])["a"].tolist() == [[[1, 2, 3]]] * 2
    text = "expected element 1 to have the names of element 0, in the same order, got 'b', 'a', 'c'"
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        client_of_net.predict("cube", [of(one), of(SWAPPED)])
