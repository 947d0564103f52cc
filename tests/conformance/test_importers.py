"""The importers against PyTorch, Keras and skl2onnx, which are too large for every run."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.environments import ROOT
from conformance.importing import CATEGORIES, JAX, POLICIES, SBX, check


@pytest.mark.parametrize("tests", ["models/importers/libraries", "docs/test_examples.py"])
def test_torch_and_keras_models_become_networks_with_their_answers(
    environment: Callable[..., Path], tests: str
) -> None:
    python = environment(
        "torch==2.13.*",
        "keras>=3",
        "onnxscript>=0.5",
        "skl2onnx>=1.19",
        "skops>=0.13",
        "-e",
        f"{ROOT}[dev]",
    )
    others = [f"--ignore={file}" for file in (CATEGORIES, JAX, POLICIES, SBX)]
    check(python, "-k", "importers", *others, ROOT / "tests" / tests)


def test_sixty_pipelines_are_right_or_refused_as_documented_beside_skl2onnx(
    environment: Callable[..., Path],
) -> None:
    python = environment("skl2onnx==1.20.0", "scikit-learn==1.9.1", "-e", f"{ROOT}[dev]")
    done = subprocess.run(
        [python, "-m", "benchmarks.skl2onnx"], capture_output=True, text=True, cwd=ROOT
    )
    print(done.stdout, done.stderr)
    *rows, last = (line for line in done.stdout.splitlines() if line.count(" | ") == 3)
    documented = (ROOT / "docs" / "importers.md").read_text()
    assert len(rows) == 60
    assert [row for row in [*rows, last] if f"| {row} |" not in documented] == []
    ours = [row.split(" | ")[2].split()[0] for row in rows]
    assert "wrong" not in ours
    assert ours.count("right") >= 55
