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
        if _carried(reply) != self.outputs:
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


@dataclass
class Close:
    """What a server with a runtime of its own has to answer: the same numbers, to 1e-4."""

    outputs: list[NDArray[np.float32]]

    def right(self, message: bytes) -> bool:
        """Return whether a reply carries the outputs, but for rounding."""
        try:
            reply = pb.ModelInferResponse.FromString(message)
            carried = _carried(reply)
        except Exception:
            return False
        return len(carried) == len(self.outputs) and all(
            len(got) == 4 * wanted.size
            and np.allclose(np.frombuffer(got, "<f4"), wanted.ravel(), rtol=1e-4, atol=1e-5)
            for got, wanted in zip(carried, self.outputs, strict=True)
        )


def _carried(reply: pb.ModelInferResponse) -> list[bytes]:
    return list(reply.raw_output_contents) or [
        np.asarray(tensor.contents.fp32_contents, np.float32).tobytes() for tensor in reply.outputs
    ]


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
    return Expected([array.tobytes() for array in _outputs(file, x)])


def nearly(file: Path, x: NDArray[np.float32]) -> Close:
    """Compute in this process what a server with another runtime has to answer."""
    return Close(_outputs(file, x))


def _outputs(file: Path, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [np.asarray(array) for array in session(file).run(None, {"x": x})]
