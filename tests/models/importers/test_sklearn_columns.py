"""scikit-learn's columns of texts, integers and missing values, against its own prediction."""

import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import VotingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    StandardScaler,
    TargetEncoder,
)
from support.imported import assert_imported

from forwardpass.models import Input, MissingLibraryError, UnsupportedSourceError
from forwardpass.models.importers.sklearn import from_sklearn

RNG = np.random.default_rng(0)
COUNT = 60
FRAME = pd.DataFrame(
    {
        "size": RNG.normal(20, 3, COUNT).astype(np.float32).astype(np.float64),
        "age": RNG.integers(20, 60, COUNT).astype(float),
        "color": RNG.choice(["red", "green", "blue"], COUNT).astype(object),
        "shape": RNG.choice(["ball", "cube"], COUNT).astype(object),
        "floor": RNG.integers(1, 5, COUNT),
        "note": [f"no. {k}" for k in range(COUNT)],
    }
)
FRAME.loc[::7, "age"] = np.nan
FRAME.loc[::11, "color"] = np.nan
Y = RNG.normal(size=COUNT) + FRAME["floor"].to_numpy() + (FRAME["color"] == "red").to_numpy()


def fitted(*transformers, model=None, frame=FRAME):
    columns = make_column_transformer(*transformers)
    return make_pipeline(columns, Ridge() if model is None else model).fit(frame, Y)


def names_of(network):
    return [
        name
        for source in network.inputs
        for name in (source.features if isinstance(source, Input) else [source.name])
    ]


def check(model, frame=FRAME):
    network = from_sklearn(model)
    rows = frame[names_of(network)]
    assert_imported(network, rows, {"y": model.predict(frame).reshape(len(frame), -1)})
    return network


def changed(**values):
    """The first rows with other values."""
    frame = FRAME.head(3).copy()
    for name, column in values.items():
        frame[name] = column
    return frame


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@pytest.mark.parametrize("scaler", [None, StandardScaler(), MinMaxScaler((-3, 5))], ids=str)
def test_an_imputer_before_a_scaler_or_after_it_is_the_fill_of_the_input(strategy, scaler):
    for steps in ([SimpleImputer(strategy=strategy), scaler], [scaler, SimpleImputer()]):
        network = check(fitted((make_pipeline(*steps), ["age", "size"])))
        (source,) = network.inputs
        assert source.features == ("size", "age")
        assert source.fill is not None


def test_a_column_that_is_dropped_is_no_feature_and_may_hold_anything():
    network = check(fitted((StandardScaler(), ["size"]), (OneHotEncoder(), ["shape"])))
    assert names_of(network) == ["size", "shape"]


def test_without_names_dropped_columns_stay_and_may_be_missing():
    x = FRAME[["size", "age", "floor"]].to_numpy(np.float64)
    model = make_pipeline(make_column_transformer((StandardScaler(), [0, 2])), Ridge()).fit(x, Y)
    network = from_sklearn(model)
    assert_imported(network, x.astype(np.float32), {"y": model.predict(x).reshape(-1, 1)})


@pytest.mark.parametrize(
    ("encoder", "frame", "unknown"),
    [
        (OneHotEncoder(handle_unknown="ignore"), changed(shape="cone"), "zeros"),
        (OneHotEncoder(handle_unknown="ignore", drop="if_binary"), changed(shape="cone"), "zeros"),
        (
            OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=2),
            changed(floor=9),
            1,
        ),
        (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
            changed(shape="cone", floor=[7, 0, 2]),
            "zeros",
        ),
        (TargetEncoder(target_type="continuous"), changed(floor=[7, 0, 2]), "zeros"),
        (OneHotEncoder(categories=[["cube", "ball"], [1, 2, 3, 4]]), FRAME, "refuse"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Found unknown categories")
def test_an_unknown_category_is_read_as_the_encoder_reads_it(encoder, frame, unknown):
    model = fitted((encoder, ["shape", "floor"]), (StandardScaler(), ["size"]))
    network = check(model)
    if isinstance(unknown, int):
        unknown = network.inputs[2].categories[
            [*np.asarray(network.inputs[2].values).argmax(axis=1)].index(unknown)
        ]
    assert network.inputs[-1].unknown == unknown
    assert [source.name for source in network.inputs] == ["x", "shape", "floor"]
    np.testing.assert_allclose(
        network(frame[names_of(network)])["y"][:, 0], model.predict(frame), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("encoder", "missing"),
    [
        (OneHotEncoder(), None),
        (OrdinalEncoder(encoded_missing_value=-5), None),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), "a category"),
        (
            make_pipeline(
                SimpleImputer(strategy="constant", fill_value="none"),
                OneHotEncoder(handle_unknown="ignore"),
            ),
            "none",
        ),
    ],
    ids=["own column", "own code", "most frequent", "a text of its own"],
)
def test_a_missing_category_is_read_as_the_pipeline_reads_it(encoder, missing):
    network = check(fitted((encoder, ["color"])))
    (source,) = network.inputs
    assert ("" in source.categories) == (missing is None)
    assert missing is None or source.missing == missing or missing == "a category"


