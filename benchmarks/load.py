"""Load from h2load (Debian's nghttp2-client): far cheaper than any Python client."""

import re
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from forwardpass.proto import inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_FIELDS = ("content-type: application/grpc", "te: trailers")


@dataclass(frozen=True)
class Load:
    """What one run of h2load saw."""

    calls: int
    seconds: float
    data_bytes: int
    """Of all replies, gRPC's 5 bytes before each message included."""
    latencies_s: list[float]
    """Of each call, from when it was sent to the end of its reply."""

    @property
    def calls_per_s(self) -> float:
        """Calls answered a second."""
        return self.calls / self.seconds

    def error(self, calls: int, reply_bytes: int) -> str | None:
        """Say what is wrong, if not all calls had a whole reply.

        gRPC's errors are HTTP's 200 without a message, so the bytes of the replies are counted.
        """
        if self.calls == calls and self.data_bytes == calls * (reply_bytes + 5):
            return None
        return (
            f"expected {calls} replies of {reply_bytes} bytes, got {self.calls} with "
            f"{self.data_bytes - 5 * self.calls} bytes in all"
        )


class ClosedLoop:
    """Sends one request again and again, from callers that wait for their answers."""

    def __init__(
        self,
        address: tuple[str, int],
        message: bytes,
        folder: Path,
        fields: Sequence[str] = (),
    ) -> None:
        """Prepare a request; its bytes go to a file in folder, for h2load.

        fields: sent beside those that every call has.
        """
        self._fields = (*_FIELDS, *fields)
        self._url = f"http://{address[0]}:{address[1]}{METHOD}"
        self._body, self._log = folder / "body", folder / "calls.tsv"
        self._body.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)

    def run(
        self,
        calls: int,
        *,
        connections: int,
        streams: int,
        core: int | str = 1,
        meanwhile: Callable[[Callable[[], bool]], None] | None = None,
    ) -> Load:
        """Send calls from as many connections, each with so many in flight.

        `meanwhile` is called while they are sent, with a function that says whether they are.
        """
        self._log.unlink(missing_ok=True)
        command = ["taskset", "--cpu-list", str(core), "h2load", "-n", str(calls)]
        command += ["-c", str(connections), "-m", str(streams), "-d", str(self._body)]
        command += [part for field in self._fields for part in ("-H", field)]
        # Windows wide enough that they are not what is measured.
        command += ["-w", "26", "-W", "26", f"--log-file={self._log}", self._url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            if meanwhile is not None:
                # A server takes the load's connections first, and the samples among its calls.
                time.sleep(0.02)
                meanwhile(lambda: process.poll() is None)
            report, _ = process.communicate()
        return _parse(report, self._log)


class Caller:
    """Calls a model with rows x, and checks that every call had its whole answer."""

    def __init__(
        self, target: str, model: str, x: np.ndarray, folder: Path, fields: Sequence[str] = ()
    ) -> None:
        """Prepare; fields are those of `ClosedLoop`."""
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        request.raw_input_contents.append(x.astype("<f4").tobytes())
        self._message = request.SerializeToString()
        self._target = target
        self._metadata = tuple(
            (name, value) for name, _, value in (f.partition(": ") for f in fields)
        )
        host, _, port = target.rpartition(":")
        self._loop = ClosedLoop((host, int(port)), self._message, folder, fields)

    def answer(self) -> bytes:
        """Call once, from grpcio, and return the reply's message."""
        with grpc.insecure_channel(
            self._target, options=[("grpc.max_receive_message_length", -1)]
        ) as channel:
            infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            return infer(self._message, timeout=30, metadata=self._metadata)

    def run(self, calls: int, *, connections: int, streams: int, core: int | str = 1) -> Load:
        """Send calls from as many connections, each with so many in flight.

        Raises RuntimeError if one failed.
        """
        reply = len(self.answer())
        load = self._loop.run(calls, connections=connections, streams=streams, core=core)
        if error := load.error(calls, reply):
            raise RuntimeError(error)
        return load


def _parse(report: str, log: Path) -> Load:
    succeeded = re.search(r"(\d+) succeeded", report)
    seconds = re.search(r"finished in ([\d.]+)(us|ms|s)", report)
    data = re.search(r"\((\d+)\) data", report)
    if succeeded is None or seconds is None or data is None:
        raise RuntimeError(f"h2load said:\n{report}")
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[seconds[2]]
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    latencies = [int(line[2]) * 1e-6 for line in lines if line[1] == "200"]
    return Load(int(succeeded[1]), float(seconds[1]) * unit, int(data[1]), latencies)
