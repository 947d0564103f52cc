"""The image's bill of materials."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")


def sbom(root: Path) -> dict[str, Any]:
    """Run the program on this environment."""
    program = ROOT / "deploy" / "image" / "sbom.py"
    # As the image's build does: with an interpreter that has none of our packages.
    command = [sys.executable, "-I", "-S", str(program), sys.prefix, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_it_names_every_package_and_the_interpreter(tmp_path: Path) -> None:
    made = sbom(tmp_path)
    installed = {
        f"pkg:pypi/{canonicalize_name(each.metadata['Name'])}@{each.version}".replace("+", "%2B")
        for each in distributions(
            path=[str(p) for p in Path(sys.prefix).glob("lib/*/site-packages")]
        )
    }
    parts = {each["purl"] for each in made["components"]}
    ours = made["metadata"]["component"]
    assert ours["licenses"] == [{"expression": "Apache-2.0"}]
    version = ".".join(map(str, sys.version_info[:3]))
    assert {*parts, ours["purl"]} == {*installed, f"pkg:generic/python@{version}"}
    # Of each it is said that it is in there.
    assert set(made["dependencies"][0]["dependsOn"]) == parts


@pytest.mark.skipif(not Path("/var/lib/dpkg/info").exists() or not LIBC.exists(), reason="no dpkg")
def test_it_names_the_debian_packages_of_libraries_in_the_root(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / LIBC.parent.relative_to("/")
    folder.mkdir(parents=True)
    shutil.copy(LIBC, folder)
    debian = [each for each in sbom(tmp_path)["components"] if each["purl"].startswith("pkg:deb/")]
    assert [each["name"] for each in debian] == ["libc6"]
    assert "?arch=" in debian[0]["purl"]


def test_the_same_environment_has_the_same_file(tmp_path: Path) -> None:
    assert sbom(tmp_path) == sbom(tmp_path)
