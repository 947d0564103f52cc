"""`forwardpass inspect`: what is in a file, ours or anyone's."""

from pathlib import Path

import pytest
from cli.conftest import adder
from support import onnx_files
from support.command import run, run_here

from forwardpass.models import Network, export
from forwardpass.proto.metadata import OUTPUTS


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    export(adder(), tmp_path / "adder.onnx")
    return tmp_path / "adder.onnx"


def cells(output: str) -> list[list[str]]:
    """The cells of every row of the tables."""
    rows = [line for line in output.splitlines() if line.startswith(("│", "┃"))]
    return [[cell.strip() for cell in line[1:-1].replace("┃", "│").split("│")] for line in rows]


def test_a_file_of_ours_shows_layers_and_columns_with_their_units(ours: Path) -> None:
    done = run("inspect", ours)
    assert done.code == 0
    rows = cells(done.stdout)
    assert ["L_1", "x", "2", "", "", "", ""] in rows
    assert ["L_2", "mixed", "2", "identity", "x", "2 x 2", "6"] in rows
    assert ["", "", "", "", "", "", "9"] in rows
    assert ["input", "x", "FLOAT", "[batch, 2]", "a (mm), b"] in rows
    assert ["output", "y", "FLOAT", "[batch, 2]", "a + 2b (mm), a - b (mm)"] in rows
    assert ["output", "sum", "FLOAT", "[batch, 1]", "both together"] in rows
    assert "opset 17, IR 8" in done.stdout


def test_a_file_shows_above_what_its_labels_hold(tmp_path: Path) -> None:
    network = Network.chain([2, 3], labels=("a", "b", "c"), thresholds=(0.25, -1, 1e-9))
    export(network, tmp_path / "m.onnx")
    done = run_here("inspect", tmp_path)
    assert ["output", "y", "FLOAT", "[batch, 3]", "a > 0.25, b > -1, c > 1e-09"] in cells(
        done.stdout
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_a_repository_shows_every_version_in_the_columns_there_are(
    repository: Path, columns: int
) -> None:
    done = run_here("inspect", repository, columns=columns)
    assert done.code == 0
    for title in ("adder version 1", "adder version 2", "breast_cancer version 1", "pair version"):
        assert title in done.stdout
    assert "mean radius, mean texture" in done.stdout
    assert "26 more" in done.stdout
    assert "provenance" in done.stdout
    tables = [line for line in done.stdout.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, tables)) <= columns
    assert "…" not in done.stdout


def test_a_file_of_anyones_shows_its_operators_and_tensors(tmp_path: Path) -> None:
    onnx_files.save(onnx_files.slow(), tmp_path / "slow.onnx")
    done = run_here("inspect", tmp_path)
    assert done.code == 0
    assert "not a network of Forwardpass' own: " in done.stdout
    assert "65,536 parameters" in done.stdout
    rows = cells(done.stdout)
    assert ["Loop", "1"] in rows
    assert ["input", "turns", "INT64", "[]", ""] in rows
    assert ["output", "y", "FLOAT", "[]", ""] in rows


@pytest.mark.parametrize("model", ["linear", "sequence", "without_its_weights", "constant"])
def test_any_model_is_shown(tmp_path: Path, model: str) -> None:
    onnx_files.save(getattr(onnx_files, model)(), tmp_path / "model.onnx")
    assert run_here("inspect", tmp_path / "model.onnx").code == 0


def test_an_axis_of_any_length_shows_as_such(tmp_path: Path) -> None:
    onnx_files.save(onnx_files.identity("FP32", [None, "n", 4]), tmp_path / "model.onnx")
    assert "[?, n, 4]" in run_here("inspect", tmp_path).stdout


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\x08\x08"])
def test_a_file_that_is_no_model_is_reported_after_the_others_were_shown(
    ours: Path, content: bytes
) -> None:
    (ours.parent / "aaa.onnx").write_bytes(content)
    done = run_here("inspect", ours.parent)
    assert done.code == 1
    assert done.error == f"{ours.parent / 'aaa.onnx'}: not an ONNX file"
    assert "adder version 1" in done.stdout
    assert "L_2" in done.stdout


def test_metadata_against_the_contract_are_reported(tmp_path: Path) -> None:
    onnx_files.save(onnx_files.linear({OUTPUTS: "[1]"}), tmp_path / "m.onnx")
    done = run_here("inspect", tmp_path)
    assert done.code == 1
    assert "'forwardpass.outputs'" in done.error


@pytest.mark.parametrize("path", ["nothing", "empty", "text.txt"])
def test_a_path_without_a_model_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    done = run_here("inspect", path, cwd=tmp_path)
    assert done.code == 1
    assert done.error.startswith(f"{path}: ")
    assert done.stdout == ""
