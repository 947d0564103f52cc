"""Tensors in POSIX shared memory: registered by name, read, written, and never trusted."""

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from support import onnx_files
from support.rpc import Stub
from support.served import GOOD, X, Y, assert_answered
from support.wire import arrays, assert_same_bits, from_raw, infer_request, raw_bytes, texts

from forwardpass.proto import inference_pb2 as pb
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.rpc import budget

Code = grpc.StatusCode

SHM = Path("/dev/shm")
LIMIT = 2**20

pytestmark = [
    pytest.mark.skipif(not SHM.is_dir(), reason="this machine has no /dev/shm"),
    pytest.mark.usefixtures("transport"),
]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Stub]:
    """A server that allows shared memory."""
    root = tmp_path_factory.mktemp("shared")
    onnx_files.save(onnx_files.linear(), root / "linear.onnx")
    onnx_files.save(onnx_files.pair(), root / "pair.onnx")
    onnx_files.save(onnx_files.identity("BYTES", ["n"]), root / "text.onnx")
    onnx_files.save(onnx_files.identity("FP32", ["batch", 4]), root / "scores.onnx")
    config = Config(models=root, port=0, shared_memory=True, max_message_bytes=LIMIT)
    with Server(config) as server, Stub(server.port) as stub:
        yield stub


class Memory:
    """Shared memory as another process makes it: a file that the server is not told more of."""

    def __init__(self, size: int) -> None:
        self.path = SHM / f"forwardpass_test_{uuid.uuid4().hex}"
        self.path.write_bytes(bytes(size))

    @property
    def key(self) -> str:
        return f"/{self.path.name}"

    def put(self, data: bytes, offset: int = 0) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def get(self, size: int, offset: int = 0) -> bytes:
        return self.path.read_bytes()[offset : offset + size]


@pytest.fixture
def memory(stub: Stub) -> Iterator[Memory]:
    """4 KiB of shared memory, and no region registered before or after."""
    memory = Memory(4096)
    yield memory
    memory.path.unlink(missing_ok=True)
    unregister(stub)


def register(stub: Stub, name: str, key: str, byte_size: int, offset: int = 0) -> None:
    request = pb.SystemSharedMemoryRegisterRequest(
        name=name, key=key, byte_size=byte_size, offset=offset
    )
    stub.call("SystemSharedMemoryRegister", request, pb.SystemSharedMemoryRegisterResponse)


def refused(stub: Stub, name: str, key: str, byte_size: int, offset: int = 0) -> Any:
    request = pb.SystemSharedMemoryRegisterRequest(
        name=name, key=key, byte_size=byte_size, offset=offset
    )
    refusal = stub.refusal("SystemSharedMemoryRegister", request)
    assert name not in regions(stub)
    return refusal


def unregister(stub: Stub, name: str = "") -> None:
    request = pb.SystemSharedMemoryUnregisterRequest(name=name)
    stub.call("SystemSharedMemoryUnregister", request, pb.SystemSharedMemoryUnregisterResponse)


def regions(stub: Stub, name: str = "") -> dict[str, tuple[str, int, int]]:
    request = pb.SystemSharedMemoryStatusRequest(name=name)
    reply = stub.call("SystemSharedMemoryStatus", request, pb.SystemSharedMemoryStatusResponse)
    assert all(name == region.name for name, region in reply.regions.items())
    return {
        name: (region.key, region.offset, region.byte_size)
        for name, region in reply.regions.items()
    }


def place(parameters: Any, region: str, byte_size: int, offset: int | None = None) -> None:
    """Say that a tensor is in shared memory, as tritonclient does."""
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = byte_size
    if offset is not None:
        parameters["shared_memory_offset"].int64_param = offset


def from_memory(
    model: str,
    name: str,
    array: NDArray[Any],
    region: str,
    byte_size: int | None = None,
    offset: int | None = None,
) -> pb.ModelInferRequest:
    """A request whose one input is in shared memory."""
    request = infer_request(model, {name: array})
    del request.raw_input_contents[:]
    size = len(raw_bytes(array)) if byte_size is None else byte_size
    place(request.inputs[0].parameters, region, size, offset)
    return request


