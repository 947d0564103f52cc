"""`forwardpass draw`: what it takes, what it writes, what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from cli.conftest import adder
from support import onnx_files
from support.command import run_here

from forwardpass.models import export
from forwardpass.models.zoo import ZOO

CANCER = ZOO["breast_cancer"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the adder as a file and in `nets.py`, and rows of patients."""
    export(adder(), tmp_path / "adder.onnx")
    (tmp_path / "nets.py").write_text(
        "from forwardpass.models import Network\nchain = Network.chain([2, 3, 1])\n"
    )
    return tmp_path


def test_an_exported_file_is_drawn_to_stdout(folder: Path) -> None:
    done = run_here("draw", "adder.onnx", cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == adder().to_svg()


def test_an_example_is_drawn_to_a_file(folder: Path) -> None:
    (folder / "cancer.svg").write_text("what was there")
    done = run_here("draw", "breast_cancer", "-o", "cancer.svg", cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert (folder / "cancer.svg").read_text(encoding="utf-8") == CANCER.network().to_svg()
    assert "wrote cancer.svg (" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["adder.onnx", "cancer.svg", "nets.py"]


def test_a_network_of_a_file_of_code_is_drawn(folder: Path) -> None:
    assert (
        "<title>network: 2 - 3 - 1</title>" in run_here("draw", "nets.py:chain", cwd=folder).stdout
    )


def test_a_file_of_another_producer_is_drawn(folder: Path) -> None:
    onnx_files.save(onnx_files.linear(), folder / "cars.onnx")  # its node is named `layer`
    done = run_here("draw", "cars.onnx", cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert "<title>cars: 3 - 2</title>" in done.stdout


@pytest.mark.parametrize("row", ["1.5,-2", " 1.5, -2 ", "row.csv", "row.npy", "rows.npy"])
def test_a_row_of_numbers_or_of_a_file_fills_the_neurons(folder: Path, row: str) -> None:
    # Columns are matched by their names, as `predict` does.
    (folder / "row.csv").write_text("b,a\n-2,1.5\n7,7\n")
    np.save(folder / "row.npy", [1.5, -2])
    np.save(folder / "rows.npy", [[1.5, -2], [7, 7]])
    done = run_here("draw", "adder.onnx", "--row", row, cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == adder().to_svg([1.5, -2])
    assert done.stdout.count(">  -2.5<") == 2  # a + 2b, ink and halo


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("adder",), 1, "'adder': expected one of lecture_3_3_1"),
        (("none.onnx",), 1, "none.onnx: No such file or directory"),
        (("slow.onnx",), 1, "input 'turns': expected floats of shape (rows, features)"),
        (("nets.py:none",), 1, "AttributeError"),
        (("adder.onnx", "-o", "adder.png"), 2, "--output: expected a .svg file, got 'adder.png'"),
        (("adder.onnx", "-o", "no/adder.svg"), 2, "there is no directory 'no'; make it first"),
        (("adder.onnx", "--row", "1,two"), 2, "--row: expected numbers with commas"),
        (("adder.onnx", "--row", "1,2,3"), 1, "expected one row, of shape [2], got [3]"),
        (("adder.onnx", "--row", "none.csv"), 1, "none.csv: No such file or directory"),
        (("adder.onnx", "--row", "header.csv"), 1, "header.csv: expected a row, got none"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    folder: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    onnx_files.save(onnx_files.slow(), folder / "slow.onnx")
    (folder / "header.csv").write_text("a,b\n")
    before = sorted(folder.iterdir())
    done = run_here("draw", *arguments, cwd=folder)
    assert done.code == code
    assert text in done.error
    assert done.stdout == ""
    assert sorted(folder.iterdir()) == before
