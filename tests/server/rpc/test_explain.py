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

from forwardpass.models import Input, Network, publish, quantize, to_onnx
from forwardpass.models.zoo import ZOO
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.explain import Target
from forwardpass.server import Config, Server, Transport
from forwardpass.server.engine.explanations import make_explanation
from forwardpass.server.errors import NotExplainedError

CANCER = ZOO["breast_cancer"].network()
X = np.asarray(ZOO["breast_cancer"].held_out().x[:40], np.float32)
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
    for network in (CANCER, RELU):
        publish(network, root)
    publish(quantize(Network.chain([30, 8, 1], "relu", name="int8"), X), root)
    config = Config(models=root, port=0, http_port=0, transport=transport)
    with Server(config) as server, Stub(server.port) as stub:
        yield server, stub


def asked(model: str, x: NDArray[Any], explain: str, **more: int) -> pb.ModelInferRequest:
    request = infer_request(model, {"x": x})
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
        ("int8", {"explain": "y"}, "UNIMPLEMENTED", r"DequantizeLinear"),
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
