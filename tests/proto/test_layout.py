"""Each folder holds one portion of the namespace package, and nothing that hides the others."""

import importlib
import zipfile
from contextlib import chdir
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORTIONS = ["proto", "models", "server", "client", "cli"]


@pytest.mark.parametrize("portion", PORTIONS)
def test_a_root_holds_its_portion_alone(portion: str) -> None:
    package = ROOT / portion / "forwardpass"

    assert not (ROOT / portion / "__init__.py").exists()
    # Would hide the other four.
    assert not (package / "__init__.py").exists()
    # What `forwardpass.batch` does in an engine's workers is a client's.
    beside = {"batch"} if portion == "client" else set()
    assert {path.name for path in package.iterdir()} - {"__pycache__"} == {portion} | beside


@pytest.mark.parametrize("portion", PORTIONS)
def test_a_portion_is_a_typed_package(portion: str) -> None:
    package = ROOT / portion / "forwardpass" / portion

    assert (package / "__init__.py").is_file()
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize("portion", PORTIONS)
def test_a_portion_is_imported_from_its_root(portion: str) -> None:
    module = importlib.import_module(f"forwardpass.{portion}")

    assert module.__file__ is not None
    assert Path(module.__file__).parent == ROOT / portion / "forwardpass" / portion


def test_the_wheel_holds_every_portion() -> None:
    listed = (ROOT / "pyproject.toml").read_text()

    for portion in PORTIONS:
        assert f'"{portion}/forwardpass"' in listed


def test_the_wheel_holds_the_files_of_the_page(tmp_path: Path) -> None:
    from hatchling.build import build_wheel

    folder = ROOT / "server" / "forwardpass" / "server" / "rpc" / "page" / "assets"
    with chdir(ROOT):
        name = build_wheel(str(tmp_path))
    with zipfile.ZipFile(tmp_path / name) as wheel:
        held = set(wheel.namelist())

    assert (folder / "index.html").is_file()
    for file in folder.iterdir():
        assert f"forwardpass/server/rpc/page/assets/{file.name}" in held
