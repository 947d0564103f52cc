"""Int8 files on the real server: static ones are proven and batched, dynamic ones never."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import quantize_dynamic, quantize_static

from forwardpass.client import Client, InvalidInputError, load
from forwardpass.models import Dense, Input, Network, Output, export, publish, quantize
from forwardpass.proto.metadata import BATCH_INVARIANT, PROVENANCE, SAMPLES, Samples
from forwardpass.server.app import Server
from forwardpass.server.config import Config, Transport
from forwardpass.server.engine.row_wise import NotRowWiseError, prove_row_wise
from forwardpass.server.guard import Limits, check_file
from forwardpass.server.repository.catalog import Catalog

NETWORK = Network.chain([20, 32, 16, 1], "relu", "sigmoid", name="static")
ROWS = np.random.default_rng(0).standard_normal((256, 20)).astype(np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("int8")
    publish(quantize(NETWORK, ROWS), root)
    export(NETWORK, root / "float32.onnx")
    (root / "dynamic" / "1").mkdir(parents=True)
    # What onnxruntime's own preparation would leave: without it there are warnings.
    model = onnx.load(root / "float32.onnx")
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    kept = [each for each in model.metadata_props if each.key != SAMPLES]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    quantize_dynamic(model, root / "dynamic" / "1" / "model.onnx")
    (root / "float32.onnx").unlink()
    return root


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[Client]:
    with Server(Config(models=repository, port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            yield client


def file(repository: Path, name: str) -> Path:
    return repository / name / "1" / "model.onnx"


def test_a_static_file_is_proven_harmless_by_reading_it(repository: Path) -> None:
    checked = check_file(file(repository, "static"), root=repository, limits=Limits())

    assert checked.plain


def test_rows_of_a_static_file_are_proven_apart(repository: Path) -> None:
    prove_row_wise(onnx.load(file(repository, "static")).graph)


def test_a_static_file_is_batched_and_says_what_it_lost(client: Client) -> None:
    properties = client.metadata("static").properties

    assert properties[BATCH_INVARIANT] == "true"
    assert "largest error over largest answer" in properties[PROVENANCE]


def test_each_row_gets_the_bits_that_it_gets_alone_whoever_else_calls(
    client: Client, repository: Path
) -> None:
    session = onnxruntime.InferenceSession(file(repository, "static"))
    alone = np.concatenate([session.run(["y"], {"x": row[np.newaxis]})[0] for row in ROWS])
    wrong: list[int] = []
    start = threading.Barrier(8)

    def call(number: int) -> None:
        start.wait(30)
        for size in (1, 3, 16, 64):
            rows = np.random.default_rng([number, size]).permutation(len(ROWS))[:size]
            got = client.predict("static", ROWS[rows], timeout_s=60)["y"]
            if got.tobytes() != alone[rows].tobytes():
                wrong.append(size)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_whose_arithmetic_is_another_than_where_it_was_made_stays_out(
    repository: Path, tmp_path: Path
) -> None:
    model = onnx.load(file(repository, "static"))
    weights = next(each for each in model.graph.initializer if each.name == "W3_quantized")
    # As where the sum of two products is clipped: integers, and not the right ones.
    clipped = np.frombuffer(weights.raw_data, np.int8) // 2
    weights.raw_data = clipped.astype(np.int8).tobytes()
    onnx.save(model, tmp_path / "m.onnx")

    with Server(Config(models=tmp_path, port=0)) as server:
        assert "of its samples: expected" in _reason(server.catalog)


def test_the_tolerance_of_the_samples_is_the_loss_and_not_float32s(repository: Path) -> None:
    model = onnx.load(file(repository, "static"))
    text = next(each.value for each in model.metadata_props if each.key == SAMPLES)

    assert 1e-4 < Samples.load(text).tolerance["y"] < 0.05


def test_in_a_dynamic_file_a_rows_answer_depends_on_the_rows_beside_it(repository: Path) -> None:
    session = onnxruntime.InferenceSession(file(repository, "dynamic"))
    beside = np.vstack([ROWS[:1], 10 * ROWS[1:2]])

    (alone,) = session.run(["y"], {"x": ROWS[:1]})
    (together,) = session.run(["y"], {"x": beside})
    assert together[0] != alone[0]


def test_a_dynamic_file_is_never_batched(client: Client, repository: Path) -> None:
    with pytest.raises(NotRowWiseError, match="DynamicQuantizeLinear"):
        prove_row_wise(onnx.load(file(repository, "dynamic")).graph)

    told = client.metadata("dynamic").properties[BATCH_INVARIANT]
    assert told.startswith("not batched: ")
    assert "DynamicQuantizeLinear" in told


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_number_gets_no_number(
    client: Client, repository: Path, value: float
) -> None:
    rows = ROWS[:5].copy()
    rows[2, 7] = value
    with load(file(repository, "static")) as local:
        for each in (client, local):
            for size in (1, 5):
                got = np.concatenate(
                    [each.predict("static", rows[i : i + size])["y"] for i in range(0, 5, size)]
                )
                assert np.isnan(got[:, 0]).tolist() == [False, False, True, False, False]
                expected = each.predict("static", ROWS[:5])["y"]
                assert got[[0, 1, 3, 4]].tobytes() == expected[[0, 1, 3, 4]].tobytes()


@pytest.mark.parametrize("kind", ["dynamic", "qdq"])
def test_a_row_of_nan_is_refused_by_integers_of_others_and_its_neighbors_are_answered(
    kind: str, repository: Path, tmp_path: Path, transport: Transport
) -> None:
    if kind == "dynamic":
        path = file(repository, "dynamic")
    else:
        path = tmp_path / "m" / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save(_quantized_by_onnxruntime(tmp_path), path)
    rows = ROWS[:5].copy()
    rows[2, 7] = np.nan
    with (
        Server(Config(models=path, port=0, limits=Limits(general=True))) as server,
        Client(f"127.0.0.1:{server.port}") as client,
    ):
        name = server.catalog.index()[0].name
        with pytest.raises(InvalidInputError, match=r"got NaN at \[2, 7\]; leave the row out"):
            client.predict(name, rows)
        # Called at once, so that they may share a run.
        with ThreadPoolExecutor(5) as pool:
            calls = [pool.submit(client.predict, name, row) for row in rows]
        failed = [call.exception() is not None for call in calls]
        assert failed == [False, False, True, False, False]
        assert np.isfinite(calls[0].result()["y"]).all()


def _quantized_by_onnxruntime(folder: Path) -> onnx.ModelProto:
    """The network as onnxruntime's own quantize_static writes it, without its samples."""
    source, target = folder / "float32.onnx", folder / "qdq.onnx"
    export(NETWORK, source)
    model = onnx.load(source)
    del model.metadata_props[:]
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    quantize_static(model, target, _Rows())
    return onnx.load(target)


