"""Load from h2load (Debian's nghttp2-client): far cheaper than any Python client."""

import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from forwardpass.proto import inference_pb2 as pb

METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Load:
    """What one run of h2load saw."""

    calls: int
    seconds: float
    data_bytes: int
    """Of all replies, gRPC's 5 bytes before each message included."""

    @property
    def calls_per_s(self) -> float:
        """Calls answered a second."""
        return self.calls / self.seconds


class Caller:
    """Sends one request again and again, and checks that every call had its whole answer."""

    def __init__(self, target: str, model: str, x: np.ndarray, folder: Path) -> None:
        """Prepare a request for rows x; its bytes go to a file in folder, for h2load."""
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        request.raw_input_contents.append(x.astype("<f4").tobytes())
        self._message = request.SerializeToString()
        self._target = target
        self._body = folder / "body"
        self._body.write_bytes(b"\0" + struct.pack(">I", len(self._message)) + self._message)

    def answer(self) -> bytes:
        """Call once, from grpcio, and return the reply's message."""
        with grpc.insecure_channel(
            self._target, options=[("grpc.max_receive_message_length", -1)]
        ) as channel:
            reply: bytes = channel.unary_unary(METHOD)(self._message, timeout=30)
            return reply

    def run(self, calls: int, *, connections: int, streams: int, core: int = 1) -> Load:
        """Send calls from as many connections, each with so many in flight.

        Raises RuntimeError if one failed: gRPC's errors are HTTP's 200 without a message, so
        the bytes of the replies are counted.
        """
        reply = len(self.answer()) + 5
        command = ["taskset", "--cpu-list", str(core), "h2load", "-n", str(calls)]
        command += ["-c", str(connections), "-m", str(streams), "-d", str(self._body)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        # Windows wide enough that they are not what is measured.
        command += ["-w", "26", "-W", "26", f"http://{self._target}{METHOD}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        load = _parse(done.stdout)
        if load.calls != calls or load.data_bytes != calls * reply:
            raise RuntimeError(
                f"expected {calls} replies of {reply} bytes, got {load.calls} with "
                f"{load.data_bytes} bytes in all"
            )
        return load


def _parse(report: str) -> Load:
    succeeded = re.search(r"(\d+) succeeded", report)
    seconds = re.search(r"finished in ([\d.]+)(us|ms|s)", report)
    data = re.search(r"\((\d+)\) data", report)
    if succeeded is None or seconds is None or data is None:
        raise RuntimeError(f"h2load said:\n{report}")
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[seconds[2]]
    return Load(int(succeeded[1]), float(seconds[1]) * unit, int(data[1]))
