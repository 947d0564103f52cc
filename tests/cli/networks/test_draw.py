"""`forwardpass draw`: what it takes, what it writes, what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from cli.conftest import adder
from support import onnx_files
from support.command import run_here

from forwardpass.models import Categorical, Dense, Input, Network, export
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
    done = run_here("draw", "breast_cancer", "-o", "cancer.svg", cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert (folder / "cancer.svg").read_text(encoding="utf-8") == CANCER.network().to_svg()
    assert "wrote cancer.svg (" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["adder.onnx", "cancer.svg", "nets.py"]


def test_a_picture_that_exists_is_replaced_only_on_request(folder: Path) -> None:
    picture = folder / "drawn.svg"
    picture.write_text("kept")

    refused = run_here("draw", "breast_cancer", "--output", "drawn.svg", cwd=folder)

    assert refused.code == 1
    assert "drawn.svg exists already; --overwrite replaces it" in refused.stderr
    assert picture.read_text() == "kept"
    run_here("draw", "breast_cancer", "--output", "drawn.svg", "--overwrite", cwd=folder)
    assert picture.read_text(encoding="utf-8") == CANCER.network().to_svg()


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
    np.save(folder / "rows.npy", [[1.5, -2.0], [7.0, 7.0]])
    done = run_here("draw", "adder.onnx", "--row", row, cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == adder().to_svg([1.5, -2])
    assert done.stdout.count(">  -2.5<") == 2  # a + 2b, ink and halo


def test_a_row_of_several_inputs_is_an_object_of_its_columns(folder: Path) -> None:
    inputs: list[Input | Categorical] = [
        Input(1, "age", fill=[3]),
        Categorical("color", ["red", "blue"]),
    ]
    network = Network.define(inputs, [Dense("y", 2, "softmax")])
    export(network, folder / "mixed.onnx")
    row = '{"age": null, "color": "blue"}'
    done = run_here("draw", "mixed.onnx", "--row", row, cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == network.to_svg({"age": 3, "color": "blue"})
    for given, text in (
        ("1,2", "--row: expected a JSON object of values by column"),
        ('{"age": 3', "--row: expected a JSON object, got"),
        ('{"age": 3}', "got none for 'color'"),
    ):
        assert text in run_here("draw", "mixed.onnx", "--row", given, cwd=folder).error
    (folder / "mixed.onnx").unlink()


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
        (
            ("adder.onnx", "--row", "1,2,3"),
            1,
            "expected shape [-1, 2], got [1, 3]; axis 1 must be 2",
        ),
        (("adder.onnx", "--row", "none.csv"), 1, "none.csv: No such file or directory"),
        (("adder.onnx", "--row", "header.csv"), 1, "header.csv: expected a row, got none"),
    ],
)
def test_what_cannot_be_drawn_is_reported_in_one_line(
    folder: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    onnx_files.save(onnx_files.slow(), folder / "slow.onnx")
    (folder / "header.csv").write_text("a,b\n")
    before = files_in(folder)
    done = run_here("draw", *arguments, cwd=folder)
    assert done.code == code
    assert text in done.error
    assert done.stdout == ""
    assert files_in(folder) == before


def files_in(folder: Path) -> list[Path]:
    """All but Python's bytecode of a module in it, which depends on the environment."""
    return sorted(path for path in folder.iterdir() if path.name != "__pycache__")
