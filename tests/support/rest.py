"""A client of HTTP/1.1 whose judge is h11: every answer is read by it, and has to be right."""

import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import h11
import numpy as np
from numpy.typing import NDArray

from forwardpass.proto import inference_pb2 as pb
from support.wire import DTYPES, from_raw, raw_bytes

HEADER_SIZE = "Inference-Header-Content-Length"
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """One answer, whole."""

    status: int
    fields: Mapping[str, str]
    body: bytes
    informed: Sequence[int] = ()
    """The statuses that came before it, as 100."""

    @property
    def json(self) -> Any:
        """The JSON in it, which has to be strict."""
        size = int(self.fields.get(HEADER_SIZE.lower(), len(self.body)))
        return json.loads(self.body[:size], parse_constant=_refused)

    @property
    def error(self) -> str:
        """The text of an error."""
        assert self.status >= 400
        ((name, text),) = self.json.items()
        assert name == "error"
        return str(text)


class Rest:
    """One connection; a context manager that closes it."""

    def __init__(self, port: int | None, context: ssl.SSLContext | None = None) -> None:
        assert port is not None
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(
        self, method: str, path: str, body: Any = None, fields: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request, and return its answer; body: bytes, or what is sent as JSON."""
        self.send(method, path, body, fields)
        return self.answer(method)

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None, **fields: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return self.call("POST", path, body, named)

    def send(
        self, method: str, path: str, body: Any = None, fields: Mapping[str, str] | None = None
    ) -> None:
        self.socket.sendall(written(method, path, body, fields))

    def answer(self, method: str = "POST") -> Answer:
        """Read the next answer."""
        judge = h11.Connection(h11.CLIENT)
        judge.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
        judge.send(h11.EndOfMessage())
        if self._rest:
            # Nothing would be the end.
            judge.receive_data(self._rest)
        status, fields, body, informed = 0, {}, b"", []
        while True:
            event = judge.next_event()
            if event is h11.NEED_DATA:
                judge.receive_data(self.socket.recv(2**18))
            elif isinstance(event, h11.InformationalResponse):
                informed.append(event.status_code)
            elif isinstance(event, h11.Response):
                status = event.status_code
                fields = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._rest, _ = judge.trailing_data
                return Answer(status, fields, body, informed)
            else:
                raise AssertionError(f"the server closed: {event!r}")

    def wait_for(self, part: bytes) -> None:
        """Read until bytes have come, which stay for the next answer."""
        while part not in self._rest:
            data = self.socket.recv(2**18)
            assert data, "the server closed"
            self._rest += data

    def closed(self) -> bool:
        """Wait for the end of the connection; return whether nothing came before it."""
        try:
            return not self._rest and not self.socket.recv(1)
        except ConnectionResetError:
            return True


def written(
    method: str, path: str, body: Any = None, fields: Mapping[str, str] | None = None
) -> bytes:
    """A request as bytes."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    named = {"Host": "localhost"} | dict(fields or {})
    if body is not None:
        named |= {"Content-Length": str(len(data))}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data


def infer_path(request: pb.ModelInferRequest) -> str:
    version = f"/versions/{request.model_version}" if request.model_version else ""
    return f"/v2/models/{request.model_name}{version}/infer"


def infer_body(
    request: pb.ModelInferRequest, *, binary: bool, binary_outputs: bool
) -> tuple[bytes, dict[str, str]]:
    """A request of gRPC as REST has it: the body, and its fields."""
    body: dict[str, Any] = {"inputs": []}
    if request.id:
        body["id"] = request.id
    parameters = _parameters(request.parameters)
    if binary_outputs:
        parameters["binary_data_output"] = True
    if parameters:
        body["parameters"] = parameters
    raws: list[bytes] = []
    for index, tensor in enumerate(request.inputs):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        own = _parameters(tensor.parameters)
        if index < len(request.raw_input_contents):
            raw = request.raw_input_contents[index]
            if binary:
                own["binary_data_size"] = len(raw)
                raws.append(raw)
            else:
                entry["data"] = elements(from_raw(raw, tensor.datatype, tensor.shape))
        elif tensor.HasField("contents"):
            filled = [value for _, value in tensor.contents.ListFields()]
            values = [each for value in filled for each in value]
            if binary:
                dtype = DTYPES[tensor.datatype]
                raw = raw_bytes(np.array(values, dtype))
                own["binary_data_size"] = len(raw)
                raws.append(raw)
            else:
                entry["data"] = [e.decode() if isinstance(e, bytes) else e for e in values]
        if own:
            entry["parameters"] = own
        body["inputs"].append(entry)
    if request.outputs:
        body["outputs"] = [
            {"name": asked.name, "parameters": _parameters(asked.parameters)}
            for asked in request.outputs
        ]
    text = json.dumps(body).encode()
    fields = {HEADER_SIZE: str(len(text))} if raws else {}
    return text + b"".join(raws), fields


def elements(array: NDArray[Any]) -> list[Any]:
    """What JSON has for an array."""
    flat = array.ravel().tolist()
    return [each.decode() if isinstance(each, bytes) else each for each in flat]


def flat(data: list[Any]) -> list[Any]:
    """The elements of nested lists."""
    while data and isinstance(data[0], list):
        data = [each for part in data for each in part]
    return data


def arrays(answer: Answer) -> dict[str, NDArray[Any]]:
    """The outputs of an answer."""
    assert answer.status == 200, answer.body
    position = int(answer.fields.get(HEADER_SIZE.lower(), len(answer.body)))
    found: dict[str, NDArray[Any]] = {}
    for output in answer.json["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        shape = tuple(output["shape"])
        if size is None:
            data = output["data"]
            dtype = DTYPES[output["datatype"]]
            if dtype.kind == "O":
                data = [text.encode() for text in data]
            array = np.empty(len(data), dtype)
            array[:] = data
            found[output["name"]] = array.reshape(shape)
        else:
            raw = answer.body[position : position + size]
            position += size
            found[output["name"]] = from_raw(raw, output["datatype"], shape)
    assert position == len(answer.body)
    return found


def _parameters(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in parameters.items()
    }


def _refused(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")
