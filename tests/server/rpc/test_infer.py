"""ModelInfer answers: the right bits, the right names, for every datatype, shape and caller."""

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from support import onnx_files
from support.rpc import Stub
from support.served import GOOD, LABELS, RANKS, assert_answered, echo
from support.wire import DTYPES, TYPED_FIELDS, arrays, assert_same_bits, infer_request, texts

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config

pytestmark = pytest.mark.usefixtures("transport")

INTEGERS = [name for name, dtype in DTYPES.items() if dtype.kind in "iu"]
FLOATS = ["FP16", "FP32", "FP64"]

EDGES: dict[str, NDArray[Any]] = {
    "BOOL": np.array([True, False]),
    "BYTES": texts(b"", b"text", "Grüße 😀".encode(), b"a\0b\0", b"\0", b"\n'\"\\"),
}
for _name in INTEGERS:
    _integers: Any = np.iinfo(DTYPES[_name].name)
    EDGES[_name] = np.array([_integers.min, 1, _integers.max], DTYPES[_name])
for _name in FLOATS:
    _floats: Any = np.finfo(DTYPES[_name].name)
    _values = [0.1, -0.0, np.inf, -np.inf, np.nan, _floats.max, _floats.smallest_subnormal]
    EDGES[_name] = np.array(_values, DTYPES[_name])
"""Values that a careless way would change."""

SHAPE = (3, 2, 1, 4)


def edges(datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(shape, DTYPES[datatype])
    array.ravel()[:] = list(islice(cycle(EDGES[datatype]), array.size))
    return array


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_tensors_come_back_bit_for_bit(stub: Stub, datatype: str, rank: int) -> None:
    x = edges(datatype, SHAPE[:rank])

    reply = stub.infer(infer_request(echo(datatype, rank), {"x": x}))

    assert [output.datatype for output in reply.outputs] == [datatype]
    assert_same_bits(arrays(reply)["y"], x)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("datatype", TYPED_FIELDS)
def test_typed_tensors_come_back_as_raw_ones(stub: Stub, datatype: str, rank: int) -> None:
    x = edges(datatype, SHAPE[:rank])

    reply = stub.infer(infer_request(echo(datatype, rank), {"x": x}, typed=True))

    assert not any(output.HasField("contents") for output in reply.outputs)
    assert_same_bits(arrays(reply)["y"], x)


@pytest.mark.parametrize("typed", [False, True], ids=["raw", "typed"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (0, 0, 0, 0)])
@pytest.mark.parametrize("datatype", TYPED_FIELDS)
def test_tensors_without_elements_keep_their_shape(
    stub: Stub, datatype: str, shape: tuple[int, ...], typed: bool
) -> None:
    x = np.empty(shape, DTYPES[datatype])

    reply = stub.infer(infer_request(echo(datatype, len(shape)), {"x": x}, typed=typed))

    assert_same_bits(arrays(reply)["y"], x)


def test_no_rows_give_no_rows(stub: Stub) -> None:
    reply = stub.infer(infer_request("linear", {"x": np.empty((0, 3), np.float32)}))

    assert_same_bits(arrays(reply)["y"], np.empty((0, 2), np.float32))


def test_no_rows_need_no_contents(stub: Stub) -> None:
    request = infer_request("linear", {"x": np.empty((0, 3), np.float32)}, typed=True)
    request.inputs[0].ClearField("contents")

    assert arrays(stub.infer(request))["y"].shape == (0, 2)


@pytest.mark.parametrize("call", GOOD.values(), ids=GOOD)
def test_every_model_gives_its_answer(stub: Stub, call: Any) -> None:
    assert_answered(stub, call)


@pytest.mark.parametrize("rows", [1, 2, 7, 1000, 100_003])
def test_a_dynamic_axis_takes_any_length(stub: Stub, rows: int) -> None:
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) % 11

    reply = stub.infer(infer_request("linear", {"x": x}))

    assert_same_bits(arrays(reply)["y"], x @ onnx_files.W.T + onnx_files.B)


A = np.array([[1, 2]], np.float32)
B = np.array([[3, 5]], np.float32)
PAIR = {"a": A, "b": B}


def test_inputs_may_come_in_any_order(stub: Stub) -> None:
    reply = stub.infer(infer_request("pair", {"b": B, "a": A}))

    assert_same_bits(arrays(reply)["difference"], A - B)


def test_without_a_request_all_outputs_come_in_the_graphs_order(stub: Stub) -> None:
    assert list(arrays(stub.infer(infer_request("pair", PAIR)))) == ["total", "difference"]


