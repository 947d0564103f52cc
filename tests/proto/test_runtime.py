"""onnxruntime as server, models and client have it: telemetry, types, options."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from support import onnx_files
from support.wire import texts

from forwardpass.proto.datatypes import DATATYPES
from forwardpass.proto.runtime import as_text, open_session, session_options, tensor_spec
from forwardpass.proto.spec import TensorSpec

WATCH_THE_IMPORT = """
import os, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "onnxruntime":
            print("imported with", os.environ.get("ORT_DISABLE_TELEMETRY"))
            # It would send telemetry where that is on.
            raise SystemExit

sys.meta_path.insert(0, Watch())
"""

DOORS = {
    "server": "import forwardpass.server.app",
    "metrics": "import forwardpass.server.observe.metrics",
    "trial": "import forwardpass.server.repository.trial_process",
    "doctor": "import forwardpass.cli.doctor.runtime",
    "client": "from forwardpass.client import load; load(sys.argv[1])",
    "models": "from forwardpass.models.file.runner import load_graph; load_graph(b'')",
    "int8": "from forwardpass.models.file.int8 import _static; _static(None, '', None)",
}


@pytest.mark.parametrize(("inherited", "expected"), [(None, "1"), ("0", "0")])
@pytest.mark.parametrize("door", DOORS)
def test_telemetry_is_off_by_the_import_unless_the_environment_says_otherwise(
    tmp_path: Path, door: str, inherited: str | None, expected: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    if inherited is not None:
        environment["ORT_DISABLE_TELEMETRY"] = inherited

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WATCH_THE_IMPORT + DOORS[door],
            str(onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout == f"imported with {expected}\n", done.stderr


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_is_read_from_a_session(datatype: str) -> None:
    model = onnx_files.identity(datatype, ["batch", None, 4]).SerializeToString()

    (value,) = open_session(model, session_options()).get_inputs()

    assert tensor_spec(value) == TensorSpec("x", datatype, (-1, -1, 4), ("batch", None, None))


@pytest.mark.parametrize("model", [onnx_files.identity("BF16", [1]), onnx_files.sequence()])
def test_what_the_wire_cannot_carry_has_no_spec(model: ModelProto) -> None:
    session = open_session(model.SerializeToString(), session_options())

    assert [tensor_spec(value) for value in session.get_outputs()] == [None]


def test_a_served_model_has_one_thread_no_arena_and_logs_nothing() -> None:
    options = session_options()

    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    for pool in ("intra", "inter"):
        assert options.get_session_config_entry(f"session.{pool}_op.allow_spinning") == "0"
    assert not options.enable_cpu_mem_arena
    assert options.log_severity_level == 4


def test_the_options_of_a_session_are_those_that_were_asked_for() -> None:
    options = session_options(threads=2, arena=True, log_severity=3)

    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 2)
    assert options.enable_cpu_mem_arena
    assert options.log_severity_level == 3


def test_bytes_become_text_of_the_same_shape() -> None:
    array = texts(b"", "größer".encode(), b"a\0b", b"x").reshape(2, 2)

    text = as_text(array)

    assert text.tolist() == [["", "größer"], ["a\0b", "x"]]
    with pytest.raises(UnicodeDecodeError):
        as_text(np.array([b"\xff"], dtype=object))
