"""Modules imported without their packages are the packages' own, whichever comes first."""

import subprocess
import sys

import pytest

ALONE = """
import sys
from forwardpass.server.importing import import_alone
from forwardpass.server.onnx_messages import ModelProto
notify = import_alone("watchfiles._rust_notify")
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"anyio", "ml_dtypes"}))
"""
PACKAGES = """
import onnx
import onnx.helper
import watchfiles
"""
SAME = """
assert onnx.ModelProto is ModelProto
assert watchfiles.main.RustNotify is notify.RustNotify
model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
assert isinstance(model, ModelProto)
assert onnx.onnx_ml_pb2.ModelProto is ModelProto
assert watchfiles._rust_notify is notify
assert onnx.__loader__ is onnx.__spec__.loader
assert type(onnx.__loader__).__name__ == "SourceFileLoader"
"""


@pytest.mark.parametrize(
    ("program", "imported"),
    [(ALONE + PACKAGES + SAME, ""), (PACKAGES + ALONE + SAME, "anyio ml_dtypes")],
)
def test_a_module_is_imported_alone_and_is_the_packages_own(program: str, imported: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (imported, "")


def test_what_is_not_there_is_missing() -> None:
    program = "from forwardpass.server.importing import import_alone; import_alone('no_such.part')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'no_such'" in done.stderr