@pytest.mark.parametrize(
    "wanted", [("total",), ("difference",), ("total", "difference"), ("difference", "total")]
)
def test_requested_outputs_come_in_the_order_asked(stub: Stub, wanted: tuple[str, ...]) -> None:
    got = arrays(stub.infer(infer_request("pair", PAIR, outputs=wanted)))

    assert tuple(got) == wanted
    for name, expected in {"total": A + B, "difference": A - B}.items():
        if name in wanted:
            assert_same_bits(got[name], expected)


@pytest.mark.parametrize("identifier", ["", "42", "ü" * 1000])
def test_the_id_is_echoed(stub: Stub, identifier: str) -> None:
    assert stub.infer(infer_request("pair", PAIR, id=identifier)).id == identifier


@pytest.mark.parametrize("version", ["", "1", "01", "0001"])
def test_the_reply_names_model_and_version_that_ran(stub: Stub, version: str) -> None:
    reply = stub.infer(infer_request("pair", PAIR, model_version=version))

    assert (reply.model_name, reply.model_version) == ("pair", "1")


def test_versions_answer_beside_each_other_and_the_latest_by_default(tmp_path: Path) -> None:
    for version in (2, 9, 10):
        model = onnx_files.linear()
        # Version v adds v.
        model.graph.initializer[1].raw_data = np.full(2, version, np.float32).tobytes()
        onnx_files.save(model, tmp_path / "model" / str(version) / "model.onnx")
    with Server(Config(models=tmp_path, port=0)) as server, Stub(server.port) as stub:
        for asked, ran in {"2": 2, "9": 9, "10": 10, "": 10}.items():
            zeros = {"x": np.zeros((1, 3), np.float32)}
            reply = stub.infer(infer_request("model", zeros, model_version=asked))
            assert reply.model_version == str(ran)
            assert arrays(reply)["y"].tolist() == [[ran, ran]]


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_answered(stub: Stub, algorithm: grpc.Compression) -> None:
    x = np.zeros((500, 3), np.float32)

    reply = stub.infer(infer_request("linear", {"x": x}), compression=algorithm)

    assert arrays(reply)["y"].shape == (500, 2)


@pytest.mark.parametrize(
    "identifier", ["", "i", "i" * 127, "i" * 128, "i" * 300, "i" * 20_000, "ü", "\0", "\x7f\n"]
)
def test_a_repeated_call_is_answered_for_its_own_bytes(stub: Stub, identifier: str) -> None:
    for turn in range(4):
        a, b = np.full((2, 2), turn, np.float32), np.full((2, 2), 10 * turn, np.float32)
        for inputs in ({"a": a, "b": b}, {"b": b, "a": a}):
            reply = stub.infer(infer_request("pair", inputs, id=identifier))
            assert reply.id == identifier
            assert (reply.model_name, reply.model_version) == ("pair", "1")
            assert_same_bits(arrays(reply)["difference"], a - b)


def test_a_repeated_call_with_other_rows_is_answered_for_its_own(stub: Stub) -> None:
    for rows in (1, 3, 1, 0, 3, 2, 0, 1):
        x = np.full((rows, 3), rows, np.float32)
        reply = stub.infer(infer_request("linear", {"x": x}))
        assert_same_bits(arrays(reply)["y"], x @ onnx_files.W.T + onnx_files.B)


def test_repeated_text_is_answered_for_its_own(stub: Stub) -> None:
    # Two tensors of one shape and one number of bytes.
    for x in (texts(b"ab", b""), texts(b"a", b"b"), texts(b"", b"ab")):
        assert_same_bits(arrays(stub.infer(infer_request("echo_bytes_1", {"x": x})))["y"], x)


def test_unknown_parameters_are_ignored(stub: Stub) -> None:
    request = infer_request("pair", PAIR, outputs=["total"])
    choices: dict[str, Any] = {
        "bool_param": True,
        "int64_param": -1,
        "string_param": "x",
        "double_param": 0.5,
        "uint64_param": 2**64 - 1,
    }
    for kind, value in choices.items():
        for holder in (request, request.inputs[0], request.outputs[0]):
            holder.parameters[f"my_{kind}"].CopyFrom(pb.InferParameter(**{kind: value}))
    request.parameters["of_no_choice"].SetInParent()

    assert_same_bits(arrays(stub.infer(request))["total"], A + B)


@pytest.mark.parametrize("choice", [{"int64_param": 1}, {"uint64_param": 1}])
def test_priority_and_timeout_are_taken_as_integers(stub: Stub, choice: dict[str, Any]) -> None:
    request = infer_request("pair", PAIR)
    for name in ("priority", "timeout"):
        request.parameters[name].CopyFrom(pb.InferParameter(**choice))

    stub.infer(request)


