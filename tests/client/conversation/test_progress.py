"""The bar of a long prediction: where somebody watches."""

import ast
import os
import pty
import subprocess
import sys
from contextlib import suppress

import pytest
from support import onnx_files

PROGRAM = """
import sys
import numpy as np
{before}
from forwardpass.client import load
with load({path!r}) as client:
    y = client.predict("linear", np.ones((20_000, 3)), rows_per_call=100, progress=True)["y"]
print(y.shape)
"""


def shown_at_a_terminal(path, before=""):
    """Run the program with a terminal as its stderr; return what the terminal got."""
    ours, theirs = pty.openpty()
    program = PROGRAM.format(path=str(path), before=before)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        text=True,
    ) as process:
        os.close(theirs)
        shown = b""
        # Linux tells of the other side's end by an error.
        with suppress(OSError):
            while data := os.read(ours, 4096):
                shown += data
        assert process.stdout is not None
        assert process.stdout.read() == "(20000, 2)\n"
    os.close(ours)
    return shown.decode()


@pytest.fixture
def path(tmp_path):
    return onnx_files.save(onnx_files.linear(), tmp_path / "linear.onnx")


def test_a_bar_is_shown_at_a_terminal(path):
    shown = shown_at_a_terminal(path)
    assert "linear" in shown
    assert "%" in shown


def test_without_rich_nothing_is_shown(path):
    assert shown_at_a_terminal(path, "sys.modules['rich'] = None") == ""


def test_without_a_terminal_nothing_is_shown(path):
    program = PROGRAM.format(path=str(path), before="")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(20000, 2)\n", "")


# What Jupyter's kernel puts in the place of stderr: no terminal, and of its module.
NOTEBOOK = """
import io
class OutStream(io.StringIO):
    __module__ = "ipykernel.iostream"
sys.stderr = OutStream()
import atexit
atexit.register(lambda: sys.stdout.write(repr(sys.stderr.getvalue())))
"""


def test_a_line_is_shown_in_a_notebook(path):
    program = PROGRAM.format(path=str(path), before=NOTEBOOK)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shape, shown = done.stdout.splitlines()
    lines = ast.literal_eval(shown).split("\r")
    assert shape == "(20000, 2)"
    assert lines[1] == "linear: 100 of 20,000 rows (0%)"
    assert lines[-1] == "linear: 20,000 of 20,000 rows (100%)\n"
    assert len(lines) == 201


def test_without_a_stderr_nothing_is_shown(path):
    program = PROGRAM.format(path=str(path), before="sys.stderr = None")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(20000, 2)\n")
