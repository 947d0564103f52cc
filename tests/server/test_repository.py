"""What a path offers to serve."""

from pathlib import Path

import pytest

from forwardpass.server.repository import ModelFile, RepositoryError, find_models


def touch(root: Path, *places: str) -> None:
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()


def found(root: Path) -> list[tuple[str, int, str]]:
    return [(m.name, m.version, str(m.path.relative_to(root))) for m in find_models(root)]


def test_a_file_is_one_model_under_its_stem(tmp_path: Path) -> None:
    touch(tmp_path, "iris.v2.onnx", "other.onnx")
    path = tmp_path / "iris.v2.onnx"

    assert find_models(path) == [ModelFile("iris.v2", 1, path)]


def test_a_directory_of_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.onnx", "a.onnx", "notes.txt", "c.onnx.bak", "d.pb")

    assert found(tmp_path) == [("a", 1, "a.onnx"), ("b", 1, "b.onnx")]


def test_a_repository_sorts_versions_as_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/model.onnx" for name in ("b/10", "b/9", "b/100", "a/3")))

    assert [(name, version) for name, version, _ in found(tmp_path)] == [
        ("a", 3),
        ("b", 9),
        ("b", 10),
        ("b", 100),
    ]


def test_both_in_one_directory(tmp_path: Path) -> None:
    touch(tmp_path, "a.onnx", "b/2/model.onnx")

    assert found(tmp_path) == [("a", 1, "a.onnx"), ("b", 2, "b/2/model.onnx")]


@pytest.mark.parametrize(
    "place",
    [
        "model/model.onnx",
        "model/0/model.onnx",
        "model/01/model.onnx",
        "model/-1/model.onnx",
        "model/v1/model.onnx",
        "model/1.0/model.onnx",
        "model/1/other.onnx",
        "model/1/model.onnx/model.onnx",
        "model/9999999999999999999/model.onnx",
        "model/\u0661/model.onnx",
        "deep/model/1/model.onnx",
        ".model/1/model.onnx",
        "model/.1.tmp/model.onnx",
        ".model.onnx",
        "model.ONNX.tmp",
    ],
)
def test_what_is_of_another_form_is_left_aside(tmp_path: Path, place: str) -> None:
    touch(tmp_path, "good/1/model.onnx", place)

    assert found(tmp_path) == [("good", 1, "good/1/model.onnx")]


def test_links_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/real.onnx")
    served = tmp_path / "served"
    (served / "model").mkdir(parents=True)
    (tmp_path / "elsewhere" / "model.onnx").symlink_to(tmp_path / "elsewhere" / "real.onnx")
    (served / "model" / "1").symlink_to(tmp_path / "elsewhere")
    (served / "gone.onnx").symlink_to(tmp_path / "nowhere.onnx")

    assert ("model", 1) in [(m.name, m.version) for m in find_models(served)]


@pytest.mark.parametrize("place", ["nowhere", "notes.txt", "empty", "empty.onnx.d"])
def test_a_path_that_offers_nothing_is_refused_by_name(tmp_path: Path, place: str) -> None:
    touch(tmp_path, "notes.txt", "empty/readme", "empty.onnx.d/1")

    with pytest.raises(RepositoryError, match=place):
        find_models(tmp_path / place)


def test_one_version_offered_by_two_files_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "model.onnx", "model/1/model.onnx")

    with pytest.raises(RepositoryError, match="model"):
        find_models(tmp_path)
