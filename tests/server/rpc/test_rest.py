"""REST answers as gRPC does: the same arrays, and the same texts with the statuses of one table."""

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import rest
from support.bad_requests import (
    Change,
    both,
    contents,
    message,
    outputs,
    parameter,
    tensor,
    twice,
    without,
)
from support.rest import HEADER_SIZE, Rest, elements
from support.rpc import Stub
from support.served import GOOD, X, Y
from support.wire import DTYPES, assert_same_bits, infer_request, texts

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.errors import STATUS, Status
from forwardpass.server.guard import Limits
from forwardpass.server.rpc.rest.long_texts import cut_long
from forwardpass.server.rpc.rest.statuses import HTTP_STATUS

MAX_BYTES = 2**24


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Server]:
    config = Config(
        models=repository,
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        limits=Limits(general=True),
        model_control=True,
    )
    with Server(config) as server:
        yield server


@pytest.fixture
def client(served: Server) -> Iterator[Rest]:
    with Rest(served.http_port) as client:
        yield client


@pytest.fixture(scope="module")
def grpc_stub(served: Server) -> Iterator[Stub]:
    with Stub(served.port) as stub:
        yield stub


def sent(client: Rest, request: pb.ModelInferRequest, *, binary: bool, back: bool) -> rest.Answer:
    body, fields = rest.infer_body(request, binary=binary, binary_outputs=back)
    return client.call("POST", rest.infer_path(request), body, fields)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
@pytest.mark.parametrize("name", GOOD)
def test_good_calls_are_answered_as_over_grpc(client: Rest, name: str, binary: bool) -> None:
    request = GOOD[name].request()
    halves = any(tensor.datatype == "FP16" for tensor in request.inputs)
    binary = binary or halves
    for back in (True,) if halves else (True, False):
        answer = sent(client, request, binary=binary, back=back)
        got = rest.arrays(answer)
        assert list(got) == list(GOOD[name].answer)
        for output, expected in GOOD[name].answer.items():
            assert_same_bits(got[output], expected)
        assert answer.json["model_name"] == request.model_name
        assert answer.json["model_version"] == "1"


