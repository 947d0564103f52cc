"""What tritonclient's published examples ask of a server, call by call, by tritonclient itself.

Run as `python triton_examples.py TARGET`; ends with 0 if every answer is what they insist on.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import (
    InferenceServerException,
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    serialized_byte_size,
)

A = np.arange(16, dtype=np.int32)[np.newaxis]
B = np.ones((1, 16), np.int32)
OUTPUTS = {"OUTPUT0": A + B, "OUTPUT1": A - B}


class Awaited:
    """The client for asyncio, each of whose calls is awaited at once."""

    def __init__(self, target: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._wait(self._open(target, options))

    async def _open(self, target: str, options: dict[str, Any]) -> Any:
        return triton_aio.InferenceServerClient(target, **options)

    def _wait(self, call: Any) -> Any:
        return self._loop.run_until_complete(call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **named: self._wait(getattr(self._client, name)(*args, **named))


def digits(numbers: np.ndarray) -> np.ndarray:
    """Write numbers as the elements of BYTES."""
    texts = [str(number).encode() for number in numbers.ravel()]
    return np.array(texts, object).reshape(numbers.shape)


def sent(datatype: str = "INT32", arrays: tuple[np.ndarray, ...] = (A, B)) -> list[Any]:
    inputs = []
    for number, array in enumerate(arrays):
        inputs.append(triton.InferInput(f"INPUT{number}", list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def wanted() -> list[Any]:
    return [triton.InferRequestedOutput(name) for name in OUTPUTS]


def check(result: Any) -> None:
    for name, expected in OUTPUTS.items():
        np.testing.assert_array_equal(result.as_numpy(name), expected)


def refused(call: Callable[[], Any], words: str) -> None:
    try:
        call()
    except (InferenceServerException, grpc.RpcError) as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"expected an error with {words!r}, got an answer")


def health_and_metadata(client: Any) -> None:
    headers = {"test": "1", "dummy": "2"}
    assert client.is_server_live(headers=headers)
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.get_server_metadata().name == "triton"
    assert client.get_model_metadata("simple", headers=headers).name == "simple"
    refused(lambda: client.get_model_metadata("wrong"), "Request for unknown model")
    assert client.get_model_config("simple").config.name == "simple"


def infer(client: Any) -> None:
    for compression in (None, "gzip", "deflate"):
        options = {"compression_algorithm": compression}
        result = client.infer("simple", sent(), outputs=wanted(), headers={"test": "1"}, **options)
        assert len(client.get_inference_statistics("simple").model_stats) == 1
        check(result)
        check(client.infer("simple", sent(), **options))


def callback(client: Any) -> None:
    got: list[Any] = []
    client.async_infer(
        "simple", sent(), lambda result, error: got.append(error or result), outputs=wanted()
    )
    deadline = time.monotonic() + 10
    while not got and time.monotonic() < deadline:
        time.sleep(0.01)
    check(got[0])


def strings(client: Any) -> None:
    result = client.infer("simple_string", sent("BYTES", (digits(A), digits(B))), outputs=wanted())
    for name, expected in OUTPUTS.items():
        np.testing.assert_array_equal(result.as_numpy(name), digits(expected))
    output = triton.InferRequestedOutput("OUTPUT0")
    for array in (
        np.array([[b"he\0llo"] * 16], object),
        np.array([[b"\0\1\2\3"] * 16], np.bytes_),
    ):
        result = client.infer("simple_identity", sent("BYTES", (array,)), outputs=[output])
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), array.astype(object))


def shared_memory(client: Any) -> None:
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    size = A.nbytes
    sink = shm.create_shared_memory_region("output_data", "/forwardpass_output", 2 * size)
    client.register_system_shared_memory("output_data", "/forwardpass_output", 2 * size)
    source = shm.create_shared_memory_region("input_data", "/forwardpass_input", 2 * size)
    try:
        shm.set_shared_memory_region(source, [A])
        shm.set_shared_memory_region(source, [B], offset=size)
        client.register_system_shared_memory("input_data", "/forwardpass_input", 2 * size)
        inputs = [triton.InferInput(f"INPUT{number}", [1, 16], "INT32") for number in range(2)]
        outputs = wanted()
        for number in range(2):
            inputs[number].set_shared_memory("input_data", size, offset=number * size)
            outputs[number].set_shared_memory("output_data", size, offset=number * size)
        result = client.infer("simple", inputs, outputs=outputs)
        for number, (name, expected) in enumerate(OUTPUTS.items()):
            assert result.get_output(name).datatype == "INT32"
            got = shm.get_contents_as_numpy(sink, np.int32, [1, 16], offset=number * size)
            np.testing.assert_array_equal(got, expected)
        # The same objects again, with the tensors in the messages, as one example does.
        for number, array in enumerate((A, B)):
            inputs[number].set_data_from_numpy(array)
            outputs[number].unset_shared_memory()
        check(client.infer("simple", inputs, outputs=outputs))
        assert len(client.get_system_shared_memory_status().regions) == 2
        client.unregister_system_shared_memory()
    finally:
        shm.destroy_shared_memory_region(source)
        shm.destroy_shared_memory_region(sink)


def shared_strings(client: Any) -> None:
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    arrays = {"INPUT0": A, "INPUT1": B, **OUTPUTS}
    packed = {name: serialize_byte_tensor(digits(array)) for name, array in arrays.items()}
    sizes = {name: serialized_byte_size(data) for name, data in packed.items()}
    handles = {}
    try:
        for name, size in sizes.items():
            key = f"/forwardpass_{name}"
            handles[name] = shm.create_shared_memory_region(name, key, size)
            client.register_system_shared_memory(name, key, size)
        tensors = []
        for name in ("INPUT0", "INPUT1"):
            shm.set_shared_memory_region(handles[name], [packed[name]])
            tensors.append(triton.InferInput(name, [1, 16], "BYTES"))
            tensors[-1].set_shared_memory(name, sizes[name])
        outputs = wanted()
        for output in outputs:
            output.set_shared_memory(output.name(), sizes[output.name()])
        client.infer("simple_string", tensors, outputs=outputs)
        for name, expected in OUTPUTS.items():
            got = shm.get_contents_as_numpy(handles[name], np.object_, [1, 16])
            np.testing.assert_array_equal(got, digits(expected))
        assert len(client.get_system_shared_memory_status().regions) == 4
        client.unregister_system_shared_memory()
    finally:
        for handle in handles.values():
            shm.destroy_shared_memory_region(handle)


def model_control(client: Any) -> None:
    assert len(client.get_model_repository_index().models) == 8
    client.load_model("simple")
    assert client.is_model_ready("simple")
    client.unload_model("simple")
    assert not client.is_model_ready("simple")
    refused(lambda: client.load_model("wrong"), "failed to load")
    client.load_model("simple")


def typed_contents(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, datatype in (
            ("simple", "INT32"),
            ("simple_int8", "INT8"),
            ("simple_string", "BYTES"),
        ):
            request = service_pb2.ModelInferRequest(model_name=model)
            for number, array in enumerate((A, B)):
                tensor = request.inputs.add(name=f"INPUT{number}", datatype=datatype, shape=[1, 16])
                if datatype == "BYTES":
                    tensor.contents.bytes_contents.extend(digits(array).ravel())
                else:
                    tensor.contents.int_contents.extend(array.ravel().tolist())
            for name in OUTPUTS:
                request.outputs.add(name=name)
            reply = stub.ModelInfer(request)
            for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
                expected = OUTPUTS[output.name]
                if datatype == "BYTES":
                    np.testing.assert_array_equal(
                        deserialize_bytes_tensor(raw), digits(expected).ravel()
                    )
                else:
                    got = np.frombuffer(raw, datatype.lower())
                    np.testing.assert_array_equal(got, expected.ravel())
            request.model_version = "wrong_specification"
            refused(
                partial(stub.ModelInfer, request),
                "failed to get model version from specified version string 'wrong_specification'",
            )
            request.model_version = ""
            request.raw_input_contents.append(bytes(32))
            refused(
                partial(stub.ModelInfer, request),
                "contents field must not be specified when using raw_input_contents for "
                f"'INPUT0' for model '{model}'",
            )


def main(target: str) -> None:
    options: dict[str, Any] = {
        "plain": {},
        "keepalive": {"keepalive_options": triton.KeepAliveOptions(keepalive_timeout_ms=20000)},
        "channel arguments": {
            "channel_args": [
                ("grpc.max_send_message_length", 2**20),
                ("grpc.max_receive_message_length", 2**20),
                ("grpc.dns_enable_srv_queries", 1),
            ]
        },
    }
    for client_type in (triton.InferenceServerClient, Awaited):
        for named in options.values():
            check(client_type(target, **named).infer("simple", sent(), headers={"test": "1"}))
        client = client_type(target)
        for part in (
            health_and_metadata,
            infer,
            strings,
            shared_memory,
            shared_strings,
            model_control,
        ):
            part(client)
            print(client_type.__name__, part.__name__)
    callback(triton.InferenceServerClient(target))
    typed_contents(target)


main(sys.argv[1])
