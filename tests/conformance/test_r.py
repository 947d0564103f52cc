"""R's nnet: its networks by the way of docs/r-and-matlab.md, and the page itself.

R and nnet are Debian's r-base-core and r-cran-nnet.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from conformance.conftest import PROGRAMS
from conformance.environments import ROOT
from docs.test_examples import test_the_examples_run_and_print_what_they_say as read
from numpy.typing import NDArray
from support.imported import assert_imported

from forwardpass.models import ActivationName, Dense, Input, Network, from_state


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nnet")
    command: list[str | Path] = ["Rscript", PROGRAMS / "nnet" / "train.R"]
    subprocess.run(command, check=True, cwd=folder, timeout=60)
    return folder


def test_the_page_runs_with_r(tmp_path: Path) -> None:
    subprocess.run(["Rscript", "--version"], check=True)
    read(ROOT / "docs" / "r-and-matlab.md", tmp_path)
    assert (tmp_path / "answers.csv").exists()


@pytest.mark.parametrize(
    ("name", "output", "skip"),
    [
        ("softmax", "softmax", False),
        ("skipping_softmax", "softmax", True),
        ("two_levels", "sigmoid", False),
        ("entropy", "sigmoid", False),
        ("factors", "sigmoid", False),
        ("linear", "identity", False),
        ("skipping", "identity", True),
        ("not_linear", "sigmoid", False),
        ("saturated", "identity", False),
    ],
)
def test_networks_of_nnet_have_the_answers_of_its_predict(
    trained: Path, name: str, output: ActivationName, skip: bool
) -> None:
    n_in, hidden, n_out = map(int, np.loadtxt(trained / f"{name}_n.csv"))
    wts = np.loadtxt(trained / f"{name}_wts.csv")
    x, y = (table(trained / f"{name}_{what}.csv") for what in "xy")
    first = wts[: hidden * (1 + n_in)].reshape(hidden, 1 + n_in)
    last = wts[first.size :].reshape(n_out, 1 + hidden + skip * n_in)

    if skip:
        layers = [
            Dense("hidden", activation="sigmoid", W=first[:, 1:], b=first[:, 0]),
            Dense("y", None, output, reads=("hidden", "x"), W=last[:, 1:], b=last[:, 0]),
        ]
        network = Network.define(Input(n_in), layers)
    else:
        state = {
            "1.weight": first[:, 1:],
            "1.bias": first[:, 0],
            "2.weight": last[:, 1:],
            "2.bias": last[:, 0],
        }
        network = from_state(state, ["sigmoid", output], check=(x, y))

    assert_imported(network, x.astype(np.float32), {"y": y})


@pytest.mark.parametrize("name", ["multinom", "two_multinom"])
def test_coefficients_of_multinom_are_one_layer(trained: Path, name: str) -> None:
    coef, x, y = (table(trained / f"{name}_{what}.csv") for what in ("coef", "x", "y"))
    two_levels = len(coef) == 1
    if not two_levels:
        coef = np.vstack([np.zeros(5), coef])
    state = {"1.weight": coef[:, 1:], "1.bias": coef[:, 0]}
    network = from_state(state, ["sigmoid" if two_levels else "softmax"], check=(x, y))
    assert_imported(network, x.astype(np.float32), {"y": y})


def table(path: Path) -> NDArray[np.float64]:
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
