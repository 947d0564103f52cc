"""`load`: a model file behind a client's methods, answered in this process without a server."""

import re
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import grpc

from forwardpass.client._conversation.calls import BlockingCalls, InFlight
from forwardpass.client._conversation.core import Core
from forwardpass.client._conversation.steps import Send
from forwardpass.client._session import Run, Session, check_file
from forwardpass.client.errors import ERRORS, ClientError
from forwardpass.client.model import ModelSpec
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.explain import DEFAULT_STEPS, PARAMETER, STEPS_PARAMETER
from forwardpass.proto.gradients import NoGradientError
from forwardpass.proto.runtime import import_onnxruntime
from forwardpass.proto.spec import TensorSpec
from forwardpass.proto.tensors import decode_raw, encode_raw
from forwardpass.proto.version import __version__

_IN_REPOSITORY = re.compile(r"[1-9][0-9]*")


def load(
    path: str | PathLike[str], *, content: bytes | None = None, threads: int = 1
) -> "LocalClient":
    """Load a model file; the client returned has the methods of `Client`, and its answers.

    The model has the same name as in a server: NAME of `NAME/VERSION/model.onnx`, else the name of
    the file without `.onnx`.

    content: the file's bytes, as from an object store; the path then only names the model.
    threads: threads of a run, with which a server has one; more pay for large networks alone.

    Raises ImportError without onnxruntime, ModelFileError for what is no file of a model that
    onnxruntime can run.
    """
    path = Path(path)
    check_file(path, content)
    try:
        import_onnxruntime()
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise ImportError(
            "load needs onnxruntime, which runs the model in this process; "
            "pip install 'forwardpass[server]', or call a server with Client"
        ) from error
    folder = path.absolute().parent
    model, version = path.stem, "1"
    if path.name == "model.onnx" and _IN_REPOSITORY.fullmatch(folder.name):
        model, version = folder.parent.name, folder.name
    return LocalClient(path, content, Session(path, content, model, version, threads), threads)


class LocalClient(BlockingCalls):
    """The model of a file, as a server with only this model would serve it; made by `load`.

    All methods may be called from any number of threads at once. A call runs in the thread that
    makes it: there is nothing to wait for, and so no deadline. A forked process may use it; if it
    is pickled, the other process loads the file again.
    """

    def __init__(self, path: Path, content: bytes | None, session: Session, threads: int) -> None:
        self._path = path.absolute()
        self._again = partial(load, self._path, content=content, threads=threads)
        self._fetching = Lock()
        self._core = Core(str(path), self._fetching, forks=True)
        self._session: Session | None = session
        """The session; None once closed. A call in progress has its own reference."""
        self._metadata = session.spec
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

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._metadata.name

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process loads the file again: a session of onnxruntime cannot be pickled.
        return self._again, ()

    def prove(self) -> bool:
        """Run the samples that the file carries, as a server does; return whether it has some.

        Raises ModelFileError if an answer differs by more than float32 rounding explains: the file
        is damaged, or computes something else on this machine.
        """
        session = self._session
        if session is None:
            raise self._core.closed_error()
        return session.prove()

    def close(self) -> None:
        """Release the model, once the calls in progress are done."""
        self._core.closed = True
        self._session = None

    def _send(self, send: Send) -> Any:
        answer = self._answers.get(send.method)
        if answer is None:
            raise self._error(
                grpc.StatusCode.UNIMPLEMENTED,
                f"{send.method} needs a server with a repository, this is one file; use a Client",
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
        for tensors, specs in ((reply.inputs, spec.inputs), (reply.outputs, spec.outputs)):
            for tensor in specs:
                tensors.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return reply.SerializeToString()

    def _model_infer(self, request: bytes) -> bytes:
        # Written by our codec, which checked it: raw contents, one for each input.
        session = self._session
        if session is None:
            # Closed by another thread since the conversation checked it.
            raise self._core.closed_error()
        asked = pb.ModelInferRequest.FromString(request)
        spec = self._spec(asked.model_name, asked.model_version)
        feeds = {
            tensor.name: decode_raw(tensor.name, raw, tensor.datatype, tuple(tensor.shape))
            for tensor, raw in zip(asked.inputs, asked.raw_input_contents, strict=True)
        }
        outputs: dict[str, TensorSpec] = {tensor.name: tensor for tensor in spec.outputs}
        names = [output.name for output in asked.outputs] or list(outputs)
        run: Run = session.run
        if PARAMETER in asked.parameters:
            steps = asked.parameters[STEPS_PARAMETER].int64_param or DEFAULT_STEPS
            try:
                run, added = session.explained(asked.parameters[PARAMETER].string_param, steps)
            except (NoGradientError, OSError) as error:
                raise self._error(
                    grpc.StatusCode.UNIMPLEMENTED, f"this model cannot be explained: {error}"
                ) from error
            outputs |= {tensor.name: tensor for tensor in added}
            names += [tensor.name for tensor in added]
        try:
            arrays = run(feeds, names)
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
            datatype = outputs[name].datatype
            reply.outputs.add(name=name, datatype=datatype, shape=array.shape)
            reply.raw_output_contents.append(encode_raw(array, datatype))
        return reply.SerializeToString()

    def _has(self, model: str, version: str) -> bool:
        return model == self._metadata.name and version in ("", *self._metadata.versions)

    def _spec(self, model: str, version: str) -> ModelSpec:
        spec = self._metadata
        if not self._has(model, version):
            raise self._error(
                grpc.StatusCode.NOT_FOUND,
                f"model {model!r} version {version or 'any'} not found; "
                f"this file is {spec.name!r} version {spec.versions[0]}",
            )
        return spec

    def _error(self, code: grpc.StatusCode, details: str) -> ClientError:
        model = self._metadata.name
        return ERRORS[code](details, code=code, target=self._core.target, model=model)
