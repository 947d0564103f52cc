"""Explanations over both transports and REST: right, in any batch, refused with a reason."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.rest import Rest
from support.rpc import Stub
from support.wire import arrays, infer_request

from forwardpass.models import Categorical, Dense, Input, Network, publish, quantize, to_onnx
from forwardpass.models.zoo import ZOO
from forwardpass.models.zoo.penguins import FEATURES as MEASURED
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.explain import Target
from forwardpass.server import Config, Server, Transport
from forwardpass.server.engine.explanations import make_explanation
from forwardpass.server.errors import NotExplainedError

CANCER = ZOO["breast_cancer"].network()
X = np.asarray(ZOO["breast_cancer"].held_out().x[:40], np.float32)
PENGUINS = ZOO["penguins"].network()
ROWS = dict(ZOO["penguins"].held_out()[:40].x)
INTEGERS = Network.define(
    [
        Input(2, "x", ("a", "b"), mean=[1, 2]),
        Input(2, "more"),
        Categorical("year", [2020, 2021], unknown="zeros"),
    ],
    [Dense("hidden", 5, "relu"), Dense("y", 1, "sigmoid", reads=("hidden", "more", "year"))],
    name="integers",
)
RELU = Network.chain(
    [30, 64, 32, 2],
    "relu",
    "softmax",
    input=Input(30, mean=X.mean(axis=0), scale=X.std(axis=0)),
    labels=["no", "yes"],
    name="relu",
)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, transport: Transport
) -> Iterator[tuple[Server, Stub]]:
    root = tmp_path_factory.mktemp("explained")
    for network in (CANCER, RELU, PENGUINS, INTEGERS):
        publish(network, root)
    publish(quantize(Network.chain([30, 8, 1], "relu", name="int8"), X), root)
    config = Config(models=root, port=0, http_port=0, transport=transport)
    with Server(config) as server, Stub(server.port) as stub:
        yield server, stub


def sent(rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    encoded = np.vectorize(str.encode, otypes=[object])
    return {name: encoded(each) if each.dtype.kind in "OU" else each for name, each in rows.items()}


def asked(
    model: str, x: NDArray[Any] | Mapping[str, NDArray[Any]], explain: str, **more: int
) -> pb.ModelInferRequest:
    request = infer_request(model, sent(x) if isinstance(x, Mapping) else {"x": x})
    request.parameters["explain"].string_param = explain
    for name, value in more.items():
        request.parameters[name].int64_param = value
    return request


def test_attributions_are_those_of_the_reference(served: Any) -> None:
    _, stub = served
    for network, explain, column in (
        (CANCER, "malignancy", 0),
        (CANCER, "worst:worst area", 3),
        (RELU, "y:yes", 1),
        (RELU, "y:0", 0),
    ):
        output = explain.split(":")[0]
        answer = arrays(stub.infer(asked(network.name, X, explain)))
        plain = arrays(stub.infer(infer_request(network.name, {"x": X})))
        assert list(answer) == [*plain, f"explain.{output}", f"explain.{output}.error"]
        for name, values in plain.items():
            np.testing.assert_array_equal(answer[name], values)
        wanted = network.explain(X, output, column)
        scale = np.ptp(plain[output][:, column])
        off = np.abs(answer[f"explain.{output}"] - wanted.attributions).max()
        assert off < 1e-5 * scale
        np.testing.assert_allclose(
            answer[f"explain.{output}.error"], wanted.error, atol=1e-5 * scale
        )


def test_rows_together_have_the_bits_of_single_ones(served: Any) -> None:
    _, stub = served
    for model, explain in (("breast_cancer", "malignancy"), ("relu", "y:yes")):
        whole = stub.infer(asked(model, X, explain)).raw_output_contents
        single = [stub.infer(asked(model, row[None], explain)).raw_output_contents for row in X]
        assert [b"".join(parts) for parts in zip(*single, strict=True)] == list(whole)


def mixed(count: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(4)
    return {
        "x": rng.normal(size=(count, 2)).astype(np.float32),
        "more": rng.normal(size=(count, 2)).astype(np.float32),
        "year": rng.choice([2020, 2021, 1], (count, 1)),
    }


def test_several_inputs_and_categories_are_those_of_the_reference_in_any_batch(
    served: Any,
) -> None:
    _, stub = served
    gaps = ROWS["measurements"].copy()
    gaps[::3, 1] = np.nan
    for network, rows, explain, column in (
        (PENGUINS, ROWS, "species:Gentoo", 2),
        (PENGUINS, ROWS | {"measurements": gaps}, "species:0", 0),
        (INTEGERS, mixed(40), "y", 0),
    ):
        output = explain.split(":")[0]
        whole = stub.infer(asked(network.name, rows, explain))
        answer = arrays(whole)
        wanted = network.explain(rows, output, column)
        plain = arrays(stub.infer(infer_request(network.name, sent(rows))))[output]
        np.testing.assert_array_equal(answer[output], plain)
        scale = np.ptp(plain[:, column])
        off = np.abs(answer[f"explain.{output}"] - wanted.attributions).max()
        assert off < 1e-5 * scale
        error = answer[f"explain.{output}.error"]
        np.testing.assert_allclose(error, wanted.error, atol=1e-5 * scale)
        single = [
            stub.infer(
                asked(network.name, {name: each[k : k + 1] for name, each in rows.items()}, explain)
            ).raw_output_contents
            for k in range(40)
        ]
        together = [b"".join(parts) for parts in zip(*single, strict=True)]
        assert together == list(whole.raw_output_contents)


def test_a_category_without_an_answer_is_explained_by_nan_alone(served: Any) -> None:
    _, stub = served
    rows = {name: each[:3].copy() for name, each in ROWS.items()}
    rows["island"] = np.array([["Dream"], ["Atlantis"], ["Dream"]])
    answer = arrays(stub.infer(asked("penguins", rows, "species:Adelie")))
    assert np.isnan(answer["explain.species.error"]).tolist() == [False, True, False]


def test_named_features_are_explained_by_name(served: Any) -> None:
    server, stub = served
    place = "/v2/models/penguins:predict?explain=species%3AGentoo&explain_steps=32"
    rows = [
        dict(zip(MEASURED, ROWS["measurements"][k].tolist(), strict=True))
        | {name: str(ROWS[name][k, 0]) for name in ("island", "sex")}
        for k in range(3)
    ]
    some = {name: each[:3] for name, each in ROWS.items()}
    wanted = arrays(stub.infer(asked("penguins", some, "species:Gentoo", explain_steps=32)))
    with Rest(server.http_port) as rest:
        answer = rest.post(place, rows).json["predictions"]
        for k, found in enumerate(answer):
            assert [*found] == ["species", "explain.species", "explain.species.error"]
            values = found["explain.species"]["values"]
            assert [*values] == [*MEASURED, "island", "sex"]
            np.testing.assert_array_equal(
                np.array([*values.values()], np.float32), wanted["explain.species"][k]
            )
            error = np.float32(found["explain.species.error"]["values"])
            assert error == wanted["explain.species.error"][k]
        assert [*rest.post("/v2/models/penguins:predict?other=1", rows[0]).json["predictions"][0]]
        row = {"x": [1, 2], "more": [3, 4], "year": 2020}
        (found,) = rest.post("/v2/models/integers:predict?explain=y", row).json["predictions"]
        assert [*found["explain.y"]["values"]] == ["a", "b", "more[0]", "more[1]", "year"]
        for query, text in (
            ("explain=risk", "an output of the model"),
            ("explain=", "an output of the model"),
            ("explain=species:0&explain_steps=63", "16, 32, 64, 128, 256"),
            ("explain=species:0&explain_steps=many", "16, 32, 64, 128, 256"),
            ("explain_steps=16", "got alone"),
        ):
            refused = rest.post(f"/v2/models/penguins:predict?{query}", rows[0])
            assert (refused.status, text in refused.error) == (400, True), refused.error


def test_openapi_says_what_can_be_asked_for(served: Any) -> None:
    server, _ = served
    with Rest(server.http_port) as rest:
        paths = rest.get("/openapi.json").json["paths"]
    predict = paths["/v2/models/penguins:predict"]["post"]
    infer = paths["/v2/models/penguins/infer"]["post"]["requestBody"]["content"]
    parameters = infer["application/json"]["schema"]["properties"]["parameters"]["properties"]
    assert [each["name"] for each in predict["parameters"]] == ["explain", "explain_steps"]
    assert {each["name"]: each["schema"] for each in predict["parameters"]} == parameters
    assert parameters["explain_steps"]["enum"] == [16, 32, 64, 128, 256]
    assert "species" in parameters["explain"]["description"]
    row = predict["requestBody"]["content"]["application/json"]["schema"]["oneOf"][0]
    island = {"type": ["array", "string"], "x-categories": ["Biscoe", "Dream", "Torgersen"]}
    assert row["properties"]["island"] == island


def test_steps_and_outputs_can_be_chosen(served: Any) -> None:
    _, stub = served
    request = asked("breast_cancer", X, "malignancy", explain_steps=16)
    request.outputs.add(name="malignancy")
    answer = arrays(stub.infer(request))
    assert list(answer) == ["malignancy", "explain.malignancy", "explain.malignancy.error"]
    wanted = CANCER.explain(X, "malignancy", steps=16)
    np.testing.assert_allclose(answer["explain.malignancy"], wanted.attributions, atol=1e-5)


def test_rest_has_the_same_answer(served: Any) -> None:
    server, stub = served
    body = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 30], "data": X[:2].reshape(-1).tolist()}
        ],
        "parameters": {"explain": "malignancy", "explain_steps": 32},
    }
    wanted = arrays(stub.infer(asked("breast_cancer", X[:2], "malignancy", explain_steps=32)))
    with Rest(server.http_port) as rest:
        answer = rest.post("/v2/models/breast_cancer/infer", body).json
    got = {each["name"]: np.reshape(each["data"], each["shape"]) for each in answer["outputs"]}
    for name, values in wanted.items():
        np.testing.assert_array_equal(np.asarray(got[name], np.float32), values)


@pytest.mark.parametrize(
    ("model", "parameters", "code", "text"),
    [
        ("breast_cancer", {"explain": "risk"}, "INVALID_ARGUMENT", r"worst, malignancy"),
        ("breast_cancer", {"explain": "worst"}, "INVALID_ARGUMENT", r"0 to 9, or a label"),
        ("breast_cancer", {"explain": "worst:10"}, "INVALID_ARGUMENT", r"got '10'"),
        ("breast_cancer", {"explain": 1}, "INVALID_ARGUMENT", r"expected a text"),
        ("breast_cancer", {"explain_steps": 64}, "INVALID_ARGUMENT", r"got alone"),
        (
            "breast_cancer",
            {"explain": "malignancy", "explain_steps": 63},
            "INVALID_ARGUMENT",
            r"one of 16, 32, 64, 128, 256 as an integer, got 63",
        ),
        (
            "int8",
            {"explain": "y"},
            "UNIMPLEMENTED",
            r"DequantizeLinear.*explain the float32 file that it was made from",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused(
    served: Any, model: str, parameters: Mapping[str, Any], code: str, text: str
) -> None:
    _, stub = served
    request = infer_request(model, {"x": X})
    for name, value in parameters.items():
        if isinstance(value, str):
            request.parameters[name].string_param = value
        else:
            request.parameters[name].int64_param = value
    refusal = stub.refusal("ModelInfer", request)
    assert refusal.code is grpc.StatusCode[code]
    assert re.search(text, refusal.message), refusal.message


def test_a_file_that_is_not_the_one_that_was_loaded_explains_nothing(
    tmp_path: Path, load: Any
) -> None:
    model = load(to_onnx(Network.chain([2, 1])), tmp_path)
    other = to_onnx(Network.chain([2, 1], seed=1))
    onnx.save(other, model.path)
    with pytest.raises(NotExplainedError, match="have it loaded again"):
        make_explanation(model, Target("y", 0), 16)


def test_few_explanations_are_kept(tmp_path: Path, load: Any) -> None:

    model = load(to_onnx(Network.chain([2, 40], "tanh")), tmp_path)
    for column in range(40):
        made = make_explanation(model, Target("y", column), 16)
        assert make_explanation(model, Target("y", column), 16) is made
    assert len(model.explanations) == 32
    assert (Target("y", 39), 16) in model.explanations
    assert made.statistics is model.statistics
