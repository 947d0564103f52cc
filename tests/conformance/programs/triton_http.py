"""Calls of tritonclient over HTTP, in each way that it has.

Run as `python triton_http.py HOST:PORT`; ends with 0 if every answer is what was sent.
"""

import sys
from importlib.metadata import version
from itertools import product
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

ARRAYS = {
    name: np.arange(6).reshape(2, 3).astype(dtype)
    for name, dtype in {
        "bool": bool,
        "uint8": np.uint8,
        "uint16": np.uint16,
        "uint32": np.uint32,
        "uint64": np.uint64,
        "int8": np.int8,
        "int16": np.int16,
        "int32": np.int32,
        "int64": np.int64,
        "fp16": np.float16,
        "fp32": np.float32,
        "fp64": np.float64,
    }.items()
} | {"bytes": np.array([[b"a", b"", "ü".encode()], [b"1", b"2", b"3"]], object)}

PACKS_NO_TEXT = version("tritonclient") == "2.34.0"
"""Whether it fails to compress a body that is JSON alone, before it sends anything."""


def refused(client: Any, status: str, **call: Any) -> None:
    """Make a call that has to fail."""
    try:
        client.infer(**call)
    except InferenceServerException as error:
        assert error.status() == status, error
        assert error.message(), error
        return
    raise AssertionError(f"{call} was answered")


def main() -> None:
    """Make all calls."""
    client = triton.InferenceServerClient(sys.argv[1], concurrency=4)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo_fp32_2")
    assert client.is_model_ready("echo_fp32_2", "1")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"]
    assert client.get_model_metadata("echo_fp32_2")["inputs"][0]["datatype"] == "FP32"
    assert client.get_model_config("echo_fp32_2")["input"][0]["data_type"] == "TYPE_FP32"
    names = {model["name"] for model in client.get_model_repository_index()}
    assert "echo_fp32_2" in names
    ways = product((True, False), (True, False), (None, "gzip", "deflate"))
    for binary_input, binary_output, packed in ways:
        for name, array in ARRAYS.items():
            if name == "fp16" and not (binary_input and binary_output):
                continue
            if packed and not binary_input and PACKS_NO_TEXT:
                continue
            entry = triton.InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
            entry.set_data_from_numpy(array, binary_data=binary_input)
            asked = [None, [triton.InferRequestedOutput("y", binary_data=binary_output)]]
            for outputs in asked if binary_output else asked[1:]:
                result = client.infer(
                    f"echo_{name}_2",
                    [entry],
                    outputs=outputs,
                    request_id="1",
                    request_compression_algorithm=packed,
                    response_compression_algorithm=packed,
                )
                got = result.as_numpy("y")
                if array.dtype == object:
                    got = np.array(
                        [e.encode() if isinstance(e, str) else e for e in got.ravel()], object
                    ).reshape(array.shape)
                assert np.array_equal(got, array), (name, got)
                assert result.get_response()["id"] == "1"
    x = triton.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.array([[0, 3, 1, 2]], np.float32))
    best = client.infer("scores", [x], outputs=[triton.InferRequestedOutput("y", class_count=2)])
    assert [text.split(b":")[1] for text in best.as_numpy("y").ravel()] == [b"1", b"3"]
    pending = [client.async_infer("scores", [x]) for _ in range(20)]
    for each in pending:
        assert each.get_result().as_numpy("y").tolist() == [[0, 3, 1, 2]]
    refused(client, "404", model_name="nobody", inputs=[x])
    refused(client, "400", model_name="echo_fp64_2", inputs=[x])
    client.unload_model("square")
    assert not client.is_model_ready("square")
    client.load_model("square")
    assert client.is_model_ready("square")
    statistics = client.get_inference_statistics("scores")["model_stats"]
    assert statistics[0]["inference_stats"]["success"]["count"] >= 21
    client.close()


if __name__ == "__main__":
    main()