BAD: dict[str, tuple[str, Change]] = {
    "model": ("linear", message(model_name="nobody")),
    "version": ("linear", message(model_version="7")),
    "no version": ("linear", message(model_version="abc")),
    "input": ("linear", tensor(name="z")),
    "datatype": ("linear", tensor(datatype="FP64")),
    "unknown datatype": ("linear", tensor(datatype="FP99")),
    "shape": ("linear", tensor(shape=[3, 2])),
    "rank": ("linear", tensor(shape=[6])),
    "negative": ("linear", tensor(shape=[-2, 3])),
    "huge": ("linear", tensor(shape=[2**62, 3])),
    "too few": ("linear typed", contents(fp32_contents=[1, 2, 3])),
    "too many": ("linear typed", contents(fp32_contents=[1] * 7)),
    "missing": ("pair", without(1)),
    "twice": ("pair", twice(0)),
    "output": ("linear", outputs("z")),
    "output twice": ("linear", outputs("y", "y")),
    "classes": ("linear", outputs("y", classification={"int64_param": 0})),
    "priority": ("linear", parameter("priority", string_param="high")),
    "range": ("INT8 typed", contents(int_contents=[1, 300])),
    "several": ("linear", both(tensor(name="z"), tensor(shape=[1]))),
    "region": ("linear", outputs("y", shared_memory_region={"string_param": "r"})),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_are_refused_in_the_words_of_grpc(
    client: Rest, grpc_stub: Stub, case: str
) -> None:
    good, change = BAD[case]
    request = GOOD[good].request()
    # Of bytes that do not fit a shape no JSON is made.
    binary = bool(request.raw_input_contents)
    change(request)

    refusal = grpc_stub.refusal("ModelInfer", request)
    answer = sent(client, request, binary=binary, back=False)

    assert answer.error == refusal.message
    assert answer.status == HTTP_STATUS[Status[refusal.code.name]]
    assert rest.arrays(sent(client, GOOD[good].request(), binary=False, back=False))


@pytest.mark.parametrize("calls", [300, pytest.param(5_000, marks=pytest.mark.slow)])
def test_random_calls_are_answered_alike(client: Rest, grpc_stub: Stub, calls: int) -> None:
    rng = random.Random(17)
    names, bad = list(GOOD), list(BAD.values())
    for _ in range(calls):
        good, change = rng.choice(bad) if rng.random() < 0.3 else (rng.choice(names), None)
        request = GOOD[good].request()
        raw = bool(request.raw_input_contents)
        request.id = rng.choice(("", "1", "ü\n"))
        if change is not None:
            change(request)
        body, fields = rest.infer_body(request, binary=raw, binary_outputs=True)
        answer = client.call("POST", rest.infer_path(request), body, fields)
        if answer.status != 200:
            refusal = grpc_stub.refusal("ModelInfer", request)
            assert answer.error == refusal.message
            assert answer.status == HTTP_STATUS[Status[refusal.code.name]]
            continue
        reply = grpc_stub.infer(request)
        assert answer.json.get("id", "") == reply.id
        size = int(answer.fields.get(HEADER_SIZE.lower(), len(answer.body)))
        assert answer.body[size:] == b"".join(reply.raw_output_contents)
        assert [each["name"] for each in answer.json["outputs"]] == [e.name for e in reply.outputs]


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_comes_back_unchanged(client: Rest, datatype: str) -> None:
    rng = np.random.default_rng(1)
    if datatype == "BYTES":
        array: Any = texts(b"", "ü".encode(), b'"\\').reshape(1, 3)
    else:
        array = np.frombuffer(rng.bytes(24 * 8), DTYPES[datatype])[:6].reshape(2, 3)
        if datatype == "BOOL":
            array = rng.random((2, 3)) < 0.5
        if datatype.startswith("FP"):
            # Of NaNs there are many, and JSON has one.
            array = np.nan_to_num(array, nan=1.5, posinf=np.inf, neginf=-np.inf)
    request = infer_request(f"echo_{datatype.lower()}_2", {"x": array})
    for binary in (True, False) if datatype != "FP16" else (True,):
        got = rest.arrays(sent(client, request, binary=binary, back=binary))
        assert_same_bits(got["y"], array)


def test_words_that_are_no_numbers_are_taken_bare_and_answered_as_strings(client: Rest) -> None:
    body = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[4],"data":[NaN,Infinity,-Infinity,1]}]}'
    )
    answer = client.post("/v2/models/echo_fp32_1/infer", body)
    data = answer.json["outputs"][0]["data"]
    assert data == ["NaN", "Infinity", "-Infinity", 1.0]
    # What was answered is taken as well.
    again = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": data}]}
    assert client.post("/v2/models/echo_fp32_1/infer", again).json["outputs"][0]["data"] == data


def test_nested_lists_are_the_shape(client: Rest) -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": X.tolist()}
    answer = client.post("/v2/models/linear/infer", {"inputs": [entry]})
    assert answer.json["outputs"][0]["data"] == elements(Y)
    entry["data"] = [[1, 2], [3, 4], [5, 6]]
    assert "nested lists" in client.post("/v2/models/linear/infer", {"inputs": [entry]}).error


