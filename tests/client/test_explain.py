"""Explanations through every client: a server's, asked with threads or asyncio, and a file's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forwardpass.client import ClientError, InvalidInputError, load
from forwardpass.models import publish
from forwardpass.models.zoo import ZOO
from forwardpass.models.zoo.penguins import FEATURES as MEASURED
from forwardpass.server import Config, Server

NETWORK = ZOO["breast_cancer"].network()
X = np.asarray(ZOO["breast_cancer"].held_out().x[:30], np.float32)
FEATURES = NETWORK.input.features
PENGUINS = ZOO["penguins"].network()
ROWS = ZOO["penguins"].held_out()[:30].x


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explained")
    publish(NETWORK, root)
    publish(PENGUINS, root)
    return root


@pytest.fixture(scope="module")
def target(repository: Path) -> Iterator[str]:
    with Server(Config(models=repository, port=0)) as server:
        yield f"localhost:{server.port}"


@pytest.fixture(params=["server", "file"])
def client(
    request: pytest.FixtureRequest, repository: Path, target: str, connect: Callable[..., Any]
) -> Iterator[Any]:
    if request.param == "file":
        yield load(repository / "breast_cancer/1/model.onnx")
        return
    with connect(target) as connected:
        yield connected


def test_attributions_come_by_feature(client: Any) -> None:
    answer = client.predict("breast_cancer", X, explain="worst:worst area")
    wanted = NETWORK.explain(X, "worst", "worst area")
    assert tuple(answer.attributions) == FEATURES
    scale = np.abs(wanted.attributions).max()
    for column, values in enumerate(answer.attributions.values()):
        np.testing.assert_allclose(values, wanted.attributions[:, column], atol=1e-5 * scale)
    np.testing.assert_allclose(answer["explain.worst.error"], wanted.error, atol=1e-5 * scale)
    np.testing.assert_array_equal(answer["worst"], client.predict("breast_cancer", X)["worst"])
    table = answer.table()
    np.testing.assert_array_equal(
        table[f"explain.worst.{FEATURES[2]}"], answer.attributions[FEATURES[2]]
    )


@pytest.fixture(params=["server", "file"])
def penguins(
    request: pytest.FixtureRequest, repository: Path, target: str, connect: Callable[..., Any]
) -> Iterator[Any]:
    if request.param == "file":
        yield load(repository / "penguins/1/model.onnx")
        return
    with connect(target) as connected:
        yield connected


def test_several_inputs_and_categories_come_by_feature(penguins: Any) -> None:
    answer = penguins.predict("penguins", ROWS, explain="species:Gentoo")
    wanted = PENGUINS.explain(ROWS, "species", "Gentoo")
    features = [*MEASURED, "island", "sex"]
    assert list(answer.attributions) == features
    for column, values in enumerate(answer.attributions.values()):
        np.testing.assert_allclose(values, wanted.attributions[:, column], atol=1e-5)
    np.testing.assert_allclose(answer["explain.species.error"], wanted.error, atol=1e-5)
    assert answer.table().keys() >= {f"explain.species.{each}" for each in features}
    row = {name: each[3] for name, each in ROWS.items()}
    one = penguins.predict("penguins", row, explain="species:Gentoo")
    np.testing.assert_array_equal(one["explain.species"], answer["explain.species"][3])
    cut = penguins.predict("penguins", ROWS, explain="species:Gentoo", rows_per_call=7)
    assert cut == answer


def test_one_row_pieces_and_chosen_outputs(client: Any) -> None:
    whole = client.predict("breast_cancer", X, explain="malignancy", outputs=["malignancy"])
    assert list(whole) == ["malignancy", "explain.malignancy", "explain.malignancy.error"]
    cut = client.predict(
        "breast_cancer", X, explain="malignancy", outputs=["malignancy"], rows_per_call=7
    )
    assert cut == whole
    one = client.predict("breast_cancer", X[3], explain="malignancy")
    assert one["explain.malignancy"].shape == (30,)
    assert one["explain.malignancy.error"].shape == ()
    assert one.label("malignancy") == whole.label("malignancy")[3]
    few = client.predict("breast_cancer", X, explain="malignancy", explain_steps=16)
    wanted = NETWORK.explain(X, "malignancy", steps=16)
    np.testing.assert_allclose(few["explain.malignancy"], wanted.attributions, atol=1e-5)


def test_mistakes_are_named(client: Any) -> None:
    for explain, text in (("risk", "worst, malignancy"), ("worst", "0 to 9"), ("worst:x", "'x'")):
        with pytest.raises(InvalidInputError, match=text):
            client.predict("breast_cancer", X, explain=explain)
    with pytest.raises(InvalidInputError, match="explain_steps"):
        client.predict("breast_cancer", X, explain_steps=16)
    with pytest.raises(ClientError, match="16, 32, 64, 128, 256"):
        client.predict("breast_cancer", X, explain="malignancy", explain_steps=17)
    with pytest.raises(ValueError, match="explain="):
        _ = client.predict("breast_cancer", X).attributions
