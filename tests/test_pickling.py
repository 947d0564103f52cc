"""What passes from one process to another: every error of ours, specs, proofs, loaded models."""

import importlib
import inspect
import pickle
import pkgutil
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import forwardpass
from forwardpass.client import AsyncClient, Client, ClientError, LocalClient, load
from forwardpass.models import Input, Network, NetworkError, export, quantize
from forwardpass.proto.metadata import MetadataError, Samples
from forwardpass.proto.spec import TensorError


def our_errors() -> Iterator[type[Exception]]:
    for module in pkgutil.walk_packages(forwardpass.__path__, "forwardpass."):
        if module.name.rpartition(".")[2] != "__main__":
            for _, value in inspect.getmembers(importlib.import_module(module.name)):
                ours = inspect.isclass(value) and value.__module__ == module.name
                # What ends a connection or a stream never leaves it.
                if ours and issubclass(value, Exception) and ".http2." not in module.name:
                    yield value


def made(error_type: type[Exception]) -> Exception:
    """An error as it is raised, from what its constructor takes."""
    arguments: dict[str, Any] = {}
    places: list[Any] = []
    for parameter in list(inspect.signature(error_type.__init__).parameters.values())[1:]:
        kind = str(parameter.annotation)
        value: Any = "a text"
        if "TensorError" in kind:
            value = TensorError("input 'x'", expected="a", got="b", fix="c")
        elif "Answer" in kind:
            continue
        elif "Mapping" in kind:
            value = {"a": "b"}
        elif any(each in kind for each in ("Sequence", "Collection", "tuple", "Iterable")):
            value = ("a", "b")
        elif "StatusCode" in kind:
            value = grpc.StatusCode.NOT_FOUND
        elif "int" in kind or "float" in kind:
            value = 3
        if parameter.kind is parameter.KEYWORD_ONLY:
            arguments[parameter.name] = value
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            places.append(value)
    if error_type.__name__ == "OtherVersionError":
        from forwardpass.client._messages.codec import Answer, Request

        places.insert(0, Answer("2", b"reply", Request(b"data", ("y",), False)))
    return error_type(*places, **arguments)


ERRORS = sorted(set(our_errors()), key=lambda each: (each.__module__, each.__name__))


@pytest.mark.parametrize(
    "error_type", ERRORS, ids=lambda each: f"{each.__module__}.{each.__name__}"
)
def test_an_error_passes_whole(error_type: type[Exception]) -> None:
    error = made(error_type)
    error.add_note("after 3 calls")
    received = pickle.loads(pickle.dumps(error))
    assert type(received) is error_type
    assert str(received) == str(error)
    assert "".join(traceback.format_exception_only(received)) == "".join(
        traceback.format_exception_only(error)
    )
    assert {key: str(value) for key, value in vars(received).items()} == {
        key: str(value) for key, value in vars(error).items()
    }
    assert getattr(received, "name", "") == getattr(error, "name", "")


def test_there_are_errors_of_every_part() -> None:
    parts = {error_type.__module__.split(".")[1] for error_type in ERRORS}
    assert parts == {"cli", "client", "models", "proto", "server"}
    assert {NetworkError, TensorError, MetadataError, ClientError} <= set(ERRORS)


def wrong(number: int) -> None:
    Input(-number)


def answer(client: LocalClient, rows: np.ndarray) -> np.ndarray:
    return client.predict("net", rows)["y"]


def test_a_workers_mistake_reaches_the_pool_and_a_loaded_model_its_workers(tmp_path: Path) -> None:
    network = Network.chain([3, 2], name="net")
    export(network, tmp_path / "net.onnx")
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(NetworkError, match="input"):
            pool.submit(wrong, 1).result(60)
        with load(tmp_path / "net.onnx") as client:
            here = answer(client, rows)
            assert pool.submit(answer, client, rows).result(60).tobytes() == here.tobytes()


def test_a_loaded_model_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(Network.chain([3, 2], name="net"), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(load("net.onnx"))
    monkeypatch.chdir("/")
    with pickle.loads(pickled) as client:
        assert client.predict("net", np.zeros(3))["y"].shape == (2,)


@pytest.mark.parametrize("client_type", [Client, AsyncClient])
def test_a_client_says_what_to_do(client_type: Any) -> None:
    client = client_type("127.0.0.1:1")
    with pytest.raises(TypeError, match=r"pass its target \('127.0.0.1:1'\) on, and make a client"):
        pickle.dumps(client)
    if client_type is Client:
        client.close()


def test_specs_samples_and_quantized_networks_pass(tmp_path: Path) -> None:
    network = Network.chain([3, 2], name="net")
    export(network, tmp_path / "net.onnx")
    with load(tmp_path / "net.onnx") as client:
        spec = client.metadata("net")
    assert pickle.loads(pickle.dumps(spec)) == spec
    rows = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    quantized = quantize(network, rows)
    received = pickle.loads(pickle.dumps(quantized))
    assert (received.content, received.loss) == (quantized.content, quantized.loss)
    samples = Samples({"x": rows}, {"y": rows}, {"y": 1.0})
    assert pickle.loads(pickle.dumps(Samples.load(samples.dump()))).dump() == samples.dump()