ODD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "body: expected JSON"),
    "no text": (b"\xff", "body: expected JSON"),
    "deep": (b"[" * 100_000, "body: expected JSON"),
    "digits": (b'{"inputs":' + b"1" * 10_000 + b"}", "body: expected JSON"),
    "a list": ([], "body: expected an object, got a list"),
    "nothing": (b"", "body: expected JSON"),
    "no inputs": ({}, "inputs: expected a list"),
    "inputs": ({"inputs": [1]}, "inputs[0]: expected an object"),
    "id": ({"inputs": [], "id": 1}, "id: expected a string, got an integer"),
    "half a character": ({"inputs": [], "id": "\ud800"}, "id: expected Unicode"),
    "shape": ({"inputs": [{"name": "x", "datatype": "FP32", "data": [1]}]}, "inputs[0].shape"),
    "name": ({"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]}, "inputs[0].name"),
    "parameters": ({"inputs": [], "parameters": 1}, "parameters, parameters: expected an object"),
    "parameter": ({"inputs": [], "parameters": {"a": [1]}}, "parameter 'a': expected a boolean"),
    "outputs": ({"inputs": [], "outputs": 1}, "outputs: expected a list"),
    "flag": ({"inputs": [], "parameters": {"binary_data_output": 1}}, "expected a boolean"),
    "text": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ["1", 2, 3]}]},
        "input 'x', data: expected numbers, got a string",
    ),
    "boolean": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [True, 2, 3]}]},
        "input 'x', data: expected numbers, got a boolean",
    ),
    "overflow": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1e39, 2, 3]}]},
        "input 'x': expected FP32 values within its range",
    ),
    "above float64": (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1e400,2,3]}]}',
        "input 'x': expected FP32 values within its range",
    ),
    "integer above float64": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [10**400, 2, 3]}]},
        "input 'x': expected FP32 values within its range",
    ),
    "bare word of another kind": (
        {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [math.nan]}]},
        "input 'x', data: expected integers, got a number",
    ),
    "half a character as a name": (
        {"inputs": [], "parameters": {"\ud800": 1}},
        "parameters: expected Unicode",
    ),
    "no list": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": 1}]},
        "input 'x', data: expected a list, got an integer",
    ),
    "size": (
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 3],
                    "parameters": {"binary_data_size": 12},
                }
            ]
        },
        "binary_data_size: expected the sizes of all inputs to be the 0 bytes",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_bodies_that_no_grpc_call_can_have_are_refused(client: Rest, case: str) -> None:
    body, says = ODD[case]
    answer = client.post("/v2/models/linear/infer", body)
    assert answer.status == 400
    assert says in answer.error
    assert client.get("/v2/health/live").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        "/v2/repository/models/linear/load",
        "/v2/logging",
    ],
)
def test_names_that_no_message_can_have_are_refused(client: Rest, path: str) -> None:
    body = {"\ud800": 1, "repository_name": "\ud800", "parameters": {"\ud800": 1}}
    assert "expected Unicode" in client.post(path, body).error
    assert client.get("/v2/health/live").status == 200


INPUT = '{"name":"x","datatype":"FP32","shape":[2,3]'


@pytest.mark.parametrize(
    "text",
    [
        f'{{"data":[1,2,3,4,5,6],"inputs":[{INPUT}}}]}}',
        f'{{"inputs":[{INPUT},"data":[1,2,3,4,5,6]}}],"inputs":[{INPUT}}}]}}',
        f'{{"inputs":[{INPUT},"a":{{"data":[1,2,3,4,5,6]}}}}]}}',
    ],
    ids=["beside", "replaced", "within"],
)
def test_data_of_something_else_is_no_input(client: Rest, text: str) -> None:
    # Again and again: what was sent before is read faster.
    for _ in range(4):
        assert "got none" in client.post("/v2/models/linear/infer", text.encode()).error


def test_what_was_sent_nested_is_no_pattern_for_what_is_no_json(client: Rest) -> None:
    start = f'{{"inputs":[{INPUT},"data":'
    for _ in range(3):
        good = f"{start}[[1,2,3],[4,5,6]]}}]}}".encode()
        assert client.post("/v2/models/linear/infer", good).status == 200
    bad = f"{start}[1,2,3,4,5,6],[4,5,6]]}}]}}".encode()
    assert "expected JSON" in client.post("/v2/models/linear/infer", bad).error


def test_sizes_of_the_json_have_to_fit(client: Rest) -> None:
    path = "/v2/models/linear/infer"
    assert client.call("POST", path, b"{}", {HEADER_SIZE: "3"}).status == 400
    assert client.call("POST", path, b"{}", {HEADER_SIZE: "-1"}).status == 400
    assert client.call("POST", path, b"{}xx", {HEADER_SIZE: "2"}).status == 400


