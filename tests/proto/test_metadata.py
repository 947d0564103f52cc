"""The file contract: what is written is read back, and what is malformed is a MetadataError."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from support.wire import assert_same_bits

from forwardpass.proto import metadata
from forwardpass.proto.metadata import (
    INPUTS,
    OUTPUTS,
    SAMPLES,
    ColumnNames,
    MetadataError,
    Samples,
    dump_columns,
    dump_json,
    load_columns,
    load_json,
    published,
)

# What a file can hold: surrogates are not text in any encoding.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LISTS = st.lists(TEXT, max_size=4).map(tuple)
NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(tuple)
COLUMNS = st.builds(
    lambda labels, units, description, thresholds, low: ColumnNames(
        labels=labels,
        units=units,
        description=description,
        thresholds=thresholds,
        low=low,
        high=low[::-1],
    ),
    LISTS,
    LISTS,
    TEXT,
    NUMBERS,
    NUMBERS,
)
TENSORS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
NAMED_TENSORS = st.dictionaries(TEXT, TENSORS, max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, COLUMNS, max_size=3))
def test_columns_round_trip(columns: dict[str, ColumnNames]) -> None:
    assert load_columns(OUTPUTS, dump_columns(columns)) == columns


def test_columns_are_written_short_and_sorted() -> None:
    columns = {"b": ColumnNames(), "a": ColumnNames(units=("mm",), labels=("größe",))}

    assert dump_columns(columns) == '{"a":{"labels":["größe"],"units":["mm"]},"b":{}}'


def test_thresholds_stand_beside_the_labels() -> None:
    columns = {"y": ColumnNames(labels=("no", "yes"), thresholds=(0.5, 0.25))}

    assert dump_columns(columns) == '{"y":{"labels":["no","yes"],"thresholds":[0.5,0.25]}}'


def test_whole_numbers_are_thresholds() -> None:
    (columns,) = load_columns(OUTPUTS, '{"y":{"thresholds":[0,1]}}').values()

    assert columns.thresholds == (0.0, 1.0)
    assert all(isinstance(threshold, float) for threshold in columns.thresholds)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (ColumnNames(fill=(0.0, None)), '{"fill":[0.0,null]}'),
        (ColumnNames(categories=("b", "")), '{"categories":["b",""]}'),
        (
            ColumnNames(categories=(1, 0), unknown=0, missing=0),
            '{"categories":[1,0],"missing":0,"unknown":0}',
        ),
        (
            ColumnNames(categories=("a",), unknown="zeros", missing="a"),
            '{"categories":["a"],"missing":"a","unknown":"zeros"}',
        ),
    ],
)
def test_what_an_input_takes_stands_beside_its_labels(columns: ColumnNames, text: str) -> None:
    assert dump_columns({"x": columns}) == f'{{"x":{text}}}'
    assert load_columns(INPUTS, f'{{"x":{text}}}') == {"x": columns}


def test_columns_of_a_later_writer_are_read() -> None:
    assert load_columns(INPUTS, '{"x":{"labels":["a"],"ranges":[[0,1]]}}') == {
        "x": ColumnNames(labels=("a",))
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        "[" * 100_000,
        "[]",
        "5",
        "null",
        '"text"',
        '{"x":5}',
        '{"x":null}',
        '{"x":[]}',
        '{"x":{"labels":5}}',
        '{"x":{"labels":null}}',
        '{"x":{"labels":"abc"}}',
        '{"x":{"labels":[1,2]}}',
        '{"x":{"labels":{"a":1}}}',
        '{"x":{"units":"mm"}}',
        '{"x":{"description":5}}',
        '{"x":{"thresholds":0.5}}',
        '{"x":{"thresholds":"0.5"}}',
        '{"x":{"thresholds":["0.5"]}}',
        '{"x":{"thresholds":[true]}}',
        '{"x":{"thresholds":[null]}}',
        '{"x":{"thresholds":[NaN]}}',
        '{"x":{"thresholds":[Infinity]}}',
        '{"x":{"thresholds":[1' + "0" * 400 + "]}}",
        '{"x":{"low":5,"high":5}}',
        '{"x":{"low":[1],"high":["2"]}}',
        '{"x":{"low":[true],"high":[true]}}',
        '{"x":{"low":[NaN],"high":[1]}}',
        '{"x":{"low":[1],"high":[Infinity]}}',
        '{"x":{"low":[1],"high":[1e999]}}',
        f'{{"x":{{"low":[1],"high":[1{"0" * 400}]}}}}',
        '{"x":{"low":[1]}}',
        '{"x":{"low":[1],"high":[1,2]}}',
        '{"x":{"fill":5}}',
        '{"x":{"fill":["1"]}}',
        '{"x":{"fill":[NaN]}}',
        '{"x":{"categories":"ab"}}',
        '{"x":{"categories":["a",1]}}',
        '{"x":{"categories":[true]}}',
        '{"x":{"categories":[1.5]}}',
        '{"x":{"categories":[9223372036854775808]}}',
        '{"x":{"categories":["a"],"unknown":"b"}}',
        '{"x":{"categories":["a"],"unknown":null}}',
        '{"x":{"categories":["a"],"missing":"zeros"}}',
        '{"x":{"categories":["a","a"]}}',
        '{"x":{"categories":[1],"unknown":true}}',
        '{"x":{"categories":[0],"missing":false}}',
        '{"x":{"categories":[1],"unknown":1.0}}',
        '{"x":{"labels":["\\ud800"]}}',
        '{"x":{"categories":["a\\udc00"]}}',
    ],
)
def test_malformed_columns_are_refused_by_their_key(text: str) -> None:
    with pytest.raises(MetadataError, match=INPUTS) as caught:
        load_columns(INPUTS, text)

    assert caught.value.key == INPUTS


@given(JSON)
def test_any_json_is_columns_or_a_metadata_error(value: Any) -> None:
    try:
        columns = load_columns(INPUTS, json.dumps(value))
    except MetadataError:
        return
    assert all(isinstance(each, ColumnNames) for each in columns.values())


def assert_equal_tensors(got: Any, expected: dict[str, NDArray[Any]]) -> None:
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert_same_bits(got[name], array)


@given(NAMED_TENSORS, NAMED_TENSORS, st.data())
def test_samples_round_trip(
    inputs: dict[str, NDArray[Any]], outputs: dict[str, NDArray[Any]], data: st.DataObject
) -> None:
    tolerance = {name: data.draw(st.floats(0, 1e30)) for name in outputs}

    samples = Samples.load(Samples(inputs, outputs, tolerance).dump())

    assert_equal_tensors(samples.inputs, inputs)
    assert_equal_tensors(samples.outputs, outputs)
    assert samples.tolerance == tolerance


def test_samples_may_be_texts_and_integers() -> None:
    texts = np.array([["é"], [""]], object)
    integers = np.array([[-(2**63)], [2**62]])
    y = np.ones(2, np.float32)

    dumped = Samples({"c": texts, "d": integers}, {"y": y}, {"y": 0.5}).dump()

    samples = Samples.load(dumped)
    assert samples.inputs["c"].tolist() == [["é".encode()], [b""]]
    assert_same_bits(samples.inputs["d"], integers)
    assert json.loads(dumped)["inputs"]["d"]["datatype"] == "INT64"
    assert samples.dump() == dumped


def test_equal_samples_are_equal_text() -> None:
    x, y = np.ones(2, np.float32), np.zeros(3, np.float32)

    first = Samples({"a": x, "b": y}, {"y": y}, {"y": 0.5}).dump()

    assert first == Samples({"b": y, "a": x}, {"y": y}, {"y": 0.5}).dump()
    assert (
        first == '{"inputs":{"a":{"raw":"AACAPwAAgD8=","shape":[2]},'
        '"b":{"raw":"AAAAAAAAAAAAAAAA","shape":[3]}},'
        '"outputs":{"y":{"raw":"AAAAAAAAAAAAAAAA","shape":[3]}},"tolerance":{"y":0.5}}'
    )


GOOD = json.loads(
    Samples({"x": np.ones(2, np.float32)}, {"y": np.ones(1, np.float32)}, {"y": 0.5}).dump()
)


def with_tensor(**fields: Any) -> Any:
    return GOOD | {"inputs": {"x": GOOD["inputs"]["x"] | fields}}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        5,
        {},
        {key: value for key, value in GOOD.items() if key != "inputs"},
        {key: value for key, value in GOOD.items() if key != "outputs"},
        {key: value for key, value in GOOD.items() if key != "tolerance"},
        GOOD | {"inputs": []},
        GOOD | {"inputs": {"x": 5}},
        GOOD | {"inputs": {"x": {}}},
        GOOD | {"outputs": None},
        GOOD | {"tolerance": {}},
        GOOD | {"tolerance": {"y": "much"}},
        GOOD | {"tolerance": {"y": None}},
        GOOD | {"tolerance": {"y": 10**400}},
        with_tensor(raw=5),
        with_tensor(raw="AAAA"),
        with_tensor(raw="no base64!!!"),
        with_tensor(raw="ümlaut"),
        with_tensor(shape=2),
        with_tensor(shape=None),
        with_tensor(shape=["two"]),
        with_tensor(shape=[3]),
        with_tensor(shape=[-1, -2]),
        with_tensor(shape=[float("inf")]),
        with_tensor(shape=[float("nan")]),
        with_tensor(shape=[0, 10**30], raw=""),
        with_tensor(shape=[1] * 100 + [2]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_malformed_samples_are_refused_by_their_key(value: Any) -> None:
    with pytest.raises(MetadataError, match=SAMPLES) as caught:
        Samples.load(json.dumps(value))

    assert caught.value.key == SAMPLES


@given(JSON, st.sampled_from(["inputs", "outputs", "tolerance"]))
def test_any_json_is_samples_or_a_metadata_error(value: Any, key: str) -> None:
    for whole in (value, GOOD | {key: value}, GOOD | {key: {"x": value, "y": value}}):
        try:
            Samples.load(json.dumps(whole))
        except MetadataError as error:
            assert error.key == SAMPLES  # noqa: PT017 - either outcome is right


@given(st.text(max_size=20))
def test_any_text_is_json_or_a_metadata_error(text: str) -> None:
    try:
        value = load_json("key", text)
    except MetadataError as error:
        assert "'key'" in str(error)  # noqa: PT017 - either outcome is right
    else:
        load_json("key", dump_json(value))


def test_everything_of_the_contract_but_the_samples_is_published() -> None:
    told = {
        metadata.FORMAT: "1",
        metadata.LAYERS: "[]",
        metadata.PROVENANCE: "{}",
        metadata.PREFIX + "later": "x",
    }

    assert published(told | {SAMPLES: "{}", "producer": "x", "forwardpassed": "y"}) == told


def test_the_keys_are_the_contracts() -> None:
    # Files are out there: a renamed key is a broken file.
    assert (metadata.FORMAT, metadata.FORMAT_VERSION) == ("forwardpass.format", "1")
    assert metadata.LAYERS == "forwardpass.layers"
    assert (INPUTS, OUTPUTS) == ("forwardpass.inputs", "forwardpass.outputs")
    assert metadata.PROVENANCE == "forwardpass.provenance"
    assert SAMPLES == "forwardpass.samples"
