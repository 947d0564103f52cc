"""Networks of several inputs on the real server: batched, with unknown and missing values."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from onnx import numpy_helper
from support import pages
from support.rest import Rest
from support.wire import infer_request

from forwardpass.client import Client, InvalidInputError, load
from forwardpass.client.local import LocalClient
from forwardpass.models import Categorical, Dense, Input, Network, Output, publish, to_onnx
from forwardpass.models.file.graph import serialize
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.metadata import BATCH_INVARIANT
from forwardpass.proto.tensors import decode_raw
from forwardpass.server.app import Server
from forwardpass.server.config import Transport
from forwardpass.server.guard import Limits
from forwardpass.server.guard.check import check_file
from forwardpass.server.guard.errors import GuardError

LOANS = Network.define(
    [
        Input(2, "numbers", ("age", "income"), mean=[40, 30], scale=[9, 8], fill={"age": 38}),
        Categorical("purpose", ("car", "house", "größe")),
        Categorical("rooms", (1, 2, 3), unknown="zeros", missing=2),
        Categorical("risk class", ("A", "B"), unknown="B", values=[[1.0, 0.5], [2.0, 3.0]]),
    ],
    [
        Dense("places", 2, "identity", reads="purpose", b=[0, 0]),
        Dense("hidden", 8, "elu", reads=("numbers", "places", "rooms", "risk class")),
        Dense("risk", 1, "sigmoid"),
        Dense("plain", 1, "identity", reads="numbers"),
    ],
    [Output("risk", "risk", labels=("low", "high")), Output("plain", "plain")],
    name="loans",
    seed=3,
)
TABLE: dict[str, list[Any]] = {
    "age": [61.0, None, 35.0, 20.5],
    "income": [40, 25, 31, 90],
    "purpose": ["car", "house", "größe", "car"],
    "rooms": [3, None, 9, 1],
    "risk class": ["A", "B", "?", None],
}
ONE = Network.define(Categorical("c", ("a", "b")), [Dense("y", 2, "softmax")], name="one")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for network in (LOANS, ONE):
        publish(network, root)
    return root


@pytest.fixture(scope="module")
def served(models: Path, transport: Transport) -> Iterator[tuple[Server, Rest]]:
    with pages.served(models, transport=transport) as both:
        yield both


@pytest.fixture(scope="module")
def client(served: tuple[Server, Rest]) -> Iterator[Client]:
    with Client(f"127.0.0.1:{served[0].port}") as client:
        yield client


@pytest.fixture(params=["server", "file"])
def either(request: pytest.FixtureRequest, client: Client, models: Path) -> Client | LocalClient:
    return client if request.param == "server" else load(models / "loans" / "1" / "model.onnx")


def rows(count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Rows with unknown and missing values, as the file takes them."""
    rng = np.random.default_rng(count)
    x = rng.normal([40, 30], [9, 8], (count, 2)).astype(np.float32)
    x[rng.random(count) < 0.3, 0] = np.nan
    purposes = np.array(["car", "house", "größe", "boat", ""], object)
    return {
        "numbers": x,
        "purpose": purposes[rng.integers(0, 5, count)].reshape(-1, 1),
        "rooms": np.array([1, 2, 3, 4, -(2**63)])[rng.integers(0, 5, count)].reshape(-1, 1),
        "risk class": np.array(["A", "B", "", "C"], object)[rng.integers(0, 4, count), None],
    }


def ask(server: Server, inputs: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The risk by a call without the client's checks."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            pb.ModelInferRequest.SerializeToString,
            pb.ModelInferResponse.FromString,
        )
        sent = {
            name: np.array([[each.encode()] for each in x[:, 0]], object)
            if x.dtype == object
            else x
            for name, x in inputs.items()
        }
        reply = infer(infer_request("loans", sent, outputs=["risk"]))
    (output,) = reply.outputs
    return decode_raw("risk", reply.raw_output_contents[0], output.datatype, tuple(output.shape))