LONG = np.arange(60_000) % 100


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT8", "UINT64", "INT64"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_long_lists_are_read_in_parts(client: Rest, datatype: str, nested: bool) -> None:
    array = LONG.astype(DTYPES[datatype]).reshape(30, 2000)
    if datatype == "FP32":
        array[0, :3] = -0.0, np.inf, 1.25
    data = array.tolist() if nested else array.ravel().tolist()
    entry = {"name": "x", "datatype": datatype, "shape": [30, 2000], "data": data}
    path = f"/v2/models/echo_{datatype.lower()}_2/infer"
    body = {"inputs": [entry], "parameters": {"binary_data_output": True}, "id": '"\\"[1,'}
    answer = client.post(path, body)
    assert_same_bits(rest.arrays(answer)["y"], array)
    assert answer.json["id"] == '"\\"[1,'
    assert rest.arrays(client.post(path, {"inputs": [entry]}))["y"].tolist() == array.tolist()


def test_long_lists_are_refused_as_short_ones_are(client: Rest, grpc_stub: Stub) -> None:
    request = infer_request("echo_int8_1", {"x": np.zeros(60_001, np.int8)}, typed=True)
    request.inputs[0].shape[:] = [60_000]
    wanted = grpc_stub.refusal("ModelInfer", request).message
    path = "/v2/models/echo_int8_1/infer"
    entry: dict[str, Any] = {"name": "x", "datatype": "INT8", "shape": [60_000]}

    def refused(data: list[Any], **changed: Any) -> str:
        return client.post(path, {"inputs": [entry | changed | {"data": data}]}).error

    assert refused([0] * 60_001) == wanted
    request.inputs[0].contents.int_contents[:] = [0] * 59_999 + [300]
    wanted = grpc_stub.refusal("ModelInfer", request).message
    assert refused([0] * 59_999 + [300]) == wanted
    assert "expected integers" in refused([0] * 59_999 + [0.5])
    assert "expected numbers" in refused([0] * 59_999 + ["a"])
    for place in (0, 30_000):
        # JSON of Python has no such number.
        digits = ["0"] * 60_000
        digits[place] = "1e400"
        start = '{"inputs":[{"name":"x","datatype":"FP32","shape":[60000],"data":['
        long = f"{start}{','.join(digits)}]}}]}}".encode()
        assert "too large" in client.post("/v2/models/echo_fp32_1/infer", long).error
    assert "expected numbers" in refused([0] * 59_999 + [True])
    assert "expected BOOL, got numbers" in refused([0] * 60_000, datatype="BOOL")
    assert "expected BYTES, got numbers" in refused([0] * 60_000, datatype="BYTES")
    assert (
        "expected FP16 as raw"
        in client.post(
            "/v2/models/echo_fp16_1/infer",
            {"inputs": [entry | {"datatype": "FP16", "data": [0] * 60_000}]},
        ).error
    )
    assert "nested lists" in refused([[0] * 30_000, [0] * 30_001], shape=[2, 30_000])
    assert "expected JSON" in client.post(path, b'{"inputs":[' + b"1,,1" * 30_000 + b"]}").error
    assert client.post(path, b"[" * 100_000).status == 400
    many = {"inputs": [entry | {"data": [[0]] * 300_000}]}
    answer = client.post(path, many)
    assert answer.status == 413
    assert "flat list" in answer.error
    text = "1," * 40_000
    request = infer_request("echo_bytes_1", {"x": texts(text.encode())})
    got = rest.arrays(sent(client, request, binary=False, back=False))
    assert got["y"].tolist() == [text.encode()]


def test_quotes_and_backslashes_may_stand_anywhere_in_long_texts() -> None:
    rng = random.Random(3)
    for _ in range(100):
        # Around where a text is cut into windows.
        text = '\\"' * rng.randrange(40) + "\\" * rng.randrange(5) + "1,2," * rng.choice([0, 2000])
        sent = {
            "a": "x" * (2**16 - rng.randrange(90)),
            "b": text + '"',
            "data": [rng.choice([1, 2.5, -3]) for _ in range(3000)],
            "c": text,
        }
        kept, parts = cut_long(json.dumps(sent).encode(), MAX_BYTES)
        got = json.loads(kept)
        data = [
            parts[each].numbers.tolist() if each in parts else [each] for each in got.pop("data")
        ]
        assert [one for each in data for one in each] == sent.pop("data")
        assert got == sent


