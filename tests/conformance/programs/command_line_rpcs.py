"""Command line tools that know no message of ours but by reflection: grpcurl and buf.

Run as `PROGRAM grpcurl|buf TOOL TASK.json REPORT.json`; see report.py. Both read and write JSON
with field names in camel case, 64-bit integers as text and bytes in base64. The deadlines that
they take are for reflection and call together, so that none is tried.
"""

import base64
import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
from report import Report

SERVICE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"


class RefusedError(Exception):
    """A call that ended with an error; the argument is its status code, as `not_found`."""


class Tool:
    """A tool, pointed at a server."""

    name: str
    version_flag: str
    reflection: str
    """The version of reflection that it is told to use."""

    def __init__(self, path: str, target: str) -> None:
        self._path = path
        self.target = target

    def run(self, *arguments: str, data: str = "") -> str:
        """Run it; return what it prints."""
        done = subprocess.run(
            [self._path, *arguments], input=data, capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            code = self.code(done.stderr)
            raise RefusedError(code) if code else AssertionError(done.stderr)
        return done.stdout or done.stderr

    def call(self, method: str, *requests: Any) -> list[Any]:
        """Call a method; return its replies."""
        data = "".join(map(json.dumps, requests or [{}]))
        name = method if "/" in method else f"{SERVICE}/{method}"
        text = self.run(*self.arguments(name), data=data)
        replies, decoder = [], json.JSONDecoder()
        while text := text.lstrip():
            reply, end = decoder.raw_decode(text)
            replies.append(reply)
            text = text[end:]
        return replies

    def arguments(self, method: str) -> list[str]:
        """Return how the tool is told to call a method with requests from stdin."""
        raise NotImplementedError

    def code(self, said: str) -> str:
        """Return the status code that the tool tells of; empty if of none."""
        raise NotImplementedError

    def services(self) -> set[str]:
        """Return the services that reflection lists."""
        raise NotImplementedError


class Grpcurl(Tool):
    """Built on grpc-go."""

    name, version_flag, reflection = "grpcurl", "-version", "v1alpha"

    def arguments(self, method: str) -> list[str]:
        return ["-plaintext", "-d", "@", self.target, method]

    def code(self, said: str) -> str:
        found = re.search(r"Code: (\w+)", said)
        return re.sub("(?<!^)(?=[A-Z])", "_", found[1]).lower() if found else ""

    def services(self) -> set[str]:
        return set(self.run("-plaintext", self.target, "list").split())


class Buf(Tool):
    """Built on connect-go and the HTTP/2 of Go itself."""

    name, version_flag, reflection = "buf", "--version", "v1"
    _CURL = ("curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect")
    _V1 = ("--reflect-protocol", "grpc-v1")

    def arguments(self, method: str) -> list[str]:
        return [*self._CURL, *self._V1, "-d", "@-", f"http://{self.target}/{method}"]

    def code(self, said: str) -> str:
        found = re.search(r'"code": "(\w+)"', said)
        return found[1] if found else ""

    def services(self) -> set[str]:
        listed = self.run(*self._CURL, *self._V1, "--list-services", f"http://{self.target}")
        return set(listed.split())


def outputs(reply: Any) -> dict[str, np.ndarray]:
    return {
        output["name"]: np.frombuffer(base64.b64decode(raw), "<f4").reshape(
            [int(size) for size in output["shape"]]
        )
        for output, raw in zip(reply["outputs"], reply["rawOutputContents"], strict=True)
    }


def main() -> None:
    kind = {tool.name: tool for tool in (Grpcurl, Buf)}[sys.argv[1]]
    path = sys.argv[2]
    said = Tool(path, "").run(kind.version_flag)
    with Report(kind.name, said.split()[-1].removeprefix("v")) as report:
        row, model, x = report.row, report.model, report.x
        tool = kind(path, report.target)
        with row(f"Reflection {tool.reflection}"):
            assert {SERVICE, HEALTH} <= tool.services()
        with row("ServerLive"):
            assert tool.call("ServerLive") == [{"live": True}]
        with row("ServerReady"):
            assert tool.call("ServerReady") == [{"ready": True}]
        with row("ServerMetadata"):
            assert tool.call("ServerMetadata")[0]["name"] == "forwardpass"
        with row("ModelReady"):
            assert tool.call("ModelReady", {"name": model}) == [{"ready": True}]
            assert tool.call("ModelReady", {"name": "no such model"}) == [{}]
        with row("ModelMetadata"):
            (metadata,) = tool.call("ModelMetadata", {"name": model})
            (x_told,) = metadata["inputs"]
            assert x_told["shape"] == ["-1", str(x.shape[1])]

        def request(rows: np.ndarray, **fields: Any) -> Any:
            tensor = {"name": x_told["name"], "datatype": "FP32", "shape": rows.shape}
            raw = base64.b64encode(rows.tobytes()).decode()
            return {"model_name": model, "inputs": [tensor], "raw_input_contents": [raw], **fields}

        with row("raw tensors"):
            (reply,) = tool.call("ModelInfer", request(x))
            report.predicted("raw", outputs(reply))
        with row("typed contents"):
            typed = request(x)
            typed["inputs"][0]["contents"] = {"fp32_contents": typed_values(x)}
            del typed["raw_input_contents"]
            (reply,) = tool.call("ModelInfer", typed)
            report.predicted("typed", outputs(reply))
            # 64-bit integers are text in JSON.
            counts = np.array([[2**62 + 1, -1, 0]], np.int64)
            contents = {"int64_contents": [str(count) for count in counts.ravel()]}
            (reply,) = tool.call("ModelInfer", echo("counts", "INT64", [1, 3], contents))
            assert base64.b64decode(reply["rawOutputContents"][0]) == counts.tobytes()
        with row("BYTES"):
            texts = [b"one", "zwei \u00e4".encode(), b""]
            contents = {"bytes_contents": [base64.b64encode(text).decode() for text in texts]}
            (reply,) = tool.call("ModelInfer", echo("texts", "BYTES", [3], contents))
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            assert base64.b64decode(reply["rawOutputContents"][0]) == raw
        with row("a version"):
            for version, ran, answer in (("", "2", [14.5, 31.5]), ("1", "1", [1.0, 2.0, 3.0])):
                versions = echo("versions", "FP32", [1, 3], {"fp32_contents": [1, 2, 3]})
                (reply,) = tool.call("ModelInfer", versions | {"model_version": version})
                assert reply["modelVersion"] == ran
                assert outputs(reply)["y"].ravel().tolist() == answer
        with row("parameters"):
            parameters = {"mine": {"string_param": "text"}, "number": {"double_param": 0.5}}
            (reply,) = tool.call("ModelInfer", request(x[:1], parameters=parameters))
            name, got = next(iter(outputs(reply).items()))
            assert got[0].tolist() == report.first(name)
        with row("1,000 rows"):
            (reply,) = tool.call("ModelInfer", request(np.resize(x, (1000, x.shape[1]))))
            many = outputs(reply)
            assert {len(array) for array in many.values()} == {1000}
            first = {name: array[: len(x)] for name, array in many.items()}
            report.predicted("1,000 rows", first)
        with row("chosen outputs"):
            name = list(many)[-1]
            (reply,) = tool.call("ModelInfer", request(x[:2], outputs=[{"name": name}]))
            assert list(outputs(reply)) == [name]
        with row("the request's id"):
            (reply,) = tool.call("ModelInfer", request(x[:1], id="17"))
            assert reply["id"] == "17"
        with row("errors"):
            refused(tool, "ModelInfer", {"model_name": "no such model"}, "not_found")
            refused(tool, "ModelInfer", request(x[:, :-1]), "invalid_argument")
        with row("ModelStreamInfer"):
            replies = tool.call("ModelStreamInfer", *(request(one[np.newaxis]) for one in x))
            parts = [outputs(reply["inferResponse"]) for reply in replies]
            joined = {name: np.concatenate([part[name] for part in parts]) for name in many}
            report.predicted("stream", joined)
        with row("ModelConfig"):
            (reply,) = tool.call("ModelConfig", {"name": model})
            assert reply["config"]["input"][0]["dataType"] == "TYPE_FP32"
        with row("ModelStatistics"):
            (reply,) = tool.call("ModelStatistics", {"name": model})
            assert int(reply["modelStats"][0]["inferenceCount"]) >= len(x)
        with row("RepositoryIndex"):
            (reply,) = tool.call("RepositoryIndex")
            states = {entry["name"]: entry["state"] for entry in reply["models"]}
            assert states[model] == "READY"
        with row("RepositoryModelUnload", "RepositoryModelLoad"):
            tool.call("RepositoryModelUnload", {"model_name": model})
            assert tool.call("ModelReady", {"name": model}) == [{}]
            tool.call("RepositoryModelLoad", {"model_name": model})
            assert tool.call("ModelReady", {"name": model}) == [{"ready": True}]
        with row("LogSettings"):
            assert tool.call("LogSettings")[0]["settings"]["log_verbose_level"] is not None
        with row("Health: Check"):
            for name in ("", model):
                serving = tool.call(f"{HEALTH}/Check", {"service": name})
                assert serving == [{"status": "SERVING"}]
            refused(tool, f"{HEALTH}/Check", {"service": "nothing"}, "not_found")
        with row("Health: List"):
            (listed,) = tool.call(f"{HEALTH}/List")
            assert {"", model} <= listed["statuses"].keys()
            assert listed["statuses"][model] == {"status": "SERVING"}


def echo(model: str, datatype: str, shape: list[int], contents: Any) -> Any:
    """Build a request with one typed input `x`."""
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "contents": contents}
    return {"model_name": model, "inputs": [tensor]}


def typed_values(x: np.ndarray) -> list[float]:
    return [float(value) for value in x.ravel()]


def refused(tool: Tool, method: str, request: Any, code: str) -> None:
    """Check that a call ends with a status code."""
    try:
        tool.call(method, request)
    except RefusedError as error:
        assert error.args == (code,), error.args
    else:
        raise AssertionError(f"{method} answered")


main()
