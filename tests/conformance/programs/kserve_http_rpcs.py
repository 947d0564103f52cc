"""What KServe's InferenceRESTClient can ask. See report.py."""

import asyncio

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from report import NUMBERS, Report, extremes


def tensor(name: str, array: np.ndarray, datatype: str, *, binary: bool) -> InferInput:
    sent = InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array, binary_data=binary)
    return sent


async def main() -> None:
    with Report("kserve") as report:
        row, x, model, url = report.row, report.x, report.model, f"http://{report.rest}"
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))

        async def infer(rows: np.ndarray, *, binary: bool, **more: object) -> dict[str, np.ndarray]:
            sent = [tensor("x", rows, "FP32", binary=binary)]
            request = InferRequest(model, sent, **more)
            reply = await client.infer(url, request, model_name=model)
            return {output.name: output.as_numpy() for output in reply.outputs}

        with row("ServerLive"):
            assert await client.is_server_live(url)
        with row("ServerReady"):
            assert await client.is_server_ready(url)
        with row("ModelReady"):
            assert await client.is_model_ready(url, model)
        with row("JSON"):
            report.predicted("json", await infer(x, binary=False))
        with row("raw tensors"):
            report.predicted("binary", await infer(x, binary=True))
        with row("BYTES"):
            texts = np.array([b"one", "zwei \u00e4".encode(), b""], dtype=np.object_)
            for binary in (True, False):
                request = InferRequest("texts", [tensor("x", texts, "BYTES", binary=binary)])
                reply = await client.infer(url, request, model_name="texts")
                found = reply.outputs[0].as_numpy().ravel().tolist()
                assert [e if isinstance(e, bytes) else e.encode() for e in found] == texts.tolist()
        with row("every datatype"):
            for datatype in NUMBERS:
                values = extremes(datatype)
                for binary in (True, False) if datatype != "FP16" else (True,):
                    name = f"echo_{datatype}"
                    more = {"parameters": {"binary_data_output": True}} if binary else {}
                    sent = [tensor("x", values, datatype, binary=binary)]
                    reply = await client.infer(
                        url, InferRequest(name, sent, **more), model_name=name
                    )
                    found = reply.outputs[0].as_numpy()
                    assert found.dtype == values.dtype, datatype
                    np.testing.assert_array_equal(found, values)
        with row("chosen outputs"):
            first = report.first("worst")
            wanted = [RequestedOutput("worst")]
            found = await infer(x[:1], binary=False, request_outputs=wanted)
            assert {name: rows[0].tolist() for name, rows in found.items()} == {"worst": first}
        with row("the request's id"):
            request = InferRequest(
                model, [tensor("x", x[:1], "FP32", binary=False)], request_id="17"
            )
            assert (await client.infer(url, request, model_name=model)).id == "17"
        with row("parameters"):
            found = await infer(x[:1], binary=False, parameters={"mine": "text", "number": 7})
            assert found["worst"][0].tolist() == report.first("worst")
        with row("1,000 rows"):
            for binary in (True, False):
                found = await infer(np.resize(x, (1000, x.shape[1])), binary=binary)
                assert {len(array) for array in found.values()} == {1000}
        with row("at the same time"):
            together = await asyncio.gather(*(infer(one[None], binary=False) for one in x))
            joined = {name: np.concatenate([part[name] for part in together]) for name in found}
            report.predicted("at the same time", joined)
        with row("errors"):
            for name, columns, status in (("no such model", None, 404), (model, -1, 400)):
                request = InferRequest(name, [tensor("x", x[:, :columns], "FP32", binary=False)])
                try:
                    await client.infer(url, request, model_name=name)
                except httpx.HTTPStatusError as error:
                    assert error.response.status_code == status
                else:
                    raise AssertionError(f"{name} was answered")
        await client.close()


asyncio.run(main())