def test_rows_are_batched_and_get_the_bits_that_they_get_alone(
    client: Client, served: tuple[Server, Rest]
) -> None:
    assert client.metadata("loans").properties[BATCH_INVARIANT] == "true"
    together = rows(40)
    answers = ask(served[0], together)
    known = ~np.isnan(answers[:, 0])
    assert (known == (np.isin(together["purpose"][:, 0], ["car", "house", "größe"]))).all()
    expected = LOANS(together)["risk"]
    np.testing.assert_allclose(answers[known], expected[known], atol=1e-6)
    assert np.isnan(expected[~known]).all()

    def alone(row: int) -> bytes:
        return ask(served[0], {name: x[row : row + 1] for name, x in together.items()}).tobytes()

    with ThreadPoolExecutor(8) as threads:
        singles = list(threads.map(alone, range(40)))
    for row, single in enumerate(singles):
        if known[row]:
            assert single == answers[row : row + 1].tobytes()
        else:
            assert np.isnan(np.frombuffer(single, np.float32)).all()


def test_a_call_in_pieces_has_the_answers_of_a_short_one(served: tuple[Server, Rest]) -> None:
    few = rows(30)
    many = {name: np.concatenate([x] * 400) for name, x in few.items()}
    np.testing.assert_array_equal(ask(served[0], many), np.concatenate([ask(served[0], few)] * 400))


