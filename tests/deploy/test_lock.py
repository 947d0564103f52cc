"""The lock files of the image: complete, hashed, without an address."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "deploy" / "image").glob("*.lock"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(name: str) -> dict[str, Version]:
    text = (ROOT / "deploy" / "image" / name).read_text()
    pins = re.findall(r"^([\w.-]+)==([^ ]+) \\$", text, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in pins}


@pytest.mark.parametrize(
    ("lock", "asked"),
    [
        (
            "requirements.lock",
            PYPROJECT["project"]["dependencies"]
            + PYPROJECT["project"]["optional-dependencies"]["server"]
            + PYPROJECT["project"]["optional-dependencies"]["cli"],
        ),
        ("requirements-build.lock", PYPROJECT["build-system"]["requires"]),
    ],
)
def test_it_holds_what_is_asked_for_within_its_bounds(lock: str, asked: list[str]) -> None:
    pins = locked(lock)
    for requirement in map(Requirement, asked):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name}: run deploy/image/lock.sh"
        assert version in requirement.specifier, f"{requirement}: got {version}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_pin_is_hashed_and_no_address_is_named(lock: Path) -> None:
    text = lock.read_text()
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[^ ]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry), (
            entry
        )
    assert "/" not in text
    assert "index" not in text
