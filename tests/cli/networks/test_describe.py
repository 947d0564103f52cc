"""`forwardpass describe`: names for the columns of anybody's file, which is served with them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support import onnx_files
from support.command import run, run_here

from forwardpass.client import Client
from forwardpass.models import export
from forwardpass.models.zoo import ZOO
from forwardpass.server.app import Server
from forwardpass.server.config import Config


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return onnx_files.save(onnx_files.linear(), tmp_path / "theirs.onnx")


def test_labels_and_thresholds_of_a_file_served_as_it_is_reach_its_callers(
    theirs: Path, tmp_path: Path
) -> None:
    named = tmp_path / "named.onnx"

    done = run(
        *("describe", theirs, "-o", named, "--labels", "benign, malignant"),
        *("--thresholds", "y=0.5,7", "--features", "x=a,b,c"),
    )

    assert (done.code, done.stdout) == (0, f"wrote {named}\n")
    with Server(Config(models=named, port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            prediction = client.predict("named", {"x": np.ones((1, 3), np.float32)})
            spec = client.metadata("named")
    assert prediction["y"].tolist() == [[6.5, 14.5]]
    assert '"labels":["benign","malignant"]' in spec.properties["forwardpass.outputs"]
    assert '"labels":["a","b","c"]' in spec.properties["forwardpass.inputs"]


@pytest.mark.parametrize("tool", ["float16", "quantize_dynamic"])
def test_our_file_as_onnxruntimes_tools_leave_it_is_refused_with_a_way_out_that_works(
    tool: str, tmp_path: Path
) -> None:
    path, changed, named = (tmp_path / f"{name}.onnx" for name in ("ours", "changed", "named"))
    export(ZOO["breast_cancer"].network(), path)
    if tool == "float16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(path)), changed)
        says = "expected the sample of input 'x' to be FP16 as in the graph, got FP32"
    else:
        from onnxruntime.quantization import quantize_dynamic

        quantize_dynamic(path, changed)
        says = "at [0, 0] of its samples: expected"
    refused = run("serve", changed, "--port", "0")
    assert refused.code == 1
    assert says in refused.stderr
    assert "forwardpass describe FILE --output NEW --drop-samples" in refused.stderr

    assert run_here("describe", changed, "--output", named, "--drop-samples").code == 0

    with Server(Config(models=named, port=0)) as server:
        with Client(f"127.0.0.1:{server.port}") as client:
            assert client.model_ready("named")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--labels", "z=a,b"], 1, "outputs: expected some of 'y', got 'z'"),
        (["--labels", "a,b,c"], 1, "labels of 'y': expected 2, one for each column, got 3"),
        (["--thresholds", "0.5,much"], 2, "--thresholds 0.5,much: expected numbers"),
    ],
)
def test_what_does_not_fit_is_refused(
    theirs: Path, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    done = run_here("describe", theirs, "-o", tmp_path / "named.onnx", *arguments)

    assert done.code == code
    assert says in done.error
    assert not (tmp_path / "named.onnx").exists()


def test_a_name_is_needed_where_there_are_several(tmp_path: Path) -> None:
    pair = onnx_files.save(onnx_files.pair(), tmp_path / "pair.onnx")

    done = run_here("describe", pair, "-o", tmp_path / "n.onnx", "--labels", "a,b")

    assert done.error.startswith("--labels a,b: expected NAME=..., of total, difference")


def test_what_is_there_is_not_overwritten_unasked(theirs: Path) -> None:
    before = theirs.read_bytes()

    assert "exists already" in run_here("describe", theirs, "-o", theirs, "--labels", "a,b").error
    assert theirs.read_bytes() == before

    assert run_here("describe", theirs, "-o", theirs, "--labels", "a,b", "--overwrite").code == 0
    assert onnx.load(theirs).graph == onnx_files.linear().graph


def test_weights_in_other_files_stay_beside_the_model(tmp_path: Path) -> None:
    model = onnx_files.without_its_weights()
    theirs = onnx_files.save(model, tmp_path / "theirs.onnx")
    assert model.graph.initializer[0].data_location == TensorProto.EXTERNAL

    done = run_here("describe", theirs, "-o", tmp_path / "other" / "n.onnx", "--labels", "a,b")

    assert "weights in files beside it" in done.error
    assert run_here("describe", theirs, "-o", tmp_path / "n.onnx", "--labels", "a,b").code == 0