def test_regions_are_listed_until_they_are_unregistered(stub: Stub, memory: Memory) -> None:
    register(stub, "whole", memory.key, 4096)
    register(stub, "part", memory.key.lstrip("/"), 100, 28)

    whole = {"whole": (memory.key, 0, 4096)}
    part = {"part": (memory.key.lstrip("/"), 28, 100)}
    assert regions(stub) == whole | part
    assert regions(stub, "part") == part

    unregister(stub, "part")

    assert regions(stub) == whole
    unregister(stub)
    assert regions(stub) == {}


def test_an_input_is_read_where_it_lies(stub: Stub, memory: Memory) -> None:
    memory.put(X.tobytes(), 100)
    register(stub, "source", memory.key, 1000, 80)

    request = from_memory("linear", "x", X, "source", offset=20)

    assert_same_bits(arrays(stub.infer(request))["y"], Y)
    # What lies there is read anew with every call.
    memory.put((2 * X).tobytes(), 100)
    expected = 2 * X @ onnx_files.W.T + onnx_files.B
    assert_same_bits(arrays(stub.infer(request))["y"], expected)


def test_an_output_is_written_where_it_is_wanted(stub: Stub, memory: Memory) -> None:
    register(stub, "sink", memory.key, 1000, 80)
    request = infer_request("linear", {"x": X}, outputs=["y"], id="7")
    place(request.outputs[0].parameters, "sink", 64, 20)

    for _ in range(2):
        reply = stub.infer(request)

        (told,) = reply.outputs
        assert (reply.id, told.name, told.datatype, list(told.shape)) == ("7", "y", "FP32", [2, 2])
        assert {
            name: value.WhichOneof("parameter_choice") for name, value in told.parameters.items()
        } == {
            "shared_memory_region": "string_param",
            "shared_memory_byte_size": "int64_param",
            "shared_memory_offset": "int64_param",
        }
        assert told.parameters["shared_memory_region"].string_param == "sink"
        assert told.parameters["shared_memory_byte_size"].int64_param == Y.nbytes
        # One entry an output, as ever; this one's bytes are elsewhere.
        assert list(reply.raw_output_contents) == [b""]
        assert memory.get(Y.nbytes, 100) == Y.tobytes()
        assert memory.get(100) == bytes(100)
        assert memory.get(4096, 100 + Y.nbytes) == bytes(4096 - 100 - Y.nbytes)
        memory.put(bytes(Y.nbytes), 100)


def test_some_tensors_may_be_shared_and_others_not(stub: Stub, memory: Memory) -> None:
    a, b = np.array([[1, 2]], np.float32), np.array([[5, 7]], np.float32)
    register(stub, "both", memory.key, 4096)
    memory.put(b.tobytes())
    for typed in (False, True):
        request = infer_request(
            "pair", {"a": a, "b": b}, typed=typed, outputs=["difference", "total"]
        )
        request.inputs[1].ClearField("contents")
        if not typed:
            del request.raw_input_contents[1]
        place(request.inputs[1].parameters, "both", b.nbytes)
        place(request.outputs[0].parameters, "both", 8, 512)

        reply = stub.infer(request)

        assert [output.name for output in reply.outputs] == ["difference", "total"]
        assert_same_bits(from_raw(reply.raw_output_contents[1], "FP32", [1, 2]), a + b)
        assert memory.get(8, 512) == (a - b).tobytes()


def test_bytes_elements_travel_with_their_lengths(stub: Stub, memory: Memory) -> None:
    words = texts(b"one", b"", b"three")
    raw = raw_bytes(words)
    register(stub, "words", memory.key, 4096)
    memory.put(raw)
    request = from_memory("text", "x", words, "words")
    request.outputs.add(name="y")
    place(request.outputs[0].parameters, "words", 100, 1000)

    told = stub.infer(request).outputs[0].parameters["shared_memory_byte_size"]

    assert told.int64_param == len(raw)
    assert memory.get(len(raw), 1000) == raw