def test_texts_that_are_nearly_long_lists_take_no_longer_than_lists() -> None:
    def took_s(text: bytes) -> float:
        times = []
        for _ in range(3):
            begun = time.process_time()
            cut_long(text, MAX_BYTES)
            times.append(time.process_time() - begun)
        return sorted(times)[1]

    numbers = b"[" + b"1," * 250_000 + b"1]"
    nearly = b'["' + (b"1" * 2047 + b"a") * 250 + b'"]'
    assert took_s(nearly) < 3 * took_s(numbers)


def test_long_lists_become_the_bits_of_short_ones(client: Rest) -> None:
    # Between two float32 values, and a little more than float64 has digits for.
    numbers = [2**60 + 2**36 + 1, 2**24 + 1, 2**63 + 2**39 + 1]
    path = "/v2/models/echo_fp32_1/infer"

    def answered(data: list[int]) -> list[float]:
        entry = {"name": "x", "datatype": "FP32", "shape": [len(data)], "data": data}
        found: list[float] = client.post(path, {"inputs": [entry]}).json["outputs"][0]["data"]
        return found

    for number in numbers:
        assert set(answered([number] * 20_000)) == set(answered([number]))


def test_halves_go_in_binary_alone(client: Rest) -> None:
    array = np.array([1, 2.5], np.float16)
    entry = {"name": "x", "datatype": "FP16", "shape": [2], "data": [1, 2.5]}
    path = "/v2/models/echo_fp16_1/infer"
    assert "expected FP16 as raw_input_contents" in client.post(path, {"inputs": [entry]}).error
    request = infer_request("echo_fp16_1", {"x": array})
    assert "binary_data" in sent(client, request, binary=True, back=False).error


def test_classes_are_strings(client: Rest) -> None:
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 3, 1, 2]}],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    }
    (output,) = client.post("/v2/models/scores/infer", body).json["outputs"]
    assert output["datatype"] == "BYTES"
    assert [text.split(":")[1] for text in output["data"]] == ["1", "3"]


def test_outputs_are_binary_each_as_asked(client: Rest) -> None:
    request = GOOD["pair"].request()
    body = {
        "inputs": [
            {"name": n, "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]} for n in "ab"
        ],
        "outputs": [
            {"name": "total", "parameters": {"binary_data": True}},
            {"name": "difference"},
        ],
    }
    answer = client.post(rest.infer_path(request), body)
    total, difference = answer.json["outputs"]
    assert total["parameters"] == {"binary_data_size": 16}
    assert "data" not in total
    assert difference["data"] == [0] * 4
    assert rest.arrays(answer)["total"].ravel().tolist() == [2, 4, 6, 8]


def test_metadata_is_that_of_grpc(client: Rest, grpc_stub: Stub) -> None:
    server = grpc_stub.call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert client.get("/v2").json == {
        "name": server.name,
        "version": server.version,
        "extensions": list(server.extensions),
    }
    for path in ("/v2/models/scores", "/v2/models/scores/versions/1"):
        found = client.get(path).json
        request = pb.ModelMetadataRequest(name="scores")
        model = grpc_stub.call("ModelMetadata", request, pb.ModelMetadataResponse)
        assert found["versions"] == ["1"]
        assert found["properties"] == dict(model.properties)
        assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    config = client.get("/v2/models/scores/config").json
    assert config["name"] == "scores"
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert config["input"][0]["dims"] == [4]


def test_states_are_statuses(client: Rest) -> None:
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True}
    assert client.get("/v2/models/linear/ready").json == {"name": "linear", "ready": True}
    gone = client.get("/v2/models/nobody/ready")
    assert gone.status == 503
    assert gone.json == {"name": "nobody", "ready": False}


