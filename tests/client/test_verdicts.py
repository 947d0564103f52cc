"""The verdict of a row: scikit-learn's own, in client, in process, command line and server."""

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.command import run_here
from support.rpc import Stub

from forwardpass.client import Client, load
from forwardpass.models import from_sklearn, publish
from forwardpass.proto import inference_pb2 as pb
from forwardpass.proto.tensors import decode_raw
from forwardpass.server.app import Server
from forwardpass.server.config import Config

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verdicts")
    for name, model in (("binary", binary()), ("many", many()), ("multilabel", multilabel())):
        publish(from_sklearn(model[0], name=name), root)
    publish(from_sklearn(binary()[0], both_probabilities=True, name="both"), root)
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with Server(Config(models=repository, port=0)) as server:
        yield server


def binary() -> tuple[Any, NDArray[np.float32], list[str]]:
    x, y = load_breast_cancer(return_X_y=True)
    x, texts = x.astype(np.float32), np.array(["malignant", "benign"])[y]
    model = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=40, random_state=0))
    model.fit(x, texts)
    return model, x[:60], model.predict(x[:60]).tolist()


def many() -> tuple[Any, NDArray[np.float32], list[str]]:
    x, y = load_iris(return_X_y=True)
    x, texts = x.astype(np.float32), np.array(["setosa", "versicolor", "virginica"])[y]
    model = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=40, random_state=0))
    model.fit(x, texts)
    return model, x, model.predict(x).tolist()


def multilabel() -> tuple[Any, NDArray[np.float32], list[list[str]]]:
    x, _ = load_iris(return_X_y=True)
    x = x.astype(np.float32)
    model = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=40, random_state=0))
    model.fit(x, (x[:, :3] > np.median(x[:, :3], axis=0)).astype(int))
    expected = [[str(i) for i in np.flatnonzero(row)] for row in model.predict(x)]
    return model, x, expected


CASES = [("binary", binary), ("both", binary), ("many", many), ("multilabel", multilabel)]
each_model = pytest.mark.parametrize(("name", "case"), CASES)


def with_nan(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows, and one with a value that is not known."""
    return np.vstack([x, np.where(np.arange(x.shape[1]) == 1, np.nan, x[:1])]).astype(np.float32)


@each_model
def test_a_client_says_what_scikit_learn_says(
    name: str, case: Any, server: Server, repository: Path
) -> None:
    _, x, expected = case()
    assert len(set(map(str, expected))) > 1
    with Client(f"127.0.0.1:{server.port}") as client, load(model_file(repository, name)) as local:
        for each in (client, local):
            prediction = each.predict(name, with_nan(x))
            said = prediction.labels() if name == "multilabel" else prediction.label()
            assert said == [*expected, None]


@each_model
def test_the_command_line_says_what_scikit_learn_says(
    name: str, case: Any, server: Server, tmp_path: Path
) -> None:
    _, x, expected = case()
    np.save(tmp_path / "x.npy", with_nan(x))
    target = f"127.0.0.1:{server.port}"
    done = run_here("predict", name, "--input", "x.npy", "--target", target, cwd=tmp_path)
    assert done.code == 0, done.stderr
    said = [row["y"] for row in csv.DictReader(StringIO(done.stdout))]
    if name == "multilabel":
        expected = [";".join(labels) or "(none)" for labels in expected]
    assert said == [*expected, ""]


@pytest.mark.parametrize(("name", "case"), CASES[:3])
def test_the_servers_own_classification_says_what_scikit_learn_says(
    name: str, case: Any, server: Server, stub: Stub
) -> None:
    _, x, expected = case()
    rows = with_nan(x)
    request = pb.ModelInferRequest(model_name=name, raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    reply = stub.call("ModelInfer", request, pb.ModelInferResponse)
    texts = decode_raw("y", reply.raw_output_contents[0], "BYTES", (len(rows), 1))
    labels = [text.decode().split(":")[2:] for text in texts[:, 0]]
    assert labels == [*([label] for label in expected), []]


@pytest.fixture
def stub(server: Server) -> Iterator[Stub]:
    with Stub(server.port) as stub:
        yield stub


def model_file(repository: Path, name: str) -> Path:
    return repository / name / "1" / "model.onnx"
