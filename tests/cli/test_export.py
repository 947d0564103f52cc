"""`forwardpass export`: what it takes, what it writes, what it refuses."""

from pathlib import Path

import pytest
from support.command import run

from forwardpass.models import load
from forwardpass.models.zoo import ZOO

NETS = """
import beside
from forwardpass.models import Network

network = Network.chain([3, 4, 2], seed=beside.SEED, name="from_file")

def make():
    return network

def fails():
    return 1 / 0

wide = lambda: Network.chain([3, 0, 1])
text = "no network"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `nets.py`, a module that reads another one beside it."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "beside.py").write_text("SEED = 7\n")
    (tmp_path / "broken.py").write_text("network = (\n")
    return tmp_path


def test_an_example_becomes_a_file_that_reads_back_equal(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "linnerud.onnx"
    done = run("export", "linnerud", file)
    assert done.code == 0
    assert load(file) == ZOO["linnerud"].network()
    assert f"wrote {file} ({file.stat().st_size:,} bytes)" in done.stdout
    assert all(name in done.stdout for name in ("proven", "weight", "waist", "pulse", "bound"))


def test_a_repository_gets_version_after_version(tmp_path: Path) -> None:
    for version in (1, 2):
        done = run("export", "linnerud", tmp_path)
        assert done.code == 0
        assert f"{tmp_path}/linnerud/{version}/model.onnx" in done.stdout
    done = run("export", "linnerud", tmp_path, "--version", "9")
    assert done.code == 0
    assert sorted(path.name for path in (tmp_path / "linnerud").iterdir()) == ["1", "2", "9"]


@pytest.mark.parametrize("source", ["nets.py:network", "nets.py:make", "nets:network", "nets:make"])
def test_a_network_or_a_function_of_a_file_or_a_module_is_exported(
    folder: Path, source: str
) -> None:
    done = run("export", source, "models", cwd=folder)
    assert done.code == 0, done.stderr
    assert load(folder / "models" / "from_file" / "1" / "model.onnx").sizes == (3, 4, 2)


def test_a_file_is_found_by_its_path_with_what_lies_beside_it(folder: Path) -> None:
    assert run("export", folder / "nets.py:network", folder / "n.onnx", cwd=folder.parent).code == 0


@pytest.mark.parametrize(
    ("to", "options", "there"),
    [
        ("x.onnx", (), "x.onnx"),
        ("models", ("--version", "1"), "models/linnerud/1"),
    ],
)
def test_what_is_there_is_replaced_only_if_asked(
    tmp_path: Path, to: str, options: tuple[str, ...], there: str
) -> None:
    command = ("export", "linnerud", to, *options)
    assert run(*command, cwd=tmp_path).code == 0
    done = run(*command, cwd=tmp_path)
    assert done.code == 1
    assert done.error == f"{there} exists already; --overwrite replaces it"
    assert run(*command, "--overwrite", cwd=tmp_path).code == 0


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("breast", ("'breast'", "breast_cancer", "linnerud", "FILE.py:NAME")),
        ("none.py:network", ("none.py: no such file",)),
        ("no_such_module:network", ("ModuleNotFoundError", "no_such_module")),
        ("nets.py:nothing", ("AttributeError", "'nothing'")),
        ("nets.py:text", ("expected a Network", "got str")),
        ("nets.py:fails", ("nets.py, line 11", "ZeroDivisionError: division by zero")),
        ("nets.py:wide", ("nets.py, line 13", "NetworkError", "layer 'L2'", "got 0")),
        ("broken.py:network", ("SyntaxError", "broken.py, line 1")),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(
    folder: Path, source: str, texts: tuple[str, ...]
) -> None:
    done = run("export", source, "models", cwd=folder)
    assert done.code == 1
    assert all(text in done.error for text in texts), done.error
    assert done.stdout == ""
    assert not (folder / "models").exists()


def test_a_version_of_a_single_file_is_refused(tmp_path: Path) -> None:
    done = run("export", "linnerud", tmp_path / "x.onnx", "--version", "2")
    assert done.code == 2
    assert "versions belong to a repository" in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_repository_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    done = run("export", "linnerud", "models", cwd=tmp_path)
    assert (done.code, done.error) == (1, "models/linnerud: Not a directory")