def test_bytes_elements_take_memory_by_what_the_region_holds(
    stub: Stub, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "SPARE_BYTES", 0)
    register(stub, "words", memory.key, 4096)
    # Empty ones take more memory than bytes.
    empty = from_memory("text", "x", texts(*[b""] * 1024), "words")
    assert "at most 4 bytes of memory" in stub.refusal("ModelInfer", empty).message

    words = texts(*[b"%0196d" % number for number in range(20)])
    memory.put(raw_bytes(words))
    assert stub.infer(from_memory("text", "x", words, "words")).raw_output_contents


def test_memory_that_was_unlinked_is_still_there(stub: Stub, memory: Memory) -> None:
    memory.put(X.tobytes())
    register(stub, "source", memory.key, X.nbytes)
    memory.path.unlink()

    assert_same_bits(arrays(stub.infer(from_memory("linear", "x", X, "source")))["y"], Y)


def test_zero_rows_take_no_room(stub: Stub, memory: Memory) -> None:
    register(stub, "region", memory.key, 16)
    request = from_memory("linear", "x", np.zeros((0, 3), np.float32), "region", offset=16)
    request.outputs.add(name="y")
    place(request.outputs[0].parameters, "region", 0, 16)

    assert list(stub.infer(request).outputs[0].shape) == [0, 2]


@pytest.mark.parametrize("size", [0, 4, 23])
def test_memory_that_shrank_is_an_error_and_not_the_end(
    stub: Stub, memory: Memory, size: int
) -> None:
    register(stub, "region", memory.key, 4096)
    os.truncate(memory.path, size)

    refusal = stub.refusal("ModelInfer", from_memory("linear", "x", X, "region"))

    assert refusal.code is Code.INVALID_ARGUMENT
    assert "input 'x'" in refusal.message
    assert "shrunk" in refusal.message
    request = infer_request("linear", {"x": X}, outputs=["y"])
    place(request.outputs[0].parameters, "region", 16, 8)
    refusal = stub.refusal("ModelInfer", request)
    assert refusal.code is Code.INVALID_ARGUMENT
    assert "output 'y'" in refusal.message
    assert memory.path.stat().st_size == size
    assert_answered(stub, GOOD["linear"])


def test_memory_that_shrinks_and_grows_while_it_is_used_ends_nothing(
    stub: Stub, memory: Memory
) -> None:
    register(stub, "region", memory.key, 4096)
    request = from_memory("linear", "x", X, "region", offset=2048)
    request.outputs.add(name="y")
    place(request.outputs[0].parameters, "region", 64, 3000)
    stop = False

    def resize() -> None:
        while not stop:
            os.truncate(memory.path, 10)
            os.truncate(memory.path, 4096)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(resize)
        try:
            outcomes = {stub.outcome("ModelInfer", request) for _ in range(300)}
        finally:
            stop = True
    assert outcomes <= {Code.OK, Code.INVALID_ARGUMENT}
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize(
    ("byte_size", "offset", "says"),
    [
        (24, 4080, "24 bytes at offset 4080"),
        (4097, 0, "4097 bytes at offset 0"),
        (24, 2**62, "4611686018427387904"),
        (2**62, 24, "4611686018427387904"),
        (0, 4097, "0 bytes at offset 4097"),
        (-1, 0, "-1"),
        (24, -8, "-8"),
        (20, 0, "24 raw bytes"),
        (28, 0, "24 raw bytes"),
        (0, 0, "24 raw bytes"),
    ],
)
def test_an_input_outside_its_region_or_of_another_size_is_invalid(
    stub: Stub, memory: Memory, byte_size: int, offset: int, says: str
) -> None:
    register(stub, "region", memory.key, 4096)

    request = from_memory("linear", "x", X, "region", byte_size, offset)
    refusal = stub.refusal("ModelInfer", request)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {"input 'x'"}
    assert says in refusal.message
    assert_answered(stub, GOOD["linear"])


