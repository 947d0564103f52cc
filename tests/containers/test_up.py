"""The way in: a clean checkout and one script."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from containers.machine import ROOT, Machine
from containers.stack import port_settings

from forwardpass.models import forward
from forwardpass.models.zoo import ZOO


@pytest.fixture
def checkout(host: Machine) -> Iterator[Path]:
    # Not in a folder of this machine's own that an engine might not see.
    folder = ROOT / ".cache" / "containers" / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    host.run("git", "clone", "-q", ROOT, folder)
    yield folder
    shutil.rmtree(folder)


def test_from_a_clean_checkout_one_script_prints_a_prediction_made_through_envoy(
    host: Machine, checkout: Path
) -> None:
    settings: dict[str, Any] = {
        **port_settings(),
        "COMPOSE_PROJECT_NAME": "forwardpass-up",
        "FORWARDPASS_IMAGE": "forwardpass-test/server:up",
    }
    try:
        said = host.run(checkout / "deploy" / "up.sh", "--stand-ins", **settings)
    finally:
        down = ("docker-compose", "-f", checkout / "docker-compose.yml", "down", "--volumes")
        host.run(*down, **settings)
        host.docker("rmi", settings["FORWARDPASS_IMAGE"], check=False)
    example = ZOO["linnerud"]
    expected = forward(example.network(), example.held_out().x[:3])
    for output, values in expected.items():
        (printed,) = re.findall(rf"{output}: float32\[3, 1\] = (.*)", said)
        numbers = [float(number) for number in re.findall(r"[\d.]+", printed)]
        np.testing.assert_allclose(numbers, values.ravel(), rtol=1e-5)
