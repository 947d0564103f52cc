"""KServe's Python server with models of onnxruntime, in an environment with kserve.

Usage: python -m benchmarks.servers.kserve_server MODELS PORT HTTP_PORT
"""

import logging
import sys
from pathlib import Path
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.servers.onnx_models import sessions


class OnnxModel(Model):
    """One session; KServe decodes and encodes."""

    def __init__(self, name: str, session: Any) -> None:
        super().__init__(name)
        self.session = session
        self.outputs = [output.name for output in session.get_outputs()]
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        """Run the tensors; the answer travels in raw form, as the request did."""
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        outputs = []
        for name, array in zip(self.outputs, self.session.run(self.outputs, feeds), strict=True):
            output = InferOutput(name, list(array.shape), "FP32")
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id, self.name, outputs)


if __name__ == "__main__":
    models, port, http_port = sys.argv[1:]
    server = ModelServer(
        grpc_port=int(port),
        http_port=int(http_port),
        workers=1,
        enable_latency_logging=False,
    )
    # One line a call otherwise, which no other server writes.
    logging.getLogger("kserve").setLevel(logging.WARNING)
    server.start([OnnxModel(name, session) for name, session in sessions(Path(models)).items()])