@pytest.mark.parametrize(
    ("byte_size", "offset", "says"),
    [(16, 4090, "16 bytes at offset 4090"), (15, 0, "at least 16 bytes"), (0, 0, "at least 16")],
)
def test_an_output_without_room_is_invalid_and_writes_nothing(
    stub: Stub, memory: Memory, byte_size: int, offset: int, says: str
) -> None:
    register(stub, "region", memory.key, 4096)
    request = infer_request("linear", {"x": X}, outputs=["y"])
    place(request.outputs[0].parameters, "region", byte_size, offset)

    refusal = stub.refusal("ModelInfer", request)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {"output 'y'"}
    assert says in refusal.message
    assert memory.get(4096) == bytes(4096)


@pytest.mark.parametrize("parameter", ["shared_memory_byte_size", "shared_memory_offset"])
def test_a_place_that_is_no_integer_is_invalid(stub: Stub, memory: Memory, parameter: str) -> None:
    register(stub, "region", memory.key, 4096)
    request = from_memory("linear", "x", X, "region")
    request.inputs[0].parameters[parameter].string_param = "24"

    refusal = stub.refusal("ModelInfer", request)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert parameter in refusal.message
    assert "string_param" in refusal.message


def test_a_region_that_is_unknown_is_not_found(stub: Stub, memory: Memory) -> None:
    register(stub, "region", memory.key, 4096)
    output = infer_request("linear", {"x": X}, outputs=["y"])
    place(output.outputs[0].parameters, "other", 16)
    for request in (from_memory("linear", "x", X, "other"), output):
        refusal = stub.refusal("ModelInfer", request)
        assert refusal.code is Code.NOT_FOUND
        assert "'other'" in refusal.message
        assert "region" in refusal.message
    status = pb.SystemSharedMemoryStatusRequest(name="other")
    assert stub.refusal("SystemSharedMemoryStatus", status).code is Code.NOT_FOUND
    unregister(stub, "other")


def test_a_call_after_the_region_was_unregistered_is_not_found(stub: Stub, memory: Memory) -> None:
    # The calls before must not have left anything behind that knows the region.
    register(stub, "region", memory.key, 4096)
    inputs, outputs = (
        from_memory("linear", "x", X, "region"),
        infer_request("linear", {"x": X}, outputs=["y"]),
    )
    place(outputs.outputs[0].parameters, "region", 16)
    for request in (inputs, outputs):
        for _ in range(3):
            stub.infer(request)
    unregister(stub)

    for request in (inputs, outputs):
        assert stub.refusal("ModelInfer", request).code is Code.NOT_FOUND


def test_an_input_both_shared_and_sent_is_invalid(stub: Stub, memory: Memory) -> None:
    register(stub, "region", memory.key, 4096)
    for typed in (False, True):
        request = infer_request("linear", {"x": X}, typed=typed)
        place(request.inputs[0].parameters, "region", X.nbytes)
        assert stub.refusal("ModelInfer", request).code is Code.INVALID_ARGUMENT


def test_classes_are_not_put_into_shared_memory(stub: Stub, memory: Memory) -> None:
    register(stub, "region", memory.key, 4096)
    request = infer_request("scores", {"x": np.ones((1, 4), np.float32)}, outputs=["y"])
    place(request.outputs[0].parameters, "region", 100)
    request.outputs[0].parameters["classification"].int64_param = 1

    refusal = stub.refusal("ModelInfer", request)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert "classification" in refusal.message


def test_a_tensor_above_the_message_limit_names_the_flag(stub: Stub, memory: Memory) -> None:
    os.truncate(memory.path, 2 * LIMIT)
    register(stub, "region", memory.key, 2 * LIMIT)
    x = np.zeros((LIMIT // 12 + 1, 3), np.float32)

    refusal = stub.refusal("ModelInfer", from_memory("linear", "x", x, "region"))

    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert "--max-message-bytes" in refusal.message


def test_a_name_is_taken_once(stub: Stub, memory: Memory) -> None:
    register(stub, "region", memory.key, 100)
    request = pb.SystemSharedMemoryRegisterRequest(name="region", key=memory.key, byte_size=50)

    refusal = stub.refusal("SystemSharedMemoryRegister", request)

    assert refusal.code is Code.ALREADY_EXISTS
    assert "'region'" in refusal.message
    assert regions(stub) == {"region": (memory.key, 0, 100)}
    unregister(stub, "region")
    register(stub, "region", memory.key, 50)


@pytest.mark.parametrize(
    ("byte_size", "offset"),
    [(4097, 0), (1, 4096), (4096, 1), (0, 0), (2**63, 0), (1, 2**63), (2**64 - 1, 2**64 - 1)],
)
def test_a_region_beyond_its_memory_is_invalid(
    stub: Stub, memory: Memory, byte_size: int, offset: int
) -> None:
    refusal = refused(stub, "region", memory.key, byte_size, offset)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {"byte_size"}
    assert str(byte_size) in refusal.message


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "///",
        ".",
        "..",
        "/..",
        "../../etc/passwd",
        "/a/b",
        "no_such_memory",
        "nul\0byte",
        "n" * 300,
        "ü" * 200,
    ],
)
def test_a_key_that_is_none_or_leads_elsewhere_is_invalid(
    stub: Stub, memory: Memory, key: str
) -> None:
    refusal = refused(stub, "region", key, 16)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {"key"}


