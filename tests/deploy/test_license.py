"""The license: in the repository, in the wheel, and in what the image is made of."""

import email
import re
import tomllib
import zipfile
from contextlib import chdir
from pathlib import Path

from hatchling.build import build_wheel

ROOT = Path(__file__).parents[2]
LICENSE = (ROOT / "LICENSE").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_carries_the_license_and_names_it(tmp_path: Path) -> None:
    with chdir(ROOT):
        name = build_wheel(str(tmp_path))
    with zipfile.ZipFile(tmp_path / name) as wheel:
        info = next(path for path in wheel.namelist() if path.endswith(".dist-info/METADATA"))
        folder = info.rpartition("/")[0]
        metadata = email.message_from_bytes(wheel.read(info))
        carried = wheel.read(f"{folder}/licenses/LICENSE").decode()

    assert carried == LICENSE
    assert metadata["License-Expression"] == PROJECT["license"]
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Author"] == "The Forwardpass authors"


def test_the_license_is_the_one_that_the_package_names() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in LICENSE
    assert LICENSE.rstrip().endswith("limitations under the License.")


def test_the_image_names_it_and_its_build_gets_the_text() -> None:
    labels = re.findall(
        r'org\.opencontainers\.image\.licenses="(.*)"', (ROOT / "Dockerfile").read_text()
    )
    assert labels == [PROJECT["license"]]
    # hatchling puts it into the wheel, which is what is installed.
    assert "!LICENSE" in (ROOT / ".dockerignore").read_text().splitlines()
