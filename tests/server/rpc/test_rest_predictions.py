"""`:predict` takes named features and answers labels, values and units; `/openapi.json` says so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import onnx_files
from support.rest import Rest
from support.rpc import Stub
from support.wire import arrays, infer_request

from forwardpass.models import Categorical, Dense, Input, Network, publish
from forwardpass.models.zoo import ZOO
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits
from forwardpass.server.transport.event_loop import http_requests

PREDICT = "/v2/models/breast_cancer:predict"
TOKENS = {
    "infer": new_token("infer", ["breast_cancer"], [Action.INFER]),
    "read": new_token("read", ["linnerud"], [Action.READ]),
}


@pytest.fixture(scope="module")
def loans() -> Network:
    """A network of two numbers, one of which is filled in, a text and an integer."""
    numbers = Input(2, "x", features=("age", "income"), fill=(40.0, np.nan))
    region = Categorical("region", ("north", "south"))
    branch = Categorical("branch", (1, 2, 3), missing=2)
    return Network.define([numbers, region, branch], [Dense("y", 2, "tanh")], name="loans")


@pytest.fixture(scope="module")
def root(loans: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for name in ("breast_cancer", "linnerud"):
        publish(ZOO[name].network(), root)
    publish(loans, root)
    onnx_files.save(onnx_files.pair(), root / "pair" / "1" / "model.onnx")
    onnx_files.save(onnx_files.identity("FP32", ["a", "b"]), root / "free" / "1" / "model.onnx")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    with Server(Config(models=root, port=0, http_port=0, transport=Transport.ASYNCIO)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Rest]:
    with Rest(server.http_port) as client:
        yield client


def names(client: Rest, model: str) -> tuple[list[str], dict[str, Any]]:
    properties = client.get(f"/v2/models/{model}").json["properties"]
    (columns,) = json.loads(properties["forwardpass.inputs"]).values()
    return columns["labels"], json.loads(properties["forwardpass.outputs"])


def test_a_prediction_is_that_of_infer(server: Server, client: Rest) -> None:
    features, outputs = names(client, "breast_cancer")
    rows = ZOO["breast_cancer"].held_out().x[:20].astype(np.float32)
    listed = [dict(zip(features, row, strict=True)) for row in rows.tolist()]
    answer = client.post(PREDICT, listed).json
    with Stub(server.port) as stub:
        expected = arrays(stub.infer(infer_request("breast_cancer", {"x": rows})))
    assert answer["model_name"] == "breast_cancer"
    assert answer["model_version"] == "1"
    benign, malignant = outputs["malignancy"]["labels"]
    labels = outputs["worst"]["labels"]
    for index, entry in enumerate(answer["predictions"]):
        worst, (score,) = (expected[name][index].tolist() for name in ("worst", "malignancy"))
        assert entry["worst"]["values"] == dict(zip(labels, worst, strict=True))
        assert entry["malignancy"]["values"] == {malignant: score}
        assert entry["malignancy"]["label"] == (malignant if score > 0.5 else benign)
    (alone,) = client.post("/v2/models/breast_cancer/versions/1:predict", listed[0]).json[
        "predictions"
    ]
    assert alone == answer["predictions"][0]


def test_outputs_that_are_measured_have_units(client: Rest) -> None:
    features, _ = names(client, "linnerud")
    row = dict.fromkeys(features, 10)
    (answer,) = client.post("/v2/models/linnerud:predict", row).json["predictions"]
    assert set(answer) == {"weight", "waist", "pulse"}
    assert all("units" in each and "values" in each for each in answer.values())
    assert all("label" not in each for each in answer.values())


def test_inputs_without_names_are_lists(client: Rest) -> None:
    row = {"a": [1, 2], "b": [3, 4]}
    (answer,) = client.post("/v2/models/pair:predict", row).json["predictions"]
    assert answer["total"]["values"] == [4, 6]
    assert "list of numbers" in client.post("/v2/models/pair:predict", {"a": [1, 2]}).error


def test_rows_that_do_not_fit_are_refused(client: Rest) -> None:
    features, _ = names(client, "breast_cancer")
    good: dict[str, Any] = dict.fromkeys(features, 1.5)
    for row, says in (
        ({k: v for k, v in good.items() if k != features[0]}, "got none; send all features"),
        (
            {"radius" if k == features[0] else k: v for k, v in good.items()},
            "got none, and 'radius', which is none of them; is 'radius' meant to be 'mean radius'?",
        ),
        (good | {"color": 1}, "row 0: unknown feature 'color'; leave it out"),
        (
            [good, good | {features[1]: "1"}],
            f"row 1: expected {features[1]!r} as a number, got the text '1'; send a number",
        ),
        (
            good | {features[1]: None},
            f'row 0: expected {features[1]!r} as a number, got null; fill it in, or send "NaN"',
        ),
        (good | {features[1]: [1]}, f"row 0: expected {features[1]!r} as a number, got a list"),
        ([], "at least one object"),
        ([1], "row 0: expected an object"),
        (b"{", "expected JSON"),
    ):
        answer = client.post(PREDICT, row)
        assert answer.status == 400
        assert says in answer.error
    assert client.post(PREDICT, [good] * 20_000).status == 413
    assert "of a known size" in client.post("/v2/models/free:predict", {"x": [1]}).error
    assert client.post("/v2/models/nobody:predict", good).status == 404
    assert client.get(PREDICT).status == 405


def test_categories_and_missing_values_are_those_of_the_clients(
    loans: Network, client: Rest
) -> None:
    good = {"age": 30, "income": 2.5, "region": "north", "branch": 1}
    rows = [good, good | {"age": None}, good | {"branch": None}, good | {"branch": 3.0}]
    answer = client.post("/v2/models/loans:predict", rows).json
    expected = loans(
        {
            "x": [[30, 2.5], [40, 2.5], [30, 2.5], [30, 2.5]],
            "region": ["north"] * 4,
            "branch": [1, 1, 2, 3],
        }
    )
    got = [each["y"]["values"] for each in answer["predictions"]]
    np.testing.assert_allclose(got, expected["y"], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"region": "nort"}, "one of its categories ('north', 'south'), got 'nort' in row 1"),
        ({"region": None}, "one of its categories ('north', 'south'), got a missing one in row 1"),
        ({"region": 1}, "input 'region': expected texts, got 1 in row 1"),
        ({"branch": 9}, "input 'branch': expected one of its categories (1, 2, 3), got 9 in row 1"),
        ({"branch": 1.5}, "input 'branch': expected integers of 64 bits, got 1.5 in row 1"),
        ({"branch": True}, "input 'branch': expected integers of 64 bits, got True in row 1"),
        ({"income": None}, "row 1: expected 'income' as a number, got null; fill it in"),
        ({"age": "old"}, "row 1: expected 'age' as a number, got the text 'old'; send a number"),
        ({"zip": 1}, "row 1: unknown feature 'zip'; leave it out"),
    ],
)
def test_a_value_without_an_answer_is_refused_by_its_row_and_name(
    client: Rest, change: dict[str, Any], says: str
) -> None:
    good = {"age": 30, "income": 2.5, "region": "north", "branch": 1}
    refused = client.post("/v2/models/loans:predict", [good, good | change])
    assert refused.status == 400
    assert says in refused.error


@pytest.mark.parametrize(
    ("feature", "says"),
    [
        ("income", "row 0: expected feature 'income', got none; send all features"),
        ("region", "row 0: expected 'region' as a category, got none; send all features"),
    ],
)
def test_a_missing_feature_is_named_and_no_other(client: Rest, feature: str, says: str) -> None:
    row: dict[str, Any] = {"age": 30, "income": 2.5, "region": "north", "branch": 1}
    del row[feature]
    assert says in client.post("/v2/models/loans:predict", row).error
    row[feature + "s"] = 1
    assert (
        f"is '{feature}s' meant to be '{feature}'?"
        in client.post("/v2/models/loans:predict", row).error
    )


def test_no_feature_is_there_twice(client: Rest) -> None:
    good = {"chins": 5, "situps": 162, "jumps": 60}
    path = "/v2/models/linnerud:predict"
    for whole in ({"x": good}, {"x": list(good.values())}):
        assert client.post(path, whole).json == client.post(path, good).json
        assert "unknown feature 'chins'" in client.post(path, whole | {"chins": 9}).error
    assert "unknown feature 'x'" in client.post(path, good | {"x": None}).error
    assert "unknown feature 'color'" in client.post(path, {"x": good | {"color": 1}}).error
    twice = json.dumps(good)[:-1] + ', "chins": 9}'
    assert "expected 'chins' once" in client.post(path, twice.encode()).error


def test_outputs_without_rows_are_no_predictions(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])
    mean = onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, [])
    node = onnx.helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0)
    graph = onnx.helper.make_graph([node], "mean", [x], [mean])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx_files.save(model, tmp_path / "mean" / "1" / "model.onnx")
    config = Config(
        models=tmp_path,
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        limits=Limits(general=True),
    )
    with Server(config) as server, Rest(server.http_port) as client:
        answer = client.post("/v2/models/mean:predict", [{"x": [1, 2]}, {"x": [3, 4]}])
        assert answer.status == 400
        assert "expected outputs with 2 rows, got 'mean'" in answer.error


def test_openapi_describes_the_models(client: Rest) -> None:
    page = client.get("/openapi.json").json
    assert page["openapi"] == "3.1.0"
    features, _ = names(client, "breast_cancer")
    content = page["paths"][PREDICT]["post"]["requestBody"]["content"]
    one, many = content["application/json"]["schema"]["oneOf"]
    assert one["required"] == features
    assert many["items"] == one
    assert "/v2/models/free/infer" in page["paths"]
    assert "/v2/models/free:predict" not in page["paths"]
    for path, operations in page["paths"].items():
        if "get" in operations:
            assert client.get(path).status == 200


def test_openapi_is_written_once_for_the_same_models(
    client: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.get("/openapi.json").json

    def never(*_: Any) -> Any:
        raise AssertionError("it was written again")

    monkeypatch.setattr(http_requests, "describe", never)
    for _ in range(3):
        assert client.get("/openapi.json").json == first


def test_openapi_shows_what_the_caller_may_read(root: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("\n".join(made.line for made in TOKENS.values()))
    tokens.chmod(0o600)
    config = Config(models=root, port=0, http_port=0, transport=Transport.ASYNCIO, tokens=tokens)
    with Server(config) as server, Rest(server.http_port) as client:
        assert client.get("/openapi.json").status == 401
        may = {name: {"Authorization": f"Bearer {made.token}"} for name, made in TOKENS.items()}
        page = client.call("GET", "/openapi.json", fields=may["read"]).json
        assert "/v2/models/linnerud" in page["paths"]
        assert "/v2/models/breast_cancer" not in page["paths"]
        row = {"x": [1] * 30}
        assert client.call("POST", PREDICT, row, may["read"]).status == 403
        assert client.call("POST", PREDICT, row, may["infer"]).status == 200
