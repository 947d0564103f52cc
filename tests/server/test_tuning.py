"""What is measured of a model when it is loaded."""

from pathlib import Path

import numpy as np
from onnx import ModelProto, helper
from support import onnx_files

from forwardpass.models import Network, export
from forwardpass.server.runtime import Session
from forwardpass.server.tuning import Batching, tune


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


def test_a_model_of_text_is_not_batched(tmp_path: Path) -> None:
    assert "BYTES" in tuned(onnx_files.identity("BYTES", ["batch", 2]), tmp_path).reason


def test_rows_of_any_length_are_not_batched(tmp_path: Path) -> None:
    batching = tuned(onnx_files.identity("FP32", ["batch", "words"]), tmp_path)
    assert batching.max_rows == 1


def test_a_model_whose_rows_differ_in_a_batch_runs_unbatched(tmp_path: Path) -> None:
    # Random numbers differ from run to run, as do the kernels of some machines.
    model = onnx_files.linear()
    path = onnx_files.save(model, tmp_path / "m.onnx")

    class Drifting(Session):
        runs = 0

        def run(self, feeds, outputs):
            self.runs += 1
            return [
                array * np.float32(1 + 1e-7 * self.runs) for array in super().run(feeds, outputs)
            ]

    batching = tune(Drifting(path), model.graph)
    assert batching.max_rows == 1
    assert "differs in a batch of 2" in batching.reason
    assert batching.invariance == "false"


def test_integers_are_batched_too(tmp_path: Path) -> None:
    assert tuned(onnx_files.identity("INT64", ["batch", 3]), tmp_path).invariance == "true"
