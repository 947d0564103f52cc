"""The request of a case, and what tells a right reply from a wrong one."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.networks import NETWORKS
from forwardpass.proto import inference_pb2 as pb


@dataclass
class Expected:
    """What every server has to answer: onnxruntime's own outputs, bit for bit."""

    outputs: list[bytes]
    _last_right: bytes | None = field(default=None, init=False)

    def right(self, message: bytes) -> bool:
        """Return whether a reply carries the outputs; names and identifiers are its own."""
        if message == self._last_right:
            return True
        try:
            reply = pb.ModelInferResponse.FromString(message)
        except Exception:
            return False
        carried = list(reply.raw_output_contents) or [
            np.asarray(tensor.contents.fp32_contents, np.float32).tobytes()
            for tensor in reply.outputs
        ]
        if carried != self.outputs:
            return False
        self._last_right = message
        return True


@dataclass
class Exactly:
    """What a server that computes nothing has to answer."""

    message: bytes

    def right(self, message: bytes) -> bool:
        """Return whether it is this message."""
        return message == self.message


def rows(network: str, count: int) -> NDArray[np.float32]:
    """Return the rows of every request of a network and size."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, NETWORKS[network].input.size)).astype(np.float32)


def request(network: str, x: NDArray[np.float32]) -> bytes:
    """Return the message that asks for the outputs of rows x."""
    # An identifier, since some servers draw a random one otherwise.
    message = pb.ModelInferRequest(model_name=network, id="1")
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    message.raw_input_contents.append(x.astype("<f4").tobytes())
    return message.SerializeToString()


def session(file: Path) -> onnxruntime.InferenceSession:
    """Open a file in this process, with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options)


def expected(file: Path, x: NDArray[np.float32]) -> Expected:
    """Compute in this process what a server has to answer."""
    return Expected([np.asarray(array).tobytes() for array in session(file).run(None, {"x": x})])