def test_unknown_fields_are_ignored(stub: Stub) -> None:
    later_field = b"\xa2\x06\x02hi"  # number 100, two bytes

    stub.infer(infer_request("pair", PAIR).SerializeToString() + later_field)


def classified(stub: Stub, model: str, x: NDArray[Any], classes: int) -> NDArray[Any]:
    request = infer_request(model, {"x": x}, outputs=["y"])
    request.outputs[0].parameters["classification"].int64_param = classes
    reply = stub.infer(request)
    assert [output.datatype for output in reply.outputs] == ["BYTES"]
    return arrays(reply)["y"]


def test_classification_gives_the_highest_columns_with_their_labels(stub: Stub) -> None:
    x = np.array([[0.1, 0.7, 0.2, 0], [3, 1, 2, 4]], np.float32)

    assert classified(stub, "scores", x, 2).tolist() == [
        [b"0.700000:1:versicolor", b"0.200000:2:virginica"],
        [b"4.000000:3:none", b"3.000000:0:setosa"],
    ]


def test_classification_without_labels(stub: Stub) -> None:
    x = np.array([[0.25, 0.75]], np.float32)

    assert classified(stub, "echo_fp32_2", x, 1).tolist() == [[b"0.750000:1"]]


def test_classification_of_ties_keeps_the_columns_order(stub: Stub) -> None:
    x = np.array([[1, 2, 2, 1]], np.float32)

    assert [text.split(b":")[1] for text in classified(stub, "scores", x, 4)[0]] == [
        b"1",
        b"2",
        b"0",
        b"3",
    ]


def test_classification_of_integers_has_no_decimals(stub: Stub) -> None:
    assert classified(stub, "counts", np.array([[7, -3, 12]]), 2).tolist() == [[b"12:2", b"7:0"]]


def test_classification_of_large_integers_is_exact(stub: Stub) -> None:
    largest = 2**63 - 1

    assert classified(stub, "counts", np.array([[0, largest - 1, largest]]), 1).tolist() == [
        [f"{largest}:2".encode()]
    ]


def test_more_classes_than_columns_are_all_columns(stub: Stub) -> None:
    x = np.zeros((1, 4), np.float32)

    assert classified(stub, "scores", x, 2**40).shape == (1, len(LABELS))


def test_classification_above_rank_two_ranks_a_row_as_a_whole(stub: Stub) -> None:
    x = np.array([[[1, 5, 3], [2, 9, 4]], [[6, 0, 1], [2, 3, 4]]], np.float32)

    assert classified(stub, "echo_fp32_3", x, 2).tolist() == [
        [b"9.000000:4", b"5.000000:1"],
        [b"6.000000:0", b"4.000000:5"],
    ]
    assert classified(stub, "echo_fp32_3", np.empty((0, 2, 3), np.float32), 2).shape == (0, 2)


def test_classification_of_no_rows(stub: Stub) -> None:
    assert classified(stub, "scores", np.empty((0, 4), np.float32), 2).shape == (0, 2)


def trailers(stub: Stub, request: pb.ModelInferRequest) -> dict[str, str]:
    _, call = stub.method("ModelInfer", pb.ModelInferResponse).with_call(request, timeout=10)
    return dict(call.trailing_metadata())


def test_the_timing_of_a_call_is_reported_when_asked(stub: Stub) -> None:
    request = infer_request("pair", PAIR)
    request.parameters["forwardpass_timing"].bool_param = True

    parts = dict(
        part.split("=") for part in trailers(stub, request)["forwardpass-timing"].split(",")
    )

    assert list(parts) == ["decode", "queue", "compute", "encode"]
    assert all(0 <= float(microseconds) < 1e6 for microseconds in parts.values())
    assert float(parts["compute"]) > 0


def test_the_timing_of_a_call_is_not_reported_unasked(stub: Stub) -> None:
    assert "forwardpass-timing" not in trailers(stub, infer_request("pair", PAIR))


def test_each_of_many_callers_gets_its_own_answer(stub: Stub) -> None:
    def caller(number: int) -> None:
        for turn in range(25):
            x = np.full((1 + number % 3, 3), number * 100 + turn, np.float32)
            request = infer_request("linear", {"x": x}, id=f"{number}/{turn}")
            reply = stub.infer(request)
            assert reply.id == request.id
            assert_same_bits(arrays(reply)["y"], x @ onnx_files.W.T + onnx_files.B)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(caller, range(16)))


def test_ten_megabytes_come_back(stub: Stub) -> None:
    x = np.arange(2_500_000, dtype=np.float32).reshape(-1, 1000)

    assert_same_bits(arrays(stub.infer(infer_request("echo_fp32_2", {"x": x})))["y"], x)
