"""Other people's clients over HTTP: tritonclient.http in each way that it has, curl.

And requests of the forms that the documentation of other servers shows, with numbers of our own.
What every client can ask is in test_support_table.py.
"""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conformance.conftest import PROGRAMS
from onnx import ModelProto, helper
from support import onnx_files, rest
from support.rest import Rest
from support.served import write_repository

from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.guard import Limits


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    config = Config(
        models=write_repository(tmp_path_factory.mktemp("repository")),
        port=0,
        http_port=0,
        transport=Transport.ASYNCIO,
        limits=Limits(general=True),
        model_control=True,
    )
    with Server(config) as server:
        yield f"127.0.0.1:{server.http_port}"


@pytest.mark.parametrize("version", ["==2.73.0", "==2.34.0"])
def test_tritonclient(environment: Callable[..., Path], target: str, version: str) -> None:
    numpy = "numpy" if version == "==2.73.0" else "numpy<2"
    python = environment(f"tritonclient[http]{version}", numpy)
    done = subprocess.run(
        [python, PROGRAMS / "triton_http.py", target], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "options", [(), ("--http2",), ("--compressed",), ("-H", "Expect: 100-continue")]
)
def test_curl(target: str, options: tuple[str, ...]) -> None:
    row = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    url = f"http://{target}/v2/models/linear/infer"
    body = json.dumps({"inputs": [row]})
    done = subprocess.run(
        ["curl", "-sS", "--fail-with-body", "--max-time", "20", *options, url, "-d", body],
        capture_output=True,
        text=True,
    )
    if "--http2" in options and done.returncode:
        # It wishes for another protocol, and sends a body.
        assert "upgrade" in done.stdout
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["outputs"][0]["data"] == [14.5, 31.5]


def echo(inputs: Mapping[str, tuple[str, Sequence[int | str]]]) -> ModelProto:
    """Each input as the output `NAME-out`."""
    return onnx_files.build(
        [helper.make_node("Identity", [name], [f"{name}-out"]) for name in inputs],
        [onnx_files.tensor(name, *kind) for name, kind in inputs.items()],
        [onnx_files.tensor(f"{name}-out", *kind) for name, kind in inputs.items()],
    )


DOCUMENTED: dict[str, ModelProto] = {
    # KServe: rows of flowers, nested.
    "sklearn-v2-iris": echo({"input-0": ("FP32", ["n", 4])}),
    # MLServer: an image of 8 x 8, with a codec's name; columns of a table.
    "mnist-svm": echo({"predict": ("FP32", ["n", 64])}),
    "income": echo(
        {
            "Age": ("INT64", ["n", 1]),
            "Workclass": ("BYTES", ["n", 1]),
            "Hours per week": ("FP64", ["n", 1]),
        }
    ),
    # The protocol's own example: inputs of two datatypes.
    "mymodel": echo({"input0": ("UINT32", [2, 2]), "input1": ("BOOL", [3])}),
    # OpenVINO's server: nested images, and bytes after the JSON.
    "resnet": echo({"0": ("FP32", ["n", 3, 2, 2])}),
    "dummy": echo({"b": ("FP32", [1, 10])}),
}


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root = tmp_path_factory.mktemp("documented")
    for name, model in DOCUMENTED.items():
        onnx_files.save(model, root / name / "1" / "model.onnx")
    with Server(Config(models=root, port=0, http_port=0, transport=Transport.ASYNCIO)) as server:
        yield server.http_port or 0


def image(size: int) -> list[Any]:
    return [[[0.5] * size for _ in range(size)] for _ in range(3)]


def entry(name: str, datatype: str, shape: Sequence[int], data: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data, **more}


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "KServe": (
        "sklearn-v2-iris",
        {"inputs": [entry("input-0", "FP32", [2, 4], [[6.5, 3, 4.5, 1.5], [6, 3.5, 4.5, 1.75]])]},
    ),
    "MLServer": (
        "mnist-svm",
        {
            "parameters": {"content_type": "np"},
            "inputs": [
                entry("predict", "FP32", [1, 64], [0.0] * 64, parameters={"content_type": "np"})
            ],
        },
    ),
    "a table of MLServer": (
        "income",
        {
            "parameters": {"content_type": "pd"},
            "inputs": [
                entry("Age", "INT64", [2, 1], [47, 28]),
                entry(
                    "Workclass",
                    "BYTES",
                    [2, 1],
                    ["Private", "?"],
                    parameters={"content_type": "str"},
                ),
                entry("Hours per week", "FP64", [2, 1], [40, 30.5]),
            ],
        },
    ),
    "the protocol": (
        "mymodel",
        {
            "id": "42",
            "inputs": [
                entry("input0", "UINT32", [2, 2], [1, 2, 3, 4]),
                entry("input1", "BOOL", [3], [True, False, True]),
            ],
            "outputs": [{"name": "input0-out"}],
        },
    ),
    "OpenVINO's server": (
        "resnet",
        {"id": "0", "inputs": [entry("0", "FP32", [1, 3, 2, 2], [image(2)])]},
    ),
}


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", ""]
)
@pytest.mark.parametrize("case", ASKED)
def test_requests_as_other_servers_document_them(
    documented: int, case: str, content_type: str
) -> None:
    name, body = ASKED[case]
    fields = {"Content-Type": content_type} if content_type else {}
    with Rest(documented) as client:
        for version in ("", "/versions/1"):
            answer = client.call("POST", f"/v2/models/{name}{version}/infer", body, fields)
            assert answer.status == 200, answer.body
            assert answer.json["model_name"] == name
            assert answer.json["model_version"] == "1"
            assert answer.json.get("id") == body.get("id")
            found = rest.arrays(answer)
            wanted = body.get("outputs") or [{"name": f"{e['name']}-out"} for e in body["inputs"]]
            assert set(found) == {output["name"] for output in wanted}
            for sent in body["inputs"]:
                array = found.get(f"{sent['name']}-out")
                if array is None:
                    continue
                assert list(array.shape) == sent["shape"]
                flat = [e.decode() if isinstance(e, bytes) else e for e in array.ravel().tolist()]
                assert flat == rest.flat(sent["data"])


def test_bytes_after_the_json_as_openvinos_server_documents_them(documented: int) -> None:
    # It has the model's name in the body, too, and the size of the JSON in a header.
    numbers = [float(each) for each in range(10)]
    body = {
        "model_name": "dummy",
        "inputs": [
            {
                "name": "b",
                "shape": [1, 10],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 40},
            }
        ],
    }
    text = json.dumps(body).encode()
    fields = {rest.HEADER_SIZE: str(len(text)), "Content-Type": "application/octet-stream"}
    with Rest(documented) as client:
        data = text + struct.pack("<10f", *numbers)
        answer = client.call("POST", "/v2/models/dummy/infer", data, fields)
        assert rest.arrays(answer)["b-out"].ravel().tolist() == numbers


def test_states_as_other_servers_document_them(documented: int) -> None:
    with Rest(documented) as client:
        for path in ("health/live", "health/ready", "models/resnet/ready"):
            assert client.get(f"/v2/{path}").status == 200
        metadata = client.get("/v2/models/resnet/versions/1").json
        assert metadata["name"] == "resnet"
        assert metadata["inputs"] == [{"name": "0", "datatype": "FP32", "shape": [-1, 3, 2, 2]}]
        assert client.get("/v2").json.keys() >= {"name", "version", "extensions"}
