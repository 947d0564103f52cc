"""Our client against servers that are not ours."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from conformance.conftest import PROGRAMS, running, wait_for
from support.clients import AnyClient
from support.ports import free_ports

from forwardpass.client import Client, InvalidInputError, ModelNotFoundError
from forwardpass.models import export, forward
from forwardpass.models.zoo import ZOO

MODEL = "breast_cancer"


@pytest.fixture(scope="module")
def mlserver(
    environment: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    python = environment("mlserver==1.7.*", "onnxruntime")
    home = tmp_path_factory.mktemp("mlserver")
    shutil.copy(PROGRAMS / "mlserver" / "runtime.py", home)
    export(ZOO[MODEL].network(), home / "model.onnx")
    names = ("http_port", "grpc_port", "metrics_port")
    ports = dict(zip(names, free_ports(3), strict=True))
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **ports}
    (home / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": MODEL,
        "implementation": "runtime.OnnxModel",
        "parameters": {"uri": "model.onnx", "version": "1"},
    }
    (home / "model-settings.json").write_text(json.dumps(model))
    target = f"127.0.0.1:{ports['grpc_port']}"
    log = home / "log"
    with running([python.with_name("mlserver"), "start", "."], log, cwd=home) as process:
        with Client(target, timeout_s=2) as client:
            wait_for(lambda: answers(client), process, log)
        yield target


def answers(client: Client) -> bool:
    try:
        return client.ready() and client.model_ready(MODEL)
    except Exception:
        return False


def test_mlserver_gives_our_client_the_reference_answers(
    mlserver: str, connect: Callable[[str], AnyClient]
) -> None:
    x = ZOO[MODEL].held_out().x
    expected = forward(ZOO[MODEL].network(), x)
    with connect(mlserver) as client:
        prediction = client.predict(MODEL, x)
    assert list(prediction) == list(expected)
    for name, reference in expected.items():
        assert np.abs(prediction[name] - reference).max() <= 2e-6 * np.abs(reference).max()


def test_mlserver_answers_one_row_without_the_row_axis(
    mlserver: str, connect: Callable[[str], AnyClient]
) -> None:
    x = ZOO[MODEL].held_out().x
    with connect(mlserver) as client:
        one, all_rows = client.predict(MODEL, x[0]), client.predict(MODEL, x)
    for name, array in all_rows.items():
        np.testing.assert_allclose(one[name], array[0], rtol=1e-5, atol=1e-6)


def test_a_mistake_is_caught_before_mlserver_sees_it(
    mlserver: str, connect: Callable[[str], AnyClient]
) -> None:
    with connect(mlserver) as client, pytest.raises(InvalidInputError) as caught:
        client.predict(MODEL, np.zeros((1, 29), np.float32))
    assert caught.value.code is None


def test_mlservers_own_errors_come_as_ours(
    mlserver: str, connect: Callable[[str], AnyClient]
) -> None:
    with connect(mlserver) as client, pytest.raises(ModelNotFoundError) as caught:
        client.predict("no such model", np.zeros((1, 30), np.float32))
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
