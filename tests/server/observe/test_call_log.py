"""A line for each call, in both formats, and an id that goes back to the caller."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.rpc import SERVICE, Stub
from support.versions import put
from support.wire import infer_request

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.access.caller import Action
from forwardpass.server.access.tokens import new_token
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.observe.log_format import formatter

pytestmark = pytest.mark.usefixtures("transport")

ROW = {"x": np.ones((3, 2), np.float32)}
TOKEN = new_token("web", ["m"], list(Action))
WITH_ID = [("x-request-id", "abc-1"), ("authorization", f"Bearer {TOKEN.token}")]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[int]:
    root = tmp_path_factory.mktemp("logged")
    put(root / "models", "m", 1, 1)
    (root / "tokens").write_text(TOKEN.line)
    config = Config(models=root / "models", port=0, tokens=root / "tokens", log_calls=True)
    with Server(config) as server:
        yield server.port


@pytest.fixture
def stub(port: int) -> Iterator[Stub]:
    with Stub(port) as stub:
        yield stub


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("forwardpass.server.observe.call_log")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(formatter("json").format(record))
    return read


def test_a_call_has_one_line_with_all_that_is_known_of_it(
    stub: Stub, lines: list[logging.LogRecord]
) -> None:
    stub.infer(infer_request("m", ROW), metadata=WITH_ID)

    (record,) = lines
    read = fields(record)
    assert read["message"] == "call"
    assert read["request_id"] == "abc-1"
    assert read["caller"] == "web"
    assert read["peer"].startswith("ipv4:127.0.0.1:")
    assert (read["model"], read["version"], read["rows"]) == ("m", "1", 3)
    assert (read["code"], read["error"]) == ("OK", "")
    phases = ("receive", "decode", "queue", "compute", "encode")
    parts = sum(read[f"{phase}_us"] for phase in phases)
    # Each part is cut to whole microseconds.
    assert parts <= read["total_us"] <= parts + 4
    text = formatter("text").format(record)
    assert "\n" not in text
    assert "request_id=abc-1" in text
    assert "code=OK" in text


def test_a_call_that_fails_has_its_line_too(stub: Stub, lines: list[logging.LogRecord]) -> None:
    wrong = {"x": np.ones((1, 5), np.float32)}
    stub.refusal("ModelInfer", infer_request("m", wrong), metadata=WITH_ID)
    stub.refusal("ModelInfer", infer_request("nothing", ROW), metadata=WITH_ID)
    stub.refusal("ModelInfer", infer_request("m", ROW), metadata=WITH_ID[:1])

    invalid, denied, unknown = map(fields, lines)
    assert (invalid["model"], invalid["code"]) == ("m", "INVALID_ARGUMENT")
    assert invalid["error"] == "InvalidTensorError"
    # A name that is none of ours does not get into the log.
    assert (denied["model"], denied["code"], denied["caller"]) == ("", "PERMISSION_DENIED", "web")
    assert (unknown["code"], unknown["caller"]) == ("UNAUTHENTICATED", "")
    assert {line["request_id"] for line in (invalid, denied, unknown)} == {"abc-1"}


def test_each_call_of_a_stream_has_a_line_of_the_streams_id(
    stub: Stub, lines: list[logging.LogRecord]
) -> None:
    stream = stub.stream([infer_request("m", ROW)] * 3, metadata=WITH_ID)
    list(stream)

    assert [fields(record)["request_id"] for record in lines] == ["abc-1"] * 3
    assert ("x-request-id", "abc-1") in list(stream.trailing_metadata())


def echoed(port: int, method: str, request: Any, metadata: Any) -> list[str | bytes]:
    """Call, whatever comes of it, and return the request ids of its trailers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/{SERVICE}/{method}"
        )
        answered: Any
        try:
            _, answered = call.with_call(request.SerializeToString(), timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            answered = error
        trailers = answered.trailing_metadata() or ()
        return [value for key, value in trailers if key == "x-request-id"]


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("ModelInfer", infer_request("m", ROW)),
        ("ModelInfer", infer_request("nothing", ROW)),
        # With violations, which travel in a trailer of their own.
        ("ModelInfer", infer_request("m", {"x": np.ones((1, 5), np.float32)})),
        ("ModelMetadata", pb.ModelMetadataRequest(name="m")),
        ("ModelMetadata", pb.ModelMetadataRequest(name="nothing")),
        ("ServerLive", pb.ServerLiveRequest()),
    ],
    ids=["answer", "error", "error with details", "unary", "unary error", "probe"],
)
def test_the_id_goes_back_to_the_caller(port: int, method: str, request_message: Any) -> None:
    assert echoed(port, method, request_message, WITH_ID) == ["abc-1"]


def test_a_call_without_an_id_gets_one_where_calls_are_logged(
    port: int, lines: list[logging.LogRecord]
) -> None:
    (made,) = echoed(port, "ModelInfer", infer_request("m", ROW), WITH_ID[1:])

    (record,) = lines
    assert fields(record)["request_id"] == made


def test_an_id_that_comes_back_needs_no_log(root: Path) -> None:
    with Server(Config(models=root, port=0)) as server:
        assert echoed(server.port, "ModelInfer", infer_request("m", ROW), WITH_ID) == ["abc-1"]
        assert echoed(server.port, "ModelInfer", infer_request("m", ROW), []) == []


def test_an_id_with_a_line_break_makes_no_line(stub: Stub, lines: list[logging.LogRecord]) -> None:
    # Binary metadata may hold anything; text is checked by gRPC already.
    metadata = [*WITH_ID[1:], ("x-request-id-bin", b"abc\nforged line")]
    stub.infer(infer_request("m", ROW), metadata=metadata)

    (record,) = lines
    assert "forged" not in formatter("text").format(record)


def test_a_line_of_json_has_a_traceback_in_it(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("forwardpass.test").exception("it %s", "failed")

    (record,) = caplog.records
    line = formatter("json").format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["level"], read["logger"]) == ("ERROR", "forwardpass.test")
    assert read["message"] == "it failed"
    assert "ValueError: two\nlines" in read["exception"]