class _Rows:
    """A CalibrationDataReader, as far as it is called."""

    def __init__(self) -> None:
        self._left = iter([{"x": ROWS}])

    def get_next(self) -> Any:
        return next(self._left, None)


def test_every_output_of_a_static_file_passes_nan_on(tmp_path: Path) -> None:
    network = Network.define(
        Input(4, mean=[1, 2, 3, 4], scale=[1, 1, 2, 2]),
        [Dense("trunk", 8), Dense("a", 3, "softmax"), Dense("b", 2, "identity", reads="trunk")],
        ["a", "b", "trunk", Output("logits", "a", "z")],
    )
    rows = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    export(quantize(network, rows), tmp_path / "m.onnx")
    rows[1, 3] = np.nan
    with load(tmp_path / "m.onnx") as local:
        for array in local.predict("m", rows[:2]).values():
            assert not np.isnan(array[0]).any()
            assert np.isnan(array[1]).all()


def _reason(catalog: Catalog) -> str:
    return " ".join(entry.reason for entry in catalog.index())


def test_missing_values_are_filled_in_before_they_are_rounded(tmp_path: Path) -> None:
    network = Network.chain(
        [3, 8, 2], "tanh", input=Input(3, fill=[1, np.nan, -2], scale=[2, 2, 2]), name="gaps"
    )
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    publish(quantize(network, x), tmp_path)
    whole = Network.chain([3, 8, 2], input=Input(3, fill=[1, 2, 3]), name="whole")
    publish(quantize(whole, x), tmp_path)
    with Server(Config(models=tmp_path, port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            rows = np.array([[np.nan, 1, np.nan], [1, 1, -2], [1, np.nan, 1]], np.float32)
            filled, given, missing = client.predict("gaps", rows)["y"]
            assert filled.tobytes() == given.tobytes()
            assert np.isnan(missing).all()
            assert np.isfinite(client.predict("whole", np.full((1, 3), np.nan))["y"]).all()