def test_every_kind_of_table_is_sent_by_its_names(either: Client | LocalClient) -> None:
    expected = LOANS(TABLE)["risk"]
    frame = pd.DataFrame(TABLE, index=[7, 8, 9, 10])
    records = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    arrays: dict[str, Any] = {
        "risk class": TABLE["risk class"],
        "rooms": np.array([[3], [-(2**63)], [9], [1]]),
        "purpose": np.array(TABLE["purpose"]),
        "numbers": np.stack([np.array(TABLE["age"], float), TABLE["income"]], axis=1),
    }
    tables: tuple[Any, ...] = (
        frame[["risk class", "rooms", "income", "purpose", "age"]],
        frame.astype({"purpose": "category", "age": "Float64", "rooms": "Int64"}),
        pl.DataFrame(TABLE),
        pa.table(TABLE),
        TABLE,
        records,
        arrays,
    )
    for table in tables:
        prediction = either.predict("loans", table)
        np.testing.assert_allclose(prediction["risk"], expected, atol=1e-6)
        assert not prediction.single_row
    assert either.predict("loans", frame).to_pandas().index.tolist() == [7, 8, 9, 10]
    singles: tuple[Any, ...] = (
        records[1],
        frame.iloc[1],
        {name: x[1] for name, x in arrays.items()},
    )
    for row in singles:
        prediction = either.predict("loans", row)
        assert prediction.single_row
        np.testing.assert_allclose(prediction["risk"], expected[1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"purpose": ["car", "hause", "car", "car"]},
            r"input 'purpose': expected one of its categories \('car', 'house', 'größe'\), "
            r"got 'hause' in row 1, counting from 0; is it meant to be 'house'\?",
        ),
        (
            {"purpose": ["car", "car", None, "car"]},
            r"input 'purpose': expected one of .*, got a missing one in row 2, counting from 0; "
            r"fill it in, or pass missing=\"nan\"",
        ),
        (
            {"income": [1, None, 2, 3]},
            r"input 'numbers', feature 'income': .* a missing one in row",
        ),
        ({"purpose": [1, 2, 3, 4]}, r"input 'purpose': expected texts, got 1 in row 0"),
        ({"rooms": [1, 2.5, 3, 4]}, r"input 'rooms': expected integers of 64 bits, got 2.5 in row"),
        ({"rooms": [1]}, r"input 'rooms': expected 4 rows as for 'numbers', got 1"),
        ({"room": [1] * 4}, r"x: expected one column for each of the model's 5 columns, got one f"),
    ],
)
def test_what_does_not_fit_is_named_before_it_is_sent(
    either: Client | LocalClient, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        either.predict("loans", TABLE | changes)


def test_a_row_without_a_category_has_no_answer_if_the_caller_chooses_that(
    either: Client | LocalClient,
) -> None:
    table = TABLE | {"purpose": ["car", None, "car", "car"]}
    prediction = either.predict("loans", table, missing="nan")
    assert np.isnan(prediction["risk"][:, 0]).tolist() == [False, True, False, False]
    assert np.isfinite(prediction["plain"]).all()
    assert prediction.label("risk")[1] is None


def test_one_input_of_categories_takes_its_column_in_any_form(client: Client) -> None:
    expected = ONE({"c": ["b", "a"]})["y"]
    columns: tuple[Any, ...] = (
        ["b", "a"],
        np.array([["b"], ["a"]]),
        {"c": ["b", "a"]},
        pd.DataFrame({"c": ["b", "a"]}),
        pd.Series(["b", "a"], index=[7, 8]),
        [{"c": "b"}, {"c": "a"}],
    )
    for column in columns:
        np.testing.assert_allclose(client.predict("one", column)["y"], expected, atol=1e-6)
    np.testing.assert_allclose(client.predict("one", {"c": "b"})["y"], expected[0], atol=1e-6)
    with pytest.raises(InvalidInputError, match="got 'x' in row 0"):
        client.predict("one", np.array([["x"]]))
    with pytest.raises(InvalidInputError, match="got none for 'c'"):
        client.predict("one", pd.DataFrame({"cc": ["a"]}))


def test_rest_and_the_page_answer_the_same(served: tuple[Server, Rest]) -> None:
    _, rest = served
    data = {"c": ["b", "?"]}
    body = {"inputs": [{"name": "c", "datatype": "BYTES", "shape": [2, 1], "data": data["c"]}]}
    answer = rest.call("POST", "/v2/models/one/infer", body)
    got = [float(x) for x in answer.json["outputs"][0]["data"]]
    expected = ONE(data)["y"]
    np.testing.assert_allclose(got, expected.ravel(), atol=1e-6)
    ran = pages.run(rest, "one", {"c": [["b"], ["?"]]})
    np.testing.assert_allclose(pages.array(ran["outputs"]["y"]), expected, atol=1e-6)


def test_the_page_is_told_what_inputs_take(served: tuple[Server, Rest]) -> None:
    told = served[1].get(pages.model_path("loans")).json
    inputs = {each["name"]: each for each in told["inputs"]}
    assert inputs["numbers"]["fill"] == [38, None]
    assert inputs["purpose"]["categories"] == ["car", "house", "größe"]
    assert (inputs["rooms"]["unknown"], inputs["rooms"]["missing"]) == ("zeros", 2)
    assert (inputs["numbers"]["categories"], inputs["purpose"]["fill"]) == ([], [])
    absent = told["samples"][-1]["inputs"]
    assert (absent["numbers"][0], absent["risk class"], absent["rooms"]) == ("NaN", ["?"], [0])


def test_such_a_file_is_plain_and_its_nan_is_no_weight(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(serialize(to_onnx(LOANS)))
    checked = check_file(path, root=None, limits=Limits())
    assert checked.plain
    checked.content.close()
    model = to_onnx(LOANS)
    (fill,) = (each for each in model.graph.initializer if each.name == "numbers/fill")
    fill.CopyFrom(numpy_helper.from_array(np.array([np.inf, 1], np.float32), "numbers/fill"))
    path.write_bytes(serialize(model))
    with pytest.raises(GuardError, match="'numbers/fill': expected finite weights, got inf"):
        check_file(path, root=None, limits=Limits())
    # As a weight it is refused, whatever else reads it.
    model = to_onnx(LOANS)
    gemm = next(node for node in model.graph.node if node.name == "places/Gemm")
    gemm.input[1] = "number/nan"
    path.write_bytes(serialize(model))
    with pytest.raises(GuardError, match="'number/nan': expected finite weights, got nan"):
        check_file(path, root=None, limits=Limits())


def test_samples_of_another_type_than_the_graphs_are_refused(tmp_path: Path) -> None:
    model = to_onnx(ONE)
    for entry in model.metadata_props:
        if entry.key == "forwardpass.samples":
            entry.value = entry.value.replace('"datatype":"BYTES",', "", 1)
    path = tmp_path / "one" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, path)
    with pages.served(tmp_path) as (_, rest):
        (version,) = pages.of_model(rest, "one")["versions"]
    assert version["state"] != "READY"
    assert "sample" in version["reason"]
