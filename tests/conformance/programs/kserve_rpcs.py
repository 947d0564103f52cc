"""What KServe's InferenceGRPCClient can ask, and its own stub where that client has no method.

See report.py.
"""

import asyncio

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.infer_type import InferResponse, RequestedOutput
from report import NUMBERS, TURNS, Report, extremes


def tensor(name: str, array: np.ndarray, datatype: str, *, typed: bool = False) -> InferInput:
    sent = InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=not typed)
    return sent


def arrays(reply: InferResponse) -> dict[str, np.ndarray]:
    return {output.name: output.as_numpy() for output in reply.outputs}


class Tried:
    """One client, row by row."""

    def __init__(self, report: Report, client: InferenceGRPCClient, channel: grpc.aio.Channel):
        self.report = report
        self.client = client
        self.stub = GRPCInferenceServiceStub(channel)
        self.x = report.x
        self.model = report.model

    def sent(self, rows: np.ndarray, *, typed: bool = False) -> list[InferInput]:
        return [tensor(self.input_name, rows, "FP32", typed=typed)]

    async def code_of(self, request: InferRequest, **options: object) -> str:
        try:
            await self.client.infer(request, **options)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    async def server(self) -> None:
        row, client = self.report.row, self.client
        with row("ServerLive"):
            assert await client.is_server_live()
        with row("ServerReady"):
            assert await client.is_server_ready()
        with row("ServerMetadata"):
            metadata = await self.stub.ServerMetadata(pb.ServerMetadataRequest())
            assert metadata.name == "forwardpass"
        with row("ModelReady"):
            assert await client.is_model_ready(self.model)
            assert not await client.is_model_ready("no such model")
        with row("ModelMetadata"):
            metadata = await self.stub.ModelMetadata(pb.ModelMetadataRequest(name=self.model))
            self.input_name = metadata.inputs[0].name
            self.names = [output.name for output in metadata.outputs]
            assert list(metadata.inputs[0].shape) == [-1, self.x.shape[1]]

    async def infer(self) -> None:
        row, client, x, model = self.report.row, self.client, self.x, self.model
        with row("raw tensors", "at the same time"):
            reply = await client.infer(InferRequest(model, self.sent(x)))
            self.report.predicted("raw", arrays(reply))
            parts = await asyncio.gather(
                *(client.infer(InferRequest(model, self.sent(one[np.newaxis]))) for one in x)
            )
            joined = {n: np.concatenate([arrays(part)[n] for part in parts]) for n in self.names}
            self.report.predicted("at the same time", joined)
        with row("typed contents"):
            reply = await client.infer(InferRequest(model, self.sent(x, typed=True)))
            self.report.predicted("typed", arrays(reply))
            counts = np.array([[2**62 + 1, -1, 0]], np.int64)
            sent = [tensor("x", counts, "INT64", typed=True)]
            reply = await client.infer(InferRequest("counts", sent))
            np.testing.assert_array_equal(arrays(reply)["y"], counts)
        with row("BYTES"):
            texts = np.array([b"one", "zwei \u00e4".encode(), b""], dtype=np.object_)
            for typed in (False, True):
                sent = [tensor("x", texts, "BYTES", typed=typed)]
                reply = await client.infer(InferRequest("texts", sent))
                assert arrays(reply)["y"].tolist() == texts.tolist(), typed
        with row("every datatype"):
            for datatype in NUMBERS:
                values = extremes(datatype)
                # FP16 travels raw alone.
                for typed in (False, True) if datatype != "FP16" else (False,):
                    tensors = [tensor("x", values, datatype, typed=typed)]
                    reply = await client.infer(InferRequest(f"echo_{datatype}", tensors))
                    got = arrays(reply)["y"]
                    assert got.dtype == values.dtype, datatype
                    np.testing.assert_array_equal(got, values)
        with row("chosen outputs"):
            chosen = self.names[::-1][:1]
            wanted = [RequestedOutput(name) for name in chosen]
            request = InferRequest(model, self.sent(x[:2]), request_outputs=wanted)
            assert list(arrays(await client.infer(request))) == chosen
        with row("a version"):
            rows = np.array([[1, 2, 3]], np.float32)
            for version, ran, answer in (
                (None, "2", [[14.5, 31.5]]),
                ("2", "2", [[14.5, 31.5]]),
                ("1", "1", rows.tolist()),
            ):
                sent = [tensor("x", rows, "FP32")]
                reply = await client.infer(InferRequest("versions", sent, model_version=version))
                assert reply.model_version == ran
                assert arrays(reply)["y"].tolist() == answer
        with row("the request's id"):
            reply = await client.infer(InferRequest(model, self.sent(x[:1]), request_id="17"))
            assert reply.id == "17"
        with row("parameters"):
            # Its tensors say their size in a parameter of their own; callers may add more.
            parameters = {"mine": "text", "number": 7, "flag": True}
            request = InferRequest(model, self.sent(x[:1]), parameters=parameters)
            assert request.inputs[0].parameters == {"binary_data_size": x[:1].nbytes}
            outputs = arrays(await client.infer(request, headers=[("x-request-id", "17")]))
            assert outputs[self.names[0]][0].tolist() == self.report.first(self.names[0])
        with row("1,000 rows"):
            many = np.resize(x, (1000, x.shape[1]))
            outputs = arrays(await client.infer(InferRequest(model, self.sent(many))))
            assert {len(array) for array in outputs.values()} == {1000}
            first = {name: array[: len(x)] for name, array in outputs.items()}
            self.report.predicted("1,000 rows", first)
        with row("a deadline"):
            turns = tensor("turns", np.array(TURNS, np.int64), "INT64")
            code = await self.code_of(InferRequest("slow", [turns]), timeout=0.1)
            assert code == "DEADLINE_EXCEEDED", code
        with row("errors"):
            code = await self.code_of(InferRequest("no such model", self.sent(x)))
            assert code == "NOT_FOUND", code
            code = await self.code_of(InferRequest(model, self.sent(x[:, :-1])))
            assert code == "INVALID_ARGUMENT", code

    async def repository(self) -> None:
        """Load and unload as KServe has it: the name in field 1, and a reply that tells."""
        with self.report.row("RepositoryModelUnload", "RepositoryModelLoad"):
            unload = pb.RepositoryModelUnloadRequest(model_name=self.model)
            reply = await self.stub.RepositoryModelUnload(unload)
            assert (reply.model_name, reply.isUnloaded) == (self.model, True)
            assert not await self.client.is_model_ready(self.model)
            load = pb.RepositoryModelLoadRequest(model_name=self.model)
            reply = await self.stub.RepositoryModelLoad(load)
            assert (reply.model_name, reply.isLoaded) == (self.model, True)
            assert await self.client.is_model_ready(self.model)
            try:
                await self.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="no"))
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.NOT_FOUND, error.code()
            else:
                raise AssertionError("a model that is not there was loaded")


async def main() -> None:
    with Report("kserve") as report:
        async with (
            InferenceGRPCClient(report.target, timeout=60) as client,
            grpc.aio.insecure_channel(report.target) as channel,
        ):
            tried = Tried(report, client, channel)
            await tried.server()
            await tried.infer()
            await tried.repository()


asyncio.run(main())