def make_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def make_fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path, _: Path) -> None:
    path.mkdir()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [make_link, make_fifo, make_folder])
def test_a_key_of_something_else_than_shared_memory_is_invalid(
    stub: Stub, memory: Memory, tmp_path: Path, make: Any
) -> None:
    (tmp_path / "secret").write_bytes(bytes(100))
    memory.path.unlink()
    make(memory.path, tmp_path / "secret")
    try:
        refusal = refused(stub, "region", memory.key, 16)
        assert refusal.code is Code.INVALID_ARGUMENT
        assert refusal.violations.keys() == {"key"}
    finally:
        if memory.path.is_dir():
            memory.path.rmdir()


def test_a_region_needs_a_name(stub: Stub, memory: Memory) -> None:
    refusal = refused(stub, "", memory.key, 16)

    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.violations.keys() == {"name"}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_no_file_stays_open(stub: Stub, memory: Memory) -> None:
    unregister(stub)  # which connects
    before = open_files()
    for _ in range(20):
        register(stub, "region", memory.key, 4096)
        refused(stub, "other", memory.key, 5000)
        stub.infer(from_memory("linear", "x", X, "region"))
        unregister(stub)

    assert open_files() <= before


def test_there_are_only_so_many_regions(stub: Stub, memory: Memory) -> None:
    for number in range(256):
        register(stub, str(number), memory.key, 16)

    refusal = refused(stub, "one more", memory.key, 16)

    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert "256" in refusal.message
    unregister(stub, "7")
    register(stub, "one more", memory.key, 16)


@pytest.fixture
def reluctant(tmp_path: Path, transport: Transport) -> Iterator[Stub]:
    """A server whose operator does not allow shared memory."""
    path = onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")
    with Server(Config(models=path, port=0)) as server, Stub(server.port) as stub:
        yield stub


def test_without_the_operators_leave_nothing_is_shared(reluctant: Stub, memory: Memory) -> None:
    region = pb.SystemSharedMemoryRegisterRequest(name="region", key=memory.key, byte_size=16)
    for call, request in {
        "SystemSharedMemoryRegister": region,
        "ModelInfer": from_memory("linear", "x", X, "region"),
    }.items():
        refusal = reluctant.refusal(call, request)
        assert refusal.code is Code.PERMISSION_DENIED
        assert "--shared-memory" in refusal.message
    metadata = reluctant.call("ServerMetadata", b"", pb.ServerMetadataResponse)
    assert "system_shared_memory" not in metadata.extensions
    assert_answered(reluctant, GOOD["linear"])


def test_without_the_operators_leave_no_region_is_listed_or_left(reluctant: Stub) -> None:
    assert regions(reluctant) == {}
    for name in ("", "region"):
        unregister(reluctant, name)
    status = pb.SystemSharedMemoryStatusRequest(name="region")
    assert reluctant.refusal("SystemSharedMemoryStatus", status).code is Code.NOT_FOUND


def test_a_server_that_shares_memory_says_so(stub: Stub) -> None:
    metadata = stub.call("ServerMetadata", b"", pb.ServerMetadataResponse)

    assert "system_shared_memory" in metadata.extensions
