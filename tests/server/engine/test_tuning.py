"""What is measured of a model when it is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper
from support import onnx_files

from forwardpass.models import Categorical, Dense, Input, Network, export, to_onnx
from forwardpass.server.engine.session import Session
from forwardpass.server.engine.tuning import Batching, may_batch, tune


def tuned(model: ModelProto, tmp_path: Path) -> Batching:
    path = onnx_files.save(model, tmp_path / "m.onnx")
    return tune(Session(path), model.graph)


def test_a_dense_network_is_batched_as_far_as_it_pays(tmp_path: Path) -> None:
    import onnx

    export(Network.chain([30, 64, 32, 2]), tmp_path / "m.onnx")
    batching = tune(Session(tmp_path / "m.onnx"), onnx.load(tmp_path / "m.onnx").graph)
    assert batching.invariance == "true"
    assert batching.reason == ""
    assert list(batching.curve_us) == [1, 8, 64, 512]
    assert batching.max_rows in batching.curve_us
    per_row = {rows: us / rows for rows, us in batching.curve_us.items()}
    assert per_row[batching.max_rows] < per_row[1]


def test_a_model_that_mixes_rows_is_never_batched(tmp_path: Path) -> None:
    model = onnx_files.build(
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [onnx_files.tensor("x", "FP32", ["batch", 3])],
        [onnx_files.tensor("y", "FP32", ["batch", 3])],
    )
    batching = tuned(model, tmp_path)
    assert batching.max_rows == 1
    assert batching.invariance.startswith("not batched")
    assert "Softmax" in batching.reason


def test_a_model_that_answers_text_is_not_batched(tmp_path: Path) -> None:
    assert "BYTES" in tuned(onnx_files.identity("BYTES", ["batch", 2]), tmp_path).reason


def test_a_model_that_reads_text_is_batched(tmp_path: Path) -> None:
    inputs: list[Input | Categorical] = [
        Categorical("c", ["a", "b"]),
        Categorical("d", [7, 9]),
        Input(2),
    ]
    model = to_onnx(Network.define(inputs, [Dense("h", 64), Dense("y", 3, "softmax")]))
    assert tuned(model, tmp_path).invariance == "true"
    assert may_batch(model.graph)


def test_categories_of_many_bytes_are_not_tried(tmp_path: Path) -> None:
    class Counting(Session):
        longest = 0

        def run(
            self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str], *more: Any
        ) -> list[NDArray[Any]]:
            self.longest = max(self.longest, *map(len, feeds["c"].ravel()))
            return super().run(feeds, outputs, *more)

    inputs: list[Input | Categorical] = [Categorical("c", ["a" * 300, "bb"]), Input(2)]
    model = to_onnx(Network.define(inputs, [Dense("y", 3)]))
    session = Counting(onnx_files.save(model, tmp_path / "m.onnx"))
    assert tune(session, model.graph).invariance == "true"
    assert session.longest == 2


def test_rows_of_any_length_are_not_batched(tmp_path: Path) -> None:
    batching = tuned(onnx_files.identity("FP32", ["batch", "words"]), tmp_path)
    assert batching.max_rows == 1


def test_a_model_whose_rows_differ_in_a_batch_runs_unbatched(tmp_path: Path) -> None:
    # Random numbers differ from run to run, as do the kernels of some machines.
    model = onnx_files.linear()
    path = onnx_files.save(model, tmp_path / "m.onnx")

    class Drifting(Session):
        runs = 0

        def run(
            self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str], *more: Any
        ) -> list[NDArray[Any]]:
            self.runs += 1
            arrays = super().run(feeds, outputs, *more)
            return [array * np.float32(1 + 1e-7 * self.runs) for array in arrays]

    batching = tune(Drifting(path), model.graph)
    assert batching.max_rows == 1
    assert "differs in a batch of 2" in batching.reason
    assert batching.invariance == "false"


def test_integers_are_batched_too(tmp_path: Path) -> None:
    assert tuned(onnx_files.identity("INT64", ["batch", 3]), tmp_path).invariance == "true"
