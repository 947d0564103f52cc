"""`forwardpass card`: to stdout or to a file, of anybody's file."""

from pathlib import Path

import pytest
from cli.conftest import adder
from support import onnx_files
from support.command import run_here

from forwardpass.models import card, export


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(adder(), tmp_path / "adder.onnx")
    onnx_files.save(onnx_files.linear(), tmp_path / "theirs.onnx")
    return tmp_path


def test_the_card_goes_to_stdout_or_to_a_file(folder: Path) -> None:
    done = run_here("card", "adder.onnx", cwd=folder)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout == card(folder / "adder.onnx")
    assert "| 0 | a | mm |" in done.stdout
    done = run_here("card", "theirs.onnx", "-o", "card.md", cwd=folder)
    assert (done.code, done.stdout) == (0, "wrote card.md\n")
    assert (folder / "card.md").read_text() == card(folder / "theirs.onnx")


def test_a_card_that_exists_is_replaced_only_on_request(folder: Path) -> None:
    (folder / "card.md").write_text("kept")
    refused = run_here("card", "adder.onnx", "-o", "card.md", cwd=folder)
    assert refused.code == 1
    assert "card.md exists already" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert (folder / "card.md").read_text() == "kept"
    assert run_here("card", "adder.onnx", "-o", "card.md", "--overwrite", cwd=folder).code == 0
    assert (folder / "card.md").read_text() == card(folder / "adder.onnx")


def test_what_is_no_model_or_not_there_is_refused(folder: Path) -> None:
    (folder / "text.onnx").write_text("text")
    for name, why in (("text.onnx", "not an ONNX model"), ("none.onnx", "No such file")):
        refused = run_here("card", name, cwd=folder)
        assert refused.code == 1
        assert why in refused.stderr


def test_describe_adds_parts_to_anybodys_file(folder: Path) -> None:
    parts = ("--provenance", "limits=adults alone", "--provenance", "data=a = b")
    done = run_here("describe", "theirs.onnx", "-o", "named.onnx", *parts, cwd=folder)
    assert done.code == 0, done.stderr
    text = run_here("card", "named.onnx", cwd=folder).stdout
    assert "## Limits\n\nadults alone\n" in text
    assert "## Data\n\na = b\n" in text
    refused = run_here(
        "describe", "theirs.onnx", "-o", "other.onnx", "--provenance", "limits", cwd=folder
    )
    assert refused.code == 2
    assert "--provenance limits: expected NAME=TEXT, got no name" in refused.stderr