def test_statistics_count_calls_of_both(client: Rest, grpc_stub: Stub) -> None:
    def counted(path: str) -> int:
        (found,) = client.get(path).json["model_stats"]
        return int(found["inference_stats"]["success"]["count"])

    before = counted("/v2/models/fold/stats")
    sent(client, GOOD["fold"].request(), binary=True, back=True)
    grpc_stub.infer(GOOD["fold"].request())
    assert counted("/v2/models/fold/versions/1/stats") == before + 2
    assert len(client.get("/v2/models/stats").json["model_stats"]) > 10


def test_models_are_listed_loaded_and_unloaded(client: Rest) -> None:
    listed = {each["name"]: each for each in client.post("/v2/repository/index").json}
    assert listed["linear"] == {"name": "linear", "version": "1", "state": "READY", "reason": ""}
    assert client.get("/v2/repository/index").status == 200
    ready = client.post("/v2/repository/index", {"ready": True}).json
    assert "garbage" not in {each["name"] for each in ready}
    assert client.post("/v2/repository/models/square/unload", {}).json == {}
    assert client.get("/v2/models/square/ready").status == 503
    body = {"parameters": {"unload_dependents": False}}
    assert client.post("/v2/repository/models/square/unload", body).status == 200
    json_type = {"content_type": "application/json"}
    assert client.post("/v2/repository/models/square/load", {}, **json_type).json == {}
    assert client.get("/v2/models/square/ready").status == 200
    assert client.post("/v2/repository/models/nobody/load").status == 404
    assert client.post("/v2/repository/models/garbage/load").status == 400
    assert (
        "config"
        in client.post("/v2/repository/models/square/load", {"parameters": {"config": "{}"}}).error
    )


def test_the_log_and_shared_memory_are_set_as_over_grpc(client: Rest, grpc_stub: Stub) -> None:
    settings = client.get("/v2/logging").json
    reply = grpc_stub.call("LogSettings", pb.LogSettingsRequest(), pb.LogSettingsResponse)
    assert settings.keys() == reply.settings.keys()
    assert client.post("/v2/logging", {"log_info": True}).json["log_info"] is True
    assert client.post("/v2/logging", {"log_info": [1]}).status == 400
    assert client.get("/v2/systemsharedmemory/status").json == []
    path = "/v2/systemsharedmemory/region/r/"
    body = {"key": "/r", "offset": 0, "byte_size": 8}
    refused = client.post(path + "register", body)
    request = pb.SystemSharedMemoryRegisterRequest(name="r", key="/r", byte_size=8)
    refusal = grpc_stub.refusal("SystemSharedMemoryRegister", request)
    assert refused.error == refusal.message
    assert refused.status == 403
    assert client.post(path + "register", body | {"byte_size": -1}).status == 400
    assert client.post(path + "unregister").status in (200, 403)
    assert client.get(path + "status").status in (200, 403, 404)
    assert client.get("/v2/systemsharedmemory/region").status == 404


def test_pages_in_a_browser_change_nothing(client: Rest) -> None:
    path = "/v2/repository/models/square/unload"
    assert client.post(path, {}, content_type="text/plain").status == 415
    assert client.post(path, {}, origin="http://evil.example").status == 403
    assert client.get("/v2/models/square/ready").status == 200


def test_paths_and_methods(client: Rest) -> None:
    for path in (
        "/ui/api/x",
        "/v1",
        "/v2/models",
        "/v2/models/a/b",
        "/v2/models/a/versions",
        "/v2/x%2",
    ):
        answer = client.get(path)
        assert answer.status == 404
        assert f"unknown path '{path}" in answer.error
        assert "/openapi.json" in answer.error
    answer = client.call("PUT", "/v2/models/linear")
    assert answer.status == 405
    assert answer.fields["allow"] == "GET, HEAD"
    assert client.get("/v2/models/linear/infer").fields["allow"] == "POST"
    assert client.get("/v2/models/%6cinear?x=1").json["name"] == "linear"
    assert client.get("http://localhost/v2/models/linear").json["name"] == "linear"
    assert client.get("/v2/%ff").status == 400


def test_every_error_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(Status)
    assert set(STATUS.values()) <= set(HTTP_STATUS)