def test_texts_of_pandas_are_imputed():
    frame = FRAME.assign(color=FRAME["color"].astype("string"))
    frequent = SimpleImputer(strategy="most_frequent", missing_values=pd.NA)
    encoder = make_pipeline(frequent, OneHotEncoder(handle_unknown="ignore"))
    check(fitted((encoder, ["color"]), (StandardScaler(), ["size"]), frame=frame), frame)


def test_estimators_that_encode_alike_share_an_input():
    def columns(scaler):
        return make_column_transformer((scaler, ["size"]), (OneHotEncoder(), ["shape"]))

    first = make_pipeline(columns(StandardScaler()), Ridge())
    second = make_pipeline(columns(MinMaxScaler()), LinearRegression())
    parts = [("a", first), ("b", second)]
    network = check(VotingRegressor(parts).fit(FRAME, Y))
    assert [source.name for source in network.inputs] == ["x", "shape"]


def test_columns_may_be_categories_only_and_found_by_number():
    x = FRAME[["shape", "floor"]].to_numpy(object)
    model = make_pipeline(OneHotEncoder(), Ridge()).fit(x, Y)
    network = from_sklearn(model)
    assert names_of(network) == ["x0", "x1"]
    given = {"x0": x[:, 0], "x1": x[:, 1].astype(np.int64)}
    np.testing.assert_allclose(network(given)["y"][:, 0], model.predict(x), rtol=1e-6)


FREQUENT = SimpleImputer(strategy="most_frequent")
HALVES = (np.median(Y) < Y).astype(int)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            fitted((SimpleImputer(add_indicator=True), ["age"])),
            r"\(SimpleImputer\): add_indicator=True",
        ),
        (
            fitted((SimpleImputer(missing_values=20.0), ["size"])),
            r"\(SimpleImputer\): missing_values=20.0; mark missing values by NaN",
        ),
        (
            CalibratedClassifierCV(make_pipeline(SimpleImputer(), LogisticRegression()), cv=2).fit(
                FRAME[["age"]], HALVES
            ),
            r"it fills in .* for 'age', where another part fills in .*; impute once, before",
        ),
        (
            VotingRegressor(
                [
                    ("a", fitted((OneHotEncoder(), ["shape"]))),
                    ("b", fitted((OrdinalEncoder(), ["shape"]))),
                ]
            ).fit(FRAME, Y),
            r"it encodes 'shape' otherwise than another part does; encode it once",
        ),
        (
            fitted((OneHotEncoder(), ["floor"]), (StandardScaler(), ["floor"])),
            r"column 'floor': both a category and a number; give the encoder a copy",
        ),
        (
            fitted((make_pipeline(FunctionTransformer(np.negative), OneHotEncoder()), ["floor"])),
            r"it encodes what another step computes; encode it first",
        ),
        (
            fitted((OneHotEncoder(), ["age"])),
            r"integers as categories of 'age', and missing ones; impute them first",
        ),
        (
            fitted((OneHotEncoder(), ["big"]), frame=FRAME.assign(big=FRAME["size"] > 20)),
            r"booleans as categories of 'big'; make integers of them",
        ),
        (
            fitted((OneHotEncoder(), ["half"]), frame=FRAME.assign(half=FRAME["floor"] / 2)),
            r"categories of 'half' that are neither texts nor integers; write them as texts",
        ),
        (
            fitted(
                (make_pipeline(OrdinalEncoder(), SimpleImputer()), ["color"]),
            ),
            r"it fills in 'color' once it is encoded; fill it in first",
        ),
        (
            fitted(
                (
                    make_union(OneHotEncoder(), make_pipeline(FREQUENT, OneHotEncoder())),
                    ["color"],
                )
            ),
            r"it encodes 'color' otherwise than another part does",
        ),
    ],
)
def test_what_an_input_cannot_be_is_refused_by_the_name_of_the_column(model, message):
    with pytest.raises(UnsupportedSourceError, match=message):
        from_sklearn(model)


def test_a_file_of_skops_needs_skops(monkeypatch):
    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(MissingLibraryError, match=r"m.skops: takes skops, .*\[skops\]"):
        from_sklearn("m.skops")
