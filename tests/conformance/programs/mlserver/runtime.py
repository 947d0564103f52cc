"""A runtime for MLServer that runs one ONNX file: an Open Inference Protocol server not ours."""

from typing import Any

import onnxruntime
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec

_DATATYPES = {"tensor(float)": "FP32"}


def _metadata(args: list[Any]) -> list[types.MetadataTensor]:
    return [
        types.MetadataTensor(
            name=arg.name,
            datatype=_DATATYPES[arg.type],
            shape=[size if isinstance(size, int) else -1 for size in arg.shape],
        )
        for arg in args
    ]


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        self.inputs = _metadata(self.session.get_inputs())
        self.outputs = _metadata(self.session.get_outputs())
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        names = [tensor.name for tensor in self.outputs]
        return types.InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[
                NumpyCodec.encode_output(name, array)
                for name, array in zip(names, self.session.run(names, feeds), strict=True)
            ],
        )
