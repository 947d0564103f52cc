"""`load`: a model file behind a client's methods, answered in this process without a server."""

import re
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import grpc

from forwardpass.client._calls import BlockingCalls, InFlight
from forwardpass.client._core import Core
from forwardpass.client._steps import Send
from forwardpass.client.errors import ERRORS, ClientError
from forwardpass.client.model import ModelSpec
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.tensors import decode_raw, encode_raw
from forwardpass.proto.version import __version__

if TYPE_CHECKING:
    from forwardpass.client._session import Session

_IN_REPOSITORY = re.compile(r"[1-9][0-9]*")


def load(path: str | Path) -> "LocalClient":
    """Load a model file; the client returned has the methods of `Client`, and its answers.

    The model's name is that by which the server has it: NAME of `NAME/VERSION/model.onnx`, else
    the file's without `.onnx`.

    Raises ImportError without onnxruntime, FileNotFoundError without the file, ValueError if it
    is none that onnxruntime runs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file {str(path)!r}; pass the path of a .onnx file")
    try:
        from forwardpass.client._session import Session
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ImportError(
            "load needs onnxruntime, which runs the model in this process; "
            "pip install 'forwardpass[server]', or call a server with Client"
        ) from error
    folder = path.absolute().parent
    if path.name == "model.onnx" and _IN_REPOSITORY.fullmatch(folder.name):
        return LocalClient(path, Session(path, folder.parent.name, folder.name))
    return LocalClient(path, Session(path, path.stem, "1"))


class LocalClient(BlockingCalls):
    """The one model of a file, as a server would serve it alone; made by `load`.

    All methods may be called from any number of threads at once. A call runs in the thread that
    makes it: there is nothing to wait for, and so no deadline. A forked process may go on with it.
    """

    def __init__(self, path: Path, session: "Session") -> None:
        self._fetching = Lock()
        self._core = Core(str(path), self._fetching, forks=True)
        self._session: Session | None = session
        """None once closed; a call under way has it in hand."""
        self._told = session.spec
        self._answers: dict[str, Callable[[bytes], bytes]] = {
            "ServerLive": lambda _: pb.ServerLiveResponse(live=True).SerializeToString(),
            "ServerReady": lambda _: pb.ServerReadyResponse(ready=True).SerializeToString(),
            "ServerMetadata": lambda _: pb.ServerMetadataResponse(
                name="forwardpass", version=__version__
            ).SerializeToString(),
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }

    def close(self) -> None:
        """Let go of the model, once the calls under way are done."""
        self._core.closed = True
        self._session = None

    def _send(self, send: Send) -> Any:
        answer = self._answers.get(send.method)
        if answer is None:
            raise self._error(
                grpc.StatusCode.UNIMPLEMENTED,
                f"{send.method} is of a server with a repository, this is one file; ask a Client",
            )
        reply = answer(send.data)
        return (reply, ()) if send.trailers else reply

    def _begin(self, send: Send) -> InFlight:
        done: Future[bytes] = Future()
        try:
            done.set_result(self._send(send))
        except ClientError as error:
            done.set_exception(error)
        return done

    def _model_ready(self, request: bytes) -> bytes:
        asked = pb.ModelReadyRequest.FromString(request)
        return pb.ModelReadyResponse(ready=self._has(asked.name, asked.version)).SerializeToString()

    def _model_metadata(self, request: bytes) -> bytes:
        asked = pb.ModelMetadataRequest.FromString(request)
        spec = self._spec(asked.name, asked.version)
        reply = pb.ModelMetadataResponse(
            name=spec.name,
            versions=spec.versions,
            platform=spec.platform,
            properties=dict(spec.properties),
        )
        for tensors, told in ((reply.inputs, spec.inputs), (reply.outputs, spec.outputs)):
            for tensor in told:
                tensors.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return reply.SerializeToString()

    def _model_infer(self, request: bytes) -> bytes:
        # Written by our codec, which checked it: raw contents, one for each input.
        session = self._session
        if session is None:
            # Closed by another thread since the conversation looked.
            raise self._core.closed_error()
        asked = pb.ModelInferRequest.FromString(request)
        spec = self._spec(asked.model_name, asked.model_version)
        feeds = {
            tensor.name: decode_raw(tensor.name, raw, tensor.datatype, tuple(tensor.shape))
            for tensor, raw in zip(asked.inputs, asked.raw_input_contents, strict=True)
        }
        told: dict[str, TensorSpec] = {tensor.name: tensor for tensor in spec.outputs}
        names = [output.name for output in asked.outputs] or list(told)
        try:
            arrays = session.run(feeds, names)
        except UnicodeDecodeError as error:
            raise self._error(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"expected BYTES elements in UTF-8, got {error.object[:32]!r}; encode the text as "
                "UTF-8, as onnxruntime's strings hold nothing else",
            ) from error
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise self._error(grpc.StatusCode.INTERNAL, f"onnxruntime failed: {error}") from error
        reply = pb.ModelInferResponse(model_name=spec.name, model_version=spec.versions[0])
        for name, array in zip(names, arrays, strict=True):
            datatype = told[name].datatype
            reply.outputs.add(name=name, datatype=datatype, shape=array.shape)
            reply.raw_output_contents.append(encode_raw(array, datatype))
        return reply.SerializeToString()

    def _has(self, model: str, version: str) -> bool:
        return model == self._told.name and version in ("", *self._told.versions)

    def _spec(self, model: str, version: str) -> ModelSpec:
        spec = self._told
        if not self._has(model, version):
            raise self._error(
                grpc.StatusCode.NOT_FOUND,
                f"model {model!r} version {version or 'any'} not found; "
                f"this file is {spec.name!r} version {spec.versions[0]}",
            )
        return spec

    def _error(self, code: grpc.StatusCode, details: str) -> ClientError:
        return ERRORS[code](details, code=code, target=self._core.target, model=self._told.name)
