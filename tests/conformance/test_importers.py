"""The importers against PyTorch, Keras and skl2onnx, which are too large for every run."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.environments import ROOT

# Keras' own, with NumPy 2, and torch.export's.
IGNORED = (
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:`isinstance(treespec:FutureWarning",
)


LIBRARIES = ROOT / "tests" / "models" / "importers" / "libraries"
CATEGORIES, JAX, POLICIES, SBX = (
    LIBRARIES / f"test_{name}.py" for name in ("keras_categories", "jax", "policies", "sbx")
)


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


def test_lookups_of_keras_become_inputs_of_categories(environment: Callable[..., Path]) -> None:
    # They run on TensorFlow whatever the backend; other backends hand no texts to a model.
    python = environment("tensorflow-cpu==2.21.*", "keras==3.15.*", "-e", f"{ROOT}[dev]")
    check(python, CATEGORIES, backend="tensorflow")


def test_jax_networks_become_networks_with_their_answers(
    environment: Callable[..., Path],
) -> None:
    # Each in an environment of its own: of several libraries one would hold back the others.
    check(
        environment("jax2onnx==0.17.1", "flax", "equinox", "dm-haiku==0.0.*", "-e", f"{ROOT}[dev]"),
        JAX,
    )


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


def test_policies_become_networks_with_their_actions(environment: Callable[..., Path]) -> None:
    python = environment(
        "torch==2.13.*", "stable-baselines3==2.9.*", "rsl-rl-lib==5.5.*", "-e", f"{ROOT}[dev]"
    )
    check(python, "-k", "importers", POLICIES, ROOT / "tests" / "docs" / "test_examples.py")
    check(environment("torch==2.13.*", "sbx-rl==0.28.*", "-e", f"{ROOT}[dev]"), SBX)


def check(python: Path, *arguments: str | Path, backend: str = "torch") -> None:
    """Run tests in an environment, which has to have what they need."""
    warnings = [part for each in IGNORED for part in ("-W", each)]
    done = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", *warnings, *arguments],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]
